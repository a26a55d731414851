"""Feature groups of texts: the tokens masked together, and texts with some groups masked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import InputError
from .running import Texts, replaced_values

Draw = Callable[[int], np.ndarray]
Solve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def number_players(texts: Texts, words: np.ndarray | None) -> np.ndarray:
  """Returns the number of each token's feature group, int [N, L].

  Args:
    texts: What is explained.
    words: Number of each token's word, int [N, L], -1 for tokens of no word; None makes every
      token a group of its own.

  Returns:
    Numbers from 0 on in each text, without gaps, in order; -1 for special tokens, padding and
    tokens of no word, which stay in place.

  Raises:
    InputError: Words of another shape or type.
  """
  if words is None:
    words = np.broadcast_to(np.arange(texts.ids.shape[1]), texts.ids.shape)
  words = np.asarray(words)
  if words.shape != texts.ids.shape or not np.issubdtype(words.dtype, np.integer):
    raise InputError(
      f"The words are {words.dtype} {words.shape}, expected integers {texts.ids.shape}.",
      "Give the number of each token's word, -1 for none; see words.word_numbers.",
    )
  free = ~texts.special & (words >= 0)
  numbers = np.full(words.shape, -1)
  for number, own, inside in zip(numbers, words, free, strict=True):
    if inside.any():
      number[inside] = np.unique(own[inside], return_inverse=True)[1]
  return numbers


def solve_players(texts: Texts, words: np.ndarray | None, draw: Draw, solve: Solve) -> np.ndarray:
  """Returns each token's score, computed from outputs with some feature groups masked.

  Args:
    texts: What is explained.
    words: As for `number_players`.
    draw: number of groups -> which are present in each sample, bool [M, groups]. All texts with
      equally many groups use the same samples.
    solve: (samples [M, groups], outputs [M, K]) -> the score of each group, [groups, K].

  Returns:
    float64 [N, K, L]: the tokens of a group share its score equally.
  """
  players = number_players(texts, words)
  counts = players.max(axis=1) + 1
  designs = {count: draw(count) for count in set(counts.tolist()) if count}
  sizes = [len(designs.get(count, ())) for count in counts.tolist()]
  rows = np.repeat(np.arange(len(counts)), sizes)
  starts = np.cumsum([0, *sizes])
  values = replaced_values(texts, rows, _absent(players, designs, rows, starts))
  scores = np.zeros((len(counts), texts.count, players.shape[1]))
  for row, count in enumerate(counts.tolist()):
    if count:
      found = solve(designs[count], values[starts[row] : starts[row + 1]])
      free = players[row] >= 0
      found = found / np.bincount(players[row, free])[:, None]
      scores[row][:, free] = found[players[row, free]].T
  return scores


def _absent(players, designs, rows, starts) -> Callable[[np.ndarray], np.ndarray]:
  counts = players.max(axis=1) + 1

  def absent(places: np.ndarray) -> np.ndarray:
    gone = np.zeros((len(places), players.shape[1]), bool)
    for line, place in zip(gone, places.tolist(), strict=True):
      row = rows[place]
      present = designs[int(counts[row])][place - starts[row]]
      # The number -1, of tokens that stay, looks up the appended value.
      line[:] = ~np.append(present, True)[players[row]]
    return gone

  return absent
