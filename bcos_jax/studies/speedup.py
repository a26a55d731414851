"""Training steps that B-cosification saves: a study (arXiv 2411.00715, table 1)."""

from __future__ import annotations

from .. import render
from ..train.loop import TrainResult
from .lab import Lab
from .study import Findings
from .tables import Table


def study(lab: Lab) -> Findings:
  """Fine-tunes a B-cosified network and trains the same one from scratch, for equal steps."""
  runs = {"B-cosified": lab.bcosified(), "from scratch": lab.scratch()}
  before = lab.conventional()
  steps = lab.setting.finetune
  final = {name: result.metrics["accuracy"] for name, result in runs.items()}
  goal = final["from scratch"]
  reached = first_step(runs["B-cosified"], goal)
  rows = [
    ("conventional, pretrained", lab.setting.pretrain, before.metrics["accuracy"], None),
    *((name, steps, final[name], first_step(result, goal)) for name, result in runs.items()),
  ]
  if reached is None:
    answer = f"The B-cosified network did not reach {goal:.1%} in {steps} steps."
  else:
    answer = (
      f"The B-cosified network reached the accuracy of the network from scratch ({goal:.1%} after "
      f"{steps} steps) after {reached} steps: {steps / reached:.1f} times faster."
    )
  caption = "Accuracy on the test set while training"
  return Findings(
    title=f"Speed-up: B-cosified against B-cos from scratch, {lab.dataset}",
    question=f"The same B-cos network (B=2, no biases) trains for {steps} steps, once from the "
    f"pretrained conventional network and once from random weights, each with the recipe of "
    f"`configs/{lab.dataset}.py`; accuracy on the test set every {lab.setting.eval_every} "
    f"steps. The pretraining, of {lab.setting.pretrain} steps, is not counted, as in the paper.",
    table=Table(
      {"network": "", "steps": "d", "accuracy": ".1%", "first step at the scratch accuracy": "d"},
      rows,
    ),
    answer=(answer,),
    plots={
      "speedup": (
        caption,
        render.curves(
          [
            render.Panel(
              curves={name: _history(result) for name, result in runs.items()},
              x="steps",
              y="accuracy",
              percent=True,
              levels={"conventional": before.metrics["accuracy"]},
            )
          ]
        ),
      )
    },
  )


def first_step(result: TrainResult, accuracy: float) -> int | None:
  """Returns the first evaluated step at which a run was that accurate, if there is one."""
  return next((int(row["step"]) for row in result.history if row["accuracy"] >= accuracy), None)


def _history(result: TrainResult) -> tuple[list[float], list[float]]:
  return [row["step"] for row in result.history], [row["accuracy"] for row in result.history]
