"""Axiomatic metrics: stability under noise, and completeness."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import numpy as np

from ..batches import in_batches
from ..errors import InputError
from ..explain.images import explain
from ..explain.texts import TextExplanation
from .scores import (
  Explainer,
  Maps,
  Result,
  Scores,
  TextScores,
  assembled,
  check_count,
  check_targets,
  logits_of,
  maps_of,
  random_maps,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StabilityScores(Scores):
  """Relative changes of explanations; `scores` are the largest of each image's samples.

  Attributes:
    changes: [M, S], the change in each of S samples.
  """

  changes: np.ndarray


def stability(
  explainer: Explainer,
  images: np.ndarray,
  targets: np.ndarray,
  *,
  noise: float = 0.02,
  samples: int = 10,
  batch_size: int = 16,
  seed: int = 0,
) -> StabilityScores:
  """The largest relative change of an explanation under small noise; low is good.

  Max-sensitivity (arXiv 1901.09392, definition 3) relative to the explanation's own length, with
  `noise` as radius: max over samples of |E(x + d) - E(x)| / |E(x)|, d uniform in
  [-noise, noise], images clipped to [0, 1]. The target stays that of the clean image. The oracle,
  an explanation that stays as it is, scores 0; maps that are random each time score about
  the square root of 2, which `random_scores` measures.

  Args:
    explainer: (images, targets) -> maps [N, H, W].
    images: [N, H, W, colors] in [0, 1].
    targets: int [N].
    noise: Largest change of a channel, in (0, 1].
    samples: Noisy images per image.
    batch_size: Images explained at once.
    seed: Of the noise and of the random maps.

  Returns:
    Changes, at least 0. Excluded are images whose map is zero.

  Raises:
    InputError: Options or maps that cannot be used, or nothing that can be scored.
  """
  if not 0 < noise <= 1:
    raise InputError(f"noise={noise}, expected more than 0 and at most 1.", "For example: 0.02.")
  check_count("samples", samples)
  images = np.asarray(images, np.float32)
  base = maps_of(explainer, images, targets, batch_size)
  random = np.random.default_rng(seed)
  columns, blind = [], []
  still = random_maps(seed, range(len(base)), base.shape[1:])
  for sample in range(samples):
    noisy = images + random.uniform(-noise, noise, images.shape).astype(np.float32)
    maps = maps_of(explainer, np.clip(noisy, 0, 1), targets, batch_size)
    columns.append(_change(base, maps))
    drawn = random_maps(seed + sample + 1, range(len(base)), base.shape[1:])
    blind.append(_change(still, drawn))
  changes = np.stack(columns, axis=1)
  rows = {
    "scores": changes.max(axis=1),
    "random_scores": np.stack(blind, axis=1).max(axis=1),
    "oracle_scores": 0.0,
    "changes": changes,
  }
  reasons = {"a map that is zero": ~base.any(axis=(1, 2))}
  return assembled(StabilityScores, reasons, rows, higher_is_better=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletenessScores(Scores):
  """What maps leave unexplained; see `completeness`.

  Attributes:
    values: [M], the target's outputs.
    residuals: Source to [M]: what it adds to the output, in the output's own unit, and
      `unexplained`, the rest. Maps that were given have no other source.
  """

  values: np.ndarray
  residuals: dict[str, np.ndarray]

  def summary(self) -> dict[str, float]:
    """As for all scores, and the mean absolute value of the output and of each residual."""
    means = {f"|{name}|": float(np.abs(r).mean()) for name, r in self.residuals.items()}
    return super().summary() | {"|output|": float(np.abs(self.values).mean())} | means


def completeness(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  maps: Maps | None = None,
  *,
  batch_size: int = 16,
  seed: int = 0,
) -> CompletenessScores:
  """How much of the output a map does not account for; low is good.

  The axiom is that of Integrated Gradients (arXiv 1703.01365, section 3) and of B-cos networks
  (arXiv 2205.10268, equation 13): a map sums to the explained logit. The score is
  |logit - sum(map) - named constants| / max(|logit|, sum(|map|)). Without `maps`, explanations of
  `explain` are measured, whose constants (biases and the like) are known by source. Maps that are
  given have no such constants: methods that explain the difference from a baseline do not
  account for the output at that baseline, and the score counts that.

  Args:
    model: Network with `ops`.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    targets: int [N].
    maps: An explainer, or signed maps [N, H, W]; None for the network's own explanations.
    batch_size: Images explained at once.
    seed: Of the random maps, noise that is given each map's own absolute mass.

  Returns:
    Relative errors, at least 0; the oracle's is 0. Excluded are images where logit and map are 0.

  Raises:
    InputError: Images, targets or maps that cannot be used, or nothing that can be scored.
  """
  targets = check_targets(targets, len(images))
  if maps is None:
    maps, values, residuals = _explained(model, variables, images, targets, batch_size)
  else:
    maps = maps_of(maps, images, targets, batch_size)
    logits = logits_of(model, variables, images, batch_size)
    check_targets(targets, len(images), logits.shape[1])
    values = logits[np.arange(len(targets)), targets]
    residuals = {"unexplained": values - maps.sum(axis=(1, 2), dtype=np.float64)}
  noise = random_maps(seed, range(len(maps)), maps.shape[1:])
  rows = {"values": values, "residuals": residuals}
  why = "an output and a map of 0"
  return _left_over(CompletenessScores, maps, values, residuals, noise, why, rows)


def token_completeness(ex: TextExplanation, *, seed: int = 0) -> TextScores:
  """How much of the outputs an explanation of texts does not account for; low is good.

  The score is that of `completeness`, with tokens in place of pixels.

  Args:
    ex: Of N texts, one target each.
    seed: Of the random scores, noise that is given each text's own absolute mass.

  Returns:
    Relative errors, at least 0; the oracle's is 0. Excluded are texts where the explained value and
    all contributions are 0.

  Raises:
    InputError: Several targets per text, or nothing that can be scored.
  """
  if np.ndim(ex.value) != 1:
    raise InputError(
      f"The explained values have shape {np.shape(ex.value)}, expected one per text.",
      "Explain one target per text.",
    )
  values, mask = np.asarray(ex.value, np.float64), np.asarray(ex.mask) > 0
  noise = np.where(mask, random_maps(seed, range(len(mask)), mask.shape[1:]), 0)
  why = "a value and contributions of 0"
  return _left_over(TextScores, np.asarray(ex.contributions), values, ex.residuals, noise, why)


def _left_over(
  result: type[Result],
  maps: np.ndarray,
  values: np.ndarray,
  residuals: Mapping[str, Any],
  noise: np.ndarray,
  why: str,
  rows: Mapping[str, Any] | None = None,
) -> Result:
  """Scores what maps [N, ...] leave of values [N], beside noise of each map's own mass."""
  places = tuple(range(1, maps.ndim))
  named = sum((r for name, r in residuals.items() if name != "unexplained"), np.zeros(len(values)))
  mass = np.abs(maps).sum(axis=places, dtype=np.float64)
  share = mass / np.abs(noise).sum(axis=places)
  left = values - named - share * noise.sum(axis=places, dtype=np.float64)
  scale = np.maximum(np.abs(values), mass)
  empty = scale <= 0
  scores, random_scores = (
    np.abs(np.asarray(rest, np.float64)) / np.where(empty, 1.0, scale)
    for rest in (residuals["unexplained"], left)
  )
  compared = {"scores": scores, "random_scores": random_scores, "oracle_scores": 0.0}
  return assembled(result, {why: empty}, {**compared, **(rows or {})}, higher_is_better=False)


def _explained(
  model, variables, images, targets, batch_size
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
  """Returns maps [N, H, W], values [N] and residuals by source of a network's explanations."""

  def parts(batch: tuple[np.ndarray, np.ndarray]):
    ex = explain(model, variables, batch[0], target=batch[1])
    return ex.contributions, ex.value, ex.residuals

  return in_batches(parts, (np.asarray(images), targets), batch_size)


def _change(base: np.ndarray, maps: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(base.reshape(len(base), -1), axis=1)
  change = np.linalg.norm((maps - base).reshape(len(base), -1), axis=1)
  return change / np.where(length > 0, length, 1.0)
