"""Robustness to attacks and corruptions: a study (left open in arXiv 2411.00715)."""

from __future__ import annotations

from ..lab import Lab
from ..study import Findings
from . import adapted, plain, summary
from .rows import ChangeRow, changed_row, rivals


def study(lab: Lab) -> Findings:
  """Attacks and corrupts pictures, and compares a conventional network with its B-cosified twin."""
  networks = rivals(lab.conventional(), lab.bcosified())
  some = lab.pictures.some(lab.setting.num_images)
  length = adapted.AttackLength(5, 20) if lab.short else adapted.AttackLength()
  colors, radii = some.images.shape[-1], plain.radii(lab.dataset)
  rows: list[ChangeRow] = []

  def add(*found: ChangeRow) -> None:
    for row in found:
      rows.append(row)
      read = ("–" if accuracy is None else f"{accuracy:.1%}" for accuracy in row.accuracies)
      lab.say(f"  {row.change} {row.strength}: {', '.join(read)}")

  changes = list(plain.changes(lab.dataset, colors, lab.seed))
  attacks = [change for change in changes if change[0] in ("none", *plain.ATTACKS)]
  for change in attacks:
    add(changed_row(*change, networks, some))
  worst = []
  for epsilon in radii:
    radius, found = adapted.attacked(networks, some, epsilon, length, lab.seed)
    worst.append(radius)
    add(*found)
  add(adapted.unbounded(networks, some, length, lab.seed))
  for epsilon in radii:
    add(*adapted.manipulated(networks, some, epsilon, length, lab.seed))
  for change in changes[len(attacks) :]:
    add(changed_row(*change, networks, some))
  names = tuple(map(plain.spoken, plain.corruptions(colors)))
  return Findings(
    title=f"Robustness: conventional and B-cosified, {lab.dataset}",
    question=_question(len(some.images), length),
    table=summary.table(rows),
    answer=summary.answer(rows, worst, names),
    plots={"robustness": ("Accuracy under attack, and explanations", summary.plot(rows, radii))},
  )


def _question(count: int, length: adapted.AttackLength) -> str:
  return (
    f"{count} test pictures are attacked, or corrupted, both networks alike. Plain attacks climb "
    f"each network's own gradient (margin loss, PGD of {plain.STEPS} steps from a random start). "
    f"Adapted ones have {length.steps} steps: PGD and Auto-PGD (APGD) with three losses; APGD "
    "along the linear map W(x) of the explanation, and, of the B-cosified network only, along the "
    f"gradient at B = 1; the Square attack, {length.queries} queries without gradients; and "
    "pictures made with the other network. In the worst case a picture counts as withstood only "
    "if all these failed. Radii are in colour values from 0 to 1; of l2 over the whole picture. "
    "The similarity is Spearman's rank correlation of the explanation of the true class before "
    "and after: the B-cosified network's own, and input x gradient of the conventional network. "
    "Manipulations keep the prediction and, within a tenth of their spread, the logits, and "
    "change the explanation of the predicted class as much as they can; random signs change every "
    "value by as much, and at random."
  )
