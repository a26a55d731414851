"""HTML reports of evaluations: metrics, curves, and explained predictions."""

from __future__ import annotations

from collections.abc import Mapping
import os

from bcos_jax import metrics, render
from bcos_jax.io.bundles import Bundle

from ..data import pipeline
from . import showcase
from .image_metrics import Measured

_CURVES = {
  "deletion": "Output for the class while the most important blocks go",
  "insertion": "Output for the class while the most important blocks come",
}


def write(
  path: str | os.PathLike,
  bundle: Bundle,
  examples: pipeline.Examples,
  accuracy: float | None,
  found: Mapping[str, Measured],
  *,
  batch_size: int = 64,
) -> None:
  """Writes a report that opens offline.

  Args:
    path: File to write, replaced as a whole.
    bundle: The network.
    examples: Of the data set it was evaluated on.
    accuracy: On all of them, None if it was not measured.
    found: Metric to what `measure` found.
    batch_size: Images at a time.

  Raises:
    InputError: The file cannot be written.
  """
  name = examples.dataset.name
  predicted = showcase.predict(
    bundle, examples, softmax=bundle.model.ops.probability == "softmax", batch_size=batch_size
  )
  wrong, right = showcase.choose(predicted)
  render.report(
    path,
    f"{bundle.config['architecture']} on {name}",
    showcase.entries(bundle, examples, predicted, wrong, right),
    intro=f"Measured on {len(examples)} pictures of {name}. Each metric stands beside what a "
    "random map and an oracle score on the same pictures. Below are "
    f"{len(wrong)} predictions that are wrong, the surest first, and {len(right)} that are right. "
    "Of a wrong one, the predicted class is contrasted with the true one.",
    summary=_rows(accuracy, found),
    plots=_plots(found),
    options=render.options_of(bundle),
  )


def _rows(accuracy: float | None, found: Mapping[str, Measured]) -> list[tuple[str, ...]]:
  rows: list[tuple[str, ...]] = [
    ("metric", "mean", "standard error", "random map", "oracle", "scored")
  ]
  if accuracy is not None:
    rows.append(("accuracy", f"{accuracy:.4f}", "", "", "", ""))
  for name, result in found.items():
    numbers = result.summary()
    scored = numbers.get("num_scored", numbers.get("num_grids"))
    rows.append(
      (
        name.replace("_", " "),
        *(_number(numbers.get(key)) for key in ("mean", "standard_error", "random", "oracle")),
        f"{scored:.0f}",
      )
    )
  return rows


def _number(value: float | None) -> str:
  return "" if value is None else f"{value:.4g}"


def _plots(found: Mapping[str, Measured]) -> dict:
  plots = {}
  for name, caption in _CURVES.items():
    result = found.get(name)
    if not isinstance(result, metrics.CurveScores):
      continue
    curves = {"explanation": result.curves, "random": result.random_curves}
    if result.oracle_curves is not None:
      curves["oracle"] = result.oracle_curves
    panel = render.Panel(
      curves={by: (result.fractions, curve.mean(axis=0)) for by, curve in curves.items()},
      x="share of the blocks",
      y="mean output",
    )
    plots[f"{name.capitalize()}. {caption}."] = render.curves([panel])
  return plots
