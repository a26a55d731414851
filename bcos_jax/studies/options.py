"""Options of B-cosification: an ablation study (arXiv 2411.00715, section 3).

Six differences, each switched alone, and ways to change B and the biases other than at once.
"""

from __future__ import annotations

from .. import InputError, render
from .lab import Lab, Measures
from .study import Findings
from .tables import Table

PUBLISHED = "B-cosified as published"


def options(steps: int, colors: int) -> dict[str, tuple[str, ...]]:
  """Returns each variant's name and its overrides of the recipe.

  Args:
    steps: Of the fine-tuning.
    colors: Channels of a picture.
  """
  learned = ("ops.b=1.0", "ops.learn_b=True")
  plain = (
    "ops.encoding.pairing=complement",
    f"ops.encoding.mean={(0.0,) * colors}",
    f"ops.encoding.std={(1.0,) * colors}",
  )
  return {
    PUBLISHED: (),
    "input without complement channels": ("ops.encoding.pairing=none",),
    "input not normalised": plain,
    "unit-norm weights": ("ops.weights=unit",),
    "no activations": ("ops.keep_activations=False", "ops.keep_last_activation=False"),
    "B=1": ("ops.b=1.0",),
    "biases kept": ("ops.use_bias=True",),
    "biases decayed": ("ops.use_bias=True", "optimizer.bias_decay=1.0"),
    "B from 1 to 2 in half the steps": (*learned, f"optimizer.b_schedule.steps={steps // 2}"),
    "B learned from 1, drawn to 2": (*learned, "optimizer.b_decay=0.1"),
    "max pooling kept": ("ops.pool=max",),
    "centred norms": ("ops.norm=batch",),
  }


def study(lab: Lab) -> Findings:
  """B-cosifies one pretrained network with one option changed at a time, and fine-tunes each."""
  setting, found, left_out = lab.setting, {}, {}
  for name, changes in options(setting.finetune, lab.pictures.images.shape[-1]).items():
    overrides = [f"--config.{change}" for change in changes]
    try:
      result = lab.bcosified(*overrides)
    except InputError as refusal:  # Such as pooling, of a network that pools nowhere.
      if name == PUBLISHED:
        raise
      left_out[name] = refusal.cause
      continue
    found[name] = (lab.before_fine_tuning(*overrides), lab.measures(result))
    lab.say(f"  {name}: accuracy {found[name][1].accuracy:.1%}")
  own = found[PUBLISHED][1]
  return Findings(
    title=f"Options of B-cosification, {lab.dataset}",
    question="One pretrained conventional network "
    f"({lab.conventional().metrics['accuracy']:.1%}) is B-cosified as published (six-channel "
    "normalised input, plain weights, activations kept, B=2 and biases removed at once), and "
    f"with one option changed at a time; each is fine-tuned for {setting.finetune} steps. The "
    "bias share is that part of what adds up to an output which is no pixel's. Grid pointing "
    f"game: {setting.grid}x{setting.grid}, at most {setting.num_grids} grids.",
    table=Table(
      {
        "variant": "",
        "accuracy before": ".1%",
        "accuracy": ".1%",
        "grid pointing": ".3f",
        "±": ".3f",
        "energy pointing": ".3f",
        "bias share": ".1%",
      },
      [
        (
          name,
          start,
          m.accuracy,
          m.grid_pointing,
          m.grid_pointing_error,
          m.energy_pointing,
          m.bias_share,
        )
        for name, (start, m) in found.items()
      ],
    ),
    answer=(
      f"As published: accuracy {own.accuracy:.1%}, "
      f"{own.bias_share:.1%} of what adds up to an output is no pixel's.",
      *_against(own, {name: m for name, (_, m) in found.items() if name != PUBLISHED}),
      *(f"Left out: {name}. {cause}" for name, cause in left_out.items()),
    ),
    plots=_plots({name: m for name, (_, m) in found.items()}, lab),
  )


def _against(own: Measures, others: dict[str, Measures]) -> tuple[str, ...]:
  better = [name for name, m in others.items() if m.accuracy > own.accuracy]
  more = f"More accurate: {', '.join(better)}." if better else "No variant is more accurate."
  if own.grid_pointing is None:
    return (more,)
  points = [name for name, m in others.items() if (m.grid_pointing or 0) > own.grid_pointing]
  return (
    more,
    f"Better grid pointing: {', '.join(points)}." if points else "No variant points better.",
  )


def _plots(found: dict[str, Measures], lab: Lab):
  plots = {
    "options-accuracy": (
      "Accuracy after fine-tuning, by option",
      render.bars(
        {name: m.accuracy for name, m in found.items()}, marked=[PUBLISHED], x="accuracy"
      ),
    )
  }
  pointing = {
    name: (m.grid_pointing, m.grid_pointing_error)
    for name, m in found.items()
    if m.grid_pointing is not None
  }
  if pointing:
    plots["options-pointing"] = (
      "Grid pointing score, by option",
      render.bars(
        {name: score for name, (score, _) in pointing.items()},
        errors={name: error for name, (_, error) in pointing.items() if error is not None},
        marked=[PUBLISHED],
        levels={"uniform map": 1 / lab.setting.grid**2},
        x="grid pointing score",
      ),
    )
  return plots
