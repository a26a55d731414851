"""Input checks and result types shared by all metrics.

A metric takes explanations as `maps`: either maps [N, H, W] that were computed anywhere, or an
explainer, a function `(images [N, H, W, colors], targets [N]) -> maps [N, H, W]`. It returns one
score per image, with the random and oracle baselines, and states which
images it could not score, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
from typing import Any, ClassVar, TypeVar

from flax import linen as nn
import jax
import numpy as np

from .. import compiling
from ..batches import in_batches
from ..errors import InputError

Explainer = Callable[[np.ndarray, np.ndarray], np.ndarray]
Maps = Explainer | np.ndarray
Result = TypeVar("Result", bound="Scored")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """Scores of explanations, one by one, of images (`Scores`) or of texts (`TextScores`).

  Attributes:
    things: What the explanations are of, 'images' or 'texts'.
    scores: [M] floats, of the M explanations that could be scored.
    random_scores: [M], of Gaussian noise in their place.
    oracle_scores: [M], of the best explanation known for each; see the metric. None where that
      was not asked for.
    higher_is_better: Whether the oracle scores high.
    excluded: Reason to the number of explanations that it kept from being scored.
  """

  scores: np.ndarray
  random_scores: np.ndarray
  oracle_scores: np.ndarray | None
  things: ClassVar[str]
  higher_is_better: bool
  excluded: dict[str, int]

  @property
  def mean(self) -> float:
    return float(self.scores.mean())

  @property
  def random(self) -> float:
    """The mean score of random maps, measured on these images."""
    return float(self.random_scores.mean())

  @property
  def oracle(self) -> float | None:
    """The mean score of the best maps known."""
    return None if self.oracle_scores is None else float(self.oracle_scores.mean())

  @property
  def standard_error(self) -> float:
    """That of the mean; NaN for a single image."""
    count = len(self.scores)
    return float(self.scores.std(ddof=1) / count**0.5) if count > 1 else float("nan")

  def summary(self) -> dict[str, float]:
    """The contents of a report, as plain numbers."""
    return {
      "mean": self.mean,
      **({"standard_error": self.standard_error} if len(self.scores) > 1 else {}),
      "random": self.random,
      **({} if self.oracle is None else {"oracle": self.oracle}),
      "num_scored": len(self.scores),
      **self._counts(),
      **{f"excluded: {reason}": count for reason, count in self.excluded.items()},
    }

  def _counts(self) -> dict[str, float]:
    """What was given, and how much of it."""
    return {f"num_{self.things}": getattr(self, f"num_{self.things}")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores(Scored):
  """Scores of explanations, image by image.

  Attributes:
    images: [M] ints, which of the given images these are.
    num_images: Number of images given.
  """

  things: ClassVar[str] = "images"
  images: np.ndarray
  num_images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextScores(Scored):
  """Scores of explanations, text by text.

  Attributes:
    texts: [M] ints, which of the given texts (or pairs of texts) these are.
    num_texts: Number of texts (or pairs) given.
  """

  things: ClassVar[str] = "texts"
  texts: np.ndarray
  num_texts: int


def assembled(
  result: type[Result], reasons: Mapping[str, Any], rows: Mapping[str, Any], **whole: Any
) -> Result:
  """Returns the scores of those inputs that no reason excludes.

  Args:
    result: `Scores`, `TextScores`, or a class of theirs with more fields.
    reasons: As for `usable`, bool [N].
    rows: Fields of the result, arrays [N, ...] or trees of such, without the rows that are
      excluded; among them `scores`, `random_scores` and `oracle_scores`. One number of the last is
      the oracle's score of every input, and None stays.
    **whole: Fields that stay as they are; among them `higher_is_better`.

  Raises:
    InputError: Every input is excluded.
  """
  kept, excluded = usable(reasons, result.things)
  count = len(next(iter(reasons.values())))
  rows = dict(rows)
  if isinstance(rows["oracle_scores"], int | float):
    rows["oracle_scores"] = np.full(count, float(rows["oracle_scores"]))
  picked = jax.tree.map(lambda leaf: leaf[kept], rows)
  numbers = {result.things: kept, f"num_{result.things}": count}
  return result(excluded=excluded, **numbers, **picked, **whole)


def with_baselines(
  result: type[Result],
  measure: Callable[[np.ndarray], np.ndarray],
  maps: np.ndarray,
  *,
  oracle: float | np.ndarray,
  reasons: Mapping[str, Any],
  seed: int,
  noise: np.ndarray | None = None,
  rows: Mapping[str, Any] | None = None,
  **whole: Any,
) -> Result:
  """Scores explanations beside random ones and the oracle's, of images and texts alike.

  Args:
    result: As for `assembled`.
    measure: maps [N, ...] -> scores [N]; that of an excluded input may be anything.
    maps: The explanations, [N, ...].
    oracle: The best score, or the best maps [N, ...].
    reasons: As for `usable`.
    seed: Of the random maps.
    noise: Random maps [N, ...]; None for Gaussian noise.
    rows: Further fields, as for `assembled`.
    **whole: Further fields, as for `assembled`; among them `higher_is_better`.

  Raises:
    InputError: Every input is excluded.
  """
  usable(reasons, result.things)
  if noise is None:
    noise = random_maps(seed, range(len(maps)), maps.shape[1:])
  with np.errstate(invalid="ignore", divide="ignore"):
    scores, random_scores = measure(maps), measure(noise)
    best = measure(oracle) if isinstance(oracle, np.ndarray) else oracle
  compared = {"scores": scores, "random_scores": random_scores, "oracle_scores": best}
  return assembled(result, reasons, {**compared, **(rows or {})}, **whole)


def usable(reasons: Mapping[str, Any], things: str = "images") -> tuple[np.ndarray, dict[str, int]]:
  """Finds the images, or other things, that no reason excludes.

  Args:
    reasons: Reason to bool [N], True where it excludes one. The first one counts.
    things: Their name in messages.

  Returns:
    (numbers of those left, reason to count; reasons that excluded nothing are left out).

  Raises:
    InputError: None is left.
  """
  out = np.zeros(len(next(iter(reasons.values()))), bool)
  counts = {}
  for reason, holds in reasons.items():
    new = int((holds & ~out).sum())
    if new:
      counts[reason] = new
    out |= holds
  if out.all():
    why = ", ".join(f"{count} with {reason}" for reason, count in counts.items())
    raise InputError(
      f"None of {len(out)} {things} can be scored: {why}.",
      "Check these inputs; see the documentation of the metric.",
    )
  return np.flatnonzero(~out), counts


def maps_of(
  maps: Maps, images: np.ndarray | None, targets: np.ndarray | None, batch_size: int
) -> np.ndarray:
  """Returns the maps float [N, H, W] that an explainer makes, or those given, checked.

  Raises:
    InputError: An explainer without images and targets; maps of a wrong shape, or with NaN.
  """
  if not callable(maps):
    maps = np.asarray(maps)
    shape = None if images is None else np.shape(images)[:3]
    if maps.ndim != 3 or not maps.size:
      raise InputError(f"The maps have shape {maps.shape}, expected [N, H, W].", "One per image.")
    check_maps(maps, shape or maps.shape)
    return maps
  if images is None or targets is None:
    raise InputError(
      "An explainer was given without images and targets.", "Pass both, or the maps themselves."
    )
  images, targets = np.asarray(images), check_targets(targets, len(images))

  def explain(batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    found = maps(*batch)
    check_maps(found, batch[0].shape[:3])
    return found

  return in_batches(explain, (images, targets), batch_size, precision=None)


def random_maps(seed: int, rows: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
  """Gaussian noise float32 [B, *shape]; that of an image does not depend on its batch."""
  return np.stack(
    [np.random.default_rng((seed, int(i))).standard_normal(shape, np.float32) for i in rows]
  )


def logits_of(
  model: nn.Module, variables: Mapping[str, Any], images: np.ndarray, batch_size: int = 64
) -> np.ndarray:
  """Returns a network's logits float [N, C] for images [N, H, W, colors] in [0, 1]."""
  return in_batches(lambda batch: _logits(model, variables, batch), np.asarray(images), batch_size)


