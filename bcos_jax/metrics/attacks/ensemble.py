"""Several attacks on the same pictures: what withstands an attack is what withstands all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import numpy as np

from ...batches import Progress
from ...errors import InputError
from ...inputs import check_images
from ..scores import check_targets, logits_of
from .adaptive import apgd
from .gradient import pgd
from .square import square_attack

Network = tuple[nn.Module, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorstCase:
  """What attacks did to N pictures, each alone and all together.

  Attributes:
    images: [N, H, W, colors], the worst version of each picture, the unchanged one included:
      the first that is classified wrongly, else that of the smallest lead of the true class.
    targets: int [N], the true classes.
    clean: bool [N], whether the unchanged picture is classified rightly.
    withstood: Attack to bool [N], whether its picture is classified rightly.
  """

  images: np.ndarray
  targets: np.ndarray
  clean: np.ndarray
  withstood: Mapping[str, np.ndarray]

  @property
  def all_withstood(self) -> np.ndarray:
    """bool [N], whether the unchanged picture and every changed one are classified rightly."""
    return np.logical_and.reduce([self.clean, *self.withstood.values()])

  @property
  def accuracy(self) -> float:
    """The share of all pictures that withstood every attack."""
    return float(self.all_withstood.mean())

  @property
  def success(self) -> float:
    """The share of rightly classified pictures that some attack turned; NaN if there are none."""
    right = int(self.clean.sum())
    return 1 - int(self.all_withstood.sum()) / right if right else float("nan")

  def accuracies(self) -> dict[str, float]:
    """Returns the accuracy after each attack alone."""
    return {name: float(held.mean()) for name, held in self.withstood.items()}

  def summary(self) -> dict[str, float]:
    """The contents of a report, as plain numbers."""
    return {
      "accuracy": float(self.clean.mean()),
      **{f"accuracy, {name}": value for name, value in self.accuracies().items()},
      "worst-case accuracy": self.accuracy,
      "success": self.success,
      "num_images": len(self.targets),
      "num_correct": int(self.clean.sum()),
    }


def worst_case(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  changed: Mapping[str, np.ndarray],
  *,
  batch_size: int = 64,
) -> WorstCase:
  """Takes for each picture the attack that was worst for it (arXiv 2003.01690, section 5).

  Args:
    model, variables: The network.
    images: [N, H, W, colors] in [0, 1].
    targets: int [N], the true classes.
    changed: Attack to the pictures that it made of the images; also of another network's, which is
      then an attack by transfer.
    batch_size: Images at once.

  Raises:
    InputError: No attack, pictures of another shape, or inputs that cannot be used.
  """
  if not changed:
    raise InputError("changed has no attack, expected at least one.", "Pass {'pgd': pictures}.")
  images = check_images(images, model.ops.encoding)
  targets = check_targets(targets, len(images))
  lead = _lead(model, variables, images, targets, batch_size)
  worst, lowest, clean, withstood = images.copy(), lead, lead > 0, {}
  for name, pictures in changed.items():
    if np.shape(pictures) != images.shape:
      raise InputError(
        f"Pictures of {name!r} have shape {np.shape(pictures)}, expected {images.shape}.",
        "Pass each image's changed version at the same index.",
      )
    lead = _lead(model, variables, check_images(pictures, model.ops.encoding), targets, batch_size)
    withstood[name] = lead > 0
    worse = (lowest > 0) & (lead < lowest)
    worst[worse], lowest = pictures[worse], np.where(worse, lead, lowest)
  return WorstCase(images=worst, targets=targets, clean=clean, withstood=withstood)


def _lead(model, variables, images, targets, batch_size) -> np.ndarray:
  """Returns by how much the logit of the true class leads, [N]; above 0 if it is predicted.

  Of logits that are equal, the first is the prediction, as `argmax` has it.
  """
  logits = logits_of(model, variables, images, batch_size)
  check_targets(targets, *logits.shape)
  rows = np.arange(len(images))
  true = logits[rows, targets]
  others = logits.copy()
  others[rows, targets] = -np.inf
  lead = true - others.max(axis=1)
  tied = (lead == 0) & (logits.argmax(axis=1) == targets)
  return np.where(tied, np.finfo(np.float32).tiny, lead)


def adapted_attacks(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  epsilon: float | None = None,
  steps: int = 50,
  queries: int = 300,
  others: Mapping[str, Network] | None = None,
  batch_size: int = 32,
  seed: int = 0,
  progress: Progress = iter,
) -> dict[str, np.ndarray]:
  """Attacks a network in all the ways that plain PGD may miss; for `worst_case`.

  PGD and Auto-PGD along the network's own gradient, Auto-PGD along its linear map W(x) and, for
  a B-cos network, along the gradient at B = 1; the Square attack; and pictures that Auto-PGD makes
  of each other network.

  Args:
    model, variables, images, targets, epsilon: As for `fgsm`; the change is measured in "linf".
    steps: Gradients of each attack.
    queries: Of the Square attack.
    others: Name to another network of the same pictures and classes.
    batch_size, progress: As for `fgsm`.
    seed: Of all starts and of the search.

  Returns:
    Attack to changed images, float32 [N, H, W, colors].

  Raises:
    InputError: As for `apgd`.
  """
  given: dict[str, Any] = {
    "epsilon": epsilon,
    "batch_size": batch_size,
    "seed": seed,
    "progress": progress,
  }
  climbs: dict[str, Any] = given | {"steps": steps}

  def run(attack: Callable[..., np.ndarray], **settings: Any) -> np.ndarray:
    return attack(model, variables, images, targets, **settings)

  found = {
    "PGD, margin": run(pgd, loss="margin", **climbs),
    "APGD, cross-entropy": run(apgd, loss="cross_entropy", **climbs),
    "APGD, ratio": run(apgd, **climbs),
    "APGD, W(x)": run(apgd, slopes="held", loss="margin", **climbs),
  }
  if not model.ops.conventional:
    found["APGD, B = 1"] = run(apgd, slopes="linear", loss="margin", **climbs)
  found["Square"] = run(square_attack, queries=queries, **given)
  for name, network in (others or {}).items():
    found[f"transfer from {name}"] = apgd(*network, images, targets, loss="margin", **climbs)
  return found
