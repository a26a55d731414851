"""What a quickstart measured, and its table."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuickstartFindings:
  """What a quickstart measured.

  Attributes:
    accuracy: On the test digits, by network: conventional, bcosified_at_start, closed_form,
      bcosified, scratch.
    equivalence: Largest difference of a logit between the conventional network and its B-cos twin
      at B=1, relative to the largest logit.
    steps: Fine-tuning steps, which are also the steps of the network from scratch.
    steps_to_scratch: First evaluated step at which the B-cosified network was at least as
      accurate as the one from scratch at its end; None if it never was.
    pictures: Unlabelled training digits from which the network in closed form was made.
    pointing: Grid pointing scores: bcos, closed_form, input_x_gradient (of the conventional
      network), random, uniform.
    pointing_grids: Number of grids played.
    completeness: Worst |value - contributions - named residuals| of an explanation, relative.
    seconds: Wall time.
  """

  accuracy: dict[str, float]
  equivalence: float
  steps: int
  steps_to_scratch: int | None
  pictures: int
  pointing: dict[str, float]
  pointing_grids: int
  completeness: float
  seconds: float

  @property
  def speedup(self) -> float | None:
    """Steps from scratch over steps to the same accuracy (arXiv 2411.00715, table 1)."""
    return self.steps / self.steps_to_scratch if self.steps_to_scratch else None

  def table(self) -> list[tuple[str, str]]:
    """Rows of (what, how much)."""
    acc, points = self.accuracy, self.pointing
    reached = (
      "not reached"
      if self.speedup is None
      else (f"{self.steps_to_scratch} of {self.steps} ({self.speedup:.1f} times faster)")
    )
    return [
      ("", "measured"),
      ("accuracy, conventional network", f"{acc['conventional']:.1%}"),
      ("accuracy, its B-cos twin before fine-tuning", f"{acc['bcosified_at_start']:.1%}"),
      (
        f"accuracy, B-cosified in closed form: no labels, no training ({self.pictures} pictures)",
        f"{acc['closed_form']:.1%}",
      ),
      ("accuracy, B-cosified and fine-tuned", f"{acc['bcosified']:.1%}"),
      ("accuracy, B-cos from scratch, equal steps", f"{acc['scratch']:.1%}"),
      ("fine-tuning steps to the accuracy from scratch", reached),
      ("difference of the logits at B=1, relative", f"{self.equivalence:.1e}"),
      (
        f"grid pointing score, in closed form / fine-tuned ({self.pointing_grids} grids)",
        f"{points['closed_form']:.3f} / {points['bcos']:.3f}",
      ),
      ("grid pointing score, input x gradient, conventional", f"{points['input_x_gradient']:.3f}"),
      (
        "grid pointing score, random / uniform map",
        f"{points['random']:.3f} / {points['uniform']:.3f}",
      ),
      ("worst completeness error of an explanation, relative", f"{self.completeness:.1e}"),
      ("time", f"{self.seconds:.0f} s"),
    ]