@functools.partial(compiling.jit, static_argnums=0)
def _logits(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
  outputs: Any = model.apply(variables, model.ops.encoding(images))
  return outputs


def check_maps(maps: np.ndarray, expected: tuple[int, ...]) -> None:
  """Raises InputError unless maps have a shape and are finite."""
  if np.shape(maps) != expected:
    raise InputError(
      f"The maps have shape {np.shape(maps)}, expected {expected}.",
      "Return one map of the picture's size for each picture and class.",
    )
  if not np.isfinite(np.asarray(maps)).all():
    raise InputError(
      "The maps contain NaN or infinite values.",
      "Find the cause in the explainer or in the network's weights.",
    )


def check_targets(targets: np.ndarray, count: int, classes: int | None = None) -> np.ndarray:
  """Returns targets as an array, after checking that it holds one class per image."""
  targets = np.asarray(targets)
  if targets.shape != (count,) or not np.issubdtype(targets.dtype, np.integer):
    raise InputError(
      f"targets are {targets.dtype} {targets.shape}, expected integers ({count},).",
      "Give the number of one class per image.",
    )
  if classes is not None and (targets.min() < 0 or targets.max() >= classes):
    raise InputError(
      f"targets span {targets.min()} to {targets.max()}, expected 0 to {classes - 1}.",
      "Count classes from 0, as the logits do.",
    )
  return targets


def check_count(name: str, value: int) -> None:
  """Raises InputError unless a count is at least 1."""
  if value < 1:
    raise InputError(f"{name}={value}, expected at least 1.", f"Raise {name}.")
