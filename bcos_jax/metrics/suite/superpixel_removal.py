"""IROF: the output as the superpixels that a map ranks first are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...attribution.segments import segment_numbers, superpixels
from ...inputs import side_of
from ..perturbation import Perturbation, removal_task
from ..rankings import Parts, check_fractions, ranks_of
from .benchmark import Benchmark

OF_PROBABILITIES = Perturbation(confidence=0.0)
"""Superpixels get the picture's mean colour, and positive probabilities are looked at."""


def irof(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  how: Perturbation = OF_PROBABILITIES,
  *,
  segments: int | np.ndarray = 24,
  fractions: Sequence[float] = tuple(np.linspace(0, 1, 7)),
) -> Benchmark:
  """The area over the output while superpixels are removed, the most important first; high is good.

  IROF (Rieger & Hansen, arXiv 2003.08747, section 3): superpixels are ranked by the mean of the
  signed map over them and replaced by the picture's mean colour; the score is 1 minus the area
  under f(x without the first superpixels) / f(x), by probabilities. (The paper removes superpixels
  one at a time, here a share of them.) Oracle: the ranking by the measured effect of each alone.

  Args:
    model, variables, images, targets: As for `measure_effects`.
    how: What a removal is, and what is measured; `block` is not read. Images whose output is
      `confidence` or less are excluded.
    segments: About how many superpixels, see `attribution.segments.superpixels`; or the number of
      each pixel's, int [N, H, W].
    fractions: Of the superpixels, rising from 0.

  Raises:
    InputError: As for `measure_effects`; or fractions that cannot be used.
  """
  steps = check_fractions(fractions)
  task = removal_task(model, variables, images, targets, how)
  (images,) = task.inputs
  if not isinstance(segments, np.ndarray):
    segments = superpixels(images, segments)
  numbers = segment_numbers(segments, images)
  counts = numbers.max(axis=(1, 2)) + 1
  present = np.arange(counts.max()) < counts[:, None]
  parts = Parts(
    task=task, free=present, movable=present, make=_pixels, own=numbers.astype(np.int32)
  )
  start, effects = parts.start_and_effects(how.oracle)
  removed = np.rint(steps * counts[:, None]).astype(int)

  def area_over(importance: np.ndarray) -> np.ndarray:
    curves = parts.curve(ranks_of(importance, present, how.seed), removed, keep=False)
    under = np.trapezoid(curves, steps, axis=1) / (steps[-1] - steps[0])
    return 1 - under / start

  why = f"an output of {how.confidence:g} or less before anything is removed"
  return Benchmark(
    measure=lambda maps: area_over(_means(maps, numbers, present.shape[1])),
    oracle=1.0 if effects is None else area_over(effects),
    reasons={why: ~(start > how.confidence)},
    higher_is_better=True,
    side=side_of(images),
  )


def _pixels(shared: Any, numbers: jax.Array, remains: jax.Array) -> jax.Array:
  """From which superpixels remain, bool [B, G], to which pixels do, bool [B, H, W]."""
  flat = jnp.take_along_axis(remains, numbers.reshape(len(numbers), -1), axis=1)
  return flat.reshape(numbers.shape)


def _means(maps: np.ndarray, numbers: np.ndarray, most: int) -> np.ndarray:
  """Returns the means of maps [N, H, W] over up to `most` parts of each, [N, most]; 0 for none."""
  places = (numbers + most * np.arange(len(maps))[:, None, None]).reshape(-1)
  sums = np.bincount(places, maps.reshape(-1).astype(np.float64), most * len(maps))
  sizes = np.bincount(places, minlength=most * len(maps))
  return (sums / np.maximum(sizes, 1)).reshape(len(maps), most)
