"""Feature groups, pixels or tokens that are removed together, and the score that each gets."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from .running import removed_values
from .task import Array, Task

Draw = Callable[[int], np.ndarray]
Solve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def solve_groups(
  task: Task, groups: np.ndarray, draw: Draw, solve: Solve, *, share: bool = True
) -> np.ndarray:
  """Returns the score of each place, computed from outputs with some feature groups removed.

  Args:
    task: What is explained.
    groups: Number of each place's group, int [N, H, W] or [N, L], from 0 on without gaps; -1 for
      places that are never removed.
    draw: number of groups -> which are present in each sample, bool [M, groups]. All inputs with
      equally many groups use the same samples.
    solve: (samples [M, groups], outputs [M, K]) -> the score of each group, [groups, K].
    share: Whether the places of a group share its score equally; else each gets the whole score.

  Returns:
    float64 [N, K, H, W] or [N, K, L]; 0 at places that are never removed.
  """
  flat = groups.reshape(len(groups), -1)
  counts = flat.max(axis=1) + 1
  designs = {count: draw(count) for count in set(counts.tolist()) if count}
  sizes = [len(designs.get(count, ())) for count in counts.tolist()]
  rows, starts = np.repeat(np.arange(len(counts)), sizes), np.cumsum([0, *sizes])
  scores = np.zeros((len(counts), task.count, flat.shape[1]))
  if not len(rows):
    return scores.reshape(len(groups), task.count, *groups.shape[1:])
  describe = _samples(designs, counts, rows, starts)
  values = removed_values(task, rows, describe, _present, own=groups)
  for row, count in enumerate(counts.tolist()):
    if count:
      found = solve(designs[count], values[starts[row] : starts[row + 1]])
      free = flat[row] >= 0
      if share:
        found = found / np.bincount(flat[row, free])[:, None]
      scores[row][:, free] = found[flat[row, free]].T
  return scores.reshape(len(groups), task.count, *groups.shape[1:])


def _samples(designs: dict[int, np.ndarray], counts, rows, starts) -> Callable:
  """Returns a function of jobs to which groups are present in each, bool [B, most groups + 1]."""
  width = int(counts.max()) + 1

  def describe(jobs: np.ndarray) -> np.ndarray:
    present = np.ones((len(jobs), width), bool)  # the last column is of places that stay
    for line, job in zip(present, jobs.tolist(), strict=True):
      count = int(counts[rows[job]])
      line[:count] = designs[count][job - starts[rows[job]]]
    return present

  return describe


def _present(shared: tuple, groups: Array, present: Array) -> Array:
  del shared
  return jax.vmap(lambda row, numbers: row[numbers])(present, groups)


def all_but_one(groups: int) -> np.ndarray:
  """Returns samples of all groups, and of all but each, bool [1 + groups, groups]."""
  return np.concatenate([np.ones((1, groups), bool), ~np.eye(groups, dtype=bool)])


def drops(present: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Returns by how much values [1 + groups, K] of these samples drop without each group."""
  del present
  return values[0] - values[1:]
