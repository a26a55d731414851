"""Training examples of language models: masked tokens, and next tokens."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from bcos_jax.errors import InputError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HideTokens:
  """Dynamic masking, as BERT's (arXiv 1810.04805, section 3.1), redrawn in every epoch.

  Each token that is not special is chosen with probability `share`. Of the chosen ones 80 %
  become the mask token, 10 % a random token that is not special, and 10 % stay.

  Attributes:
    mask_id: The mask token.
    special_ids: Never chosen, and never drawn.
    vocabulary: Number of ids.
    share: To choose.
  """

  mask_id: int
  special_ids: tuple[int, ...]
  vocabulary: int
  share: float = 0.15

  def __post_init__(self):
    if not 0 < self.share < 1:
      raise InputError(f"share={self.share!r}, expected a share between 0 and 1.", "Use 0.15.")
    if not len(self._ordinary()):
      raise InputError(
        f"All {self.vocabulary} ids are special.", "Pass the ids of special tokens only."
      )

  def __call__(self, batch: Batch, random: np.random.Generator) -> Batch:
    """Returns a batch {"ids", "mask"} with hidden tokens, what they were, and where they are.

    Returns:
      {"ids": int32 [B, L], "mask": bool [B, L], "labels": int32 [B, L], the tokens as they were,
      "weights": float32 [B, L], 1 on chosen tokens, "share": float32 [B], their number over B},
      other entries unchanged.
    """
    ids, mask = batch["ids"], batch["mask"]
    free = mask & ~np.isin(ids, (*self.special_ids, self.mask_id))
    chosen = free & (random.random(ids.shape) < self.share)
    fate = random.random(ids.shape)
    hidden = np.where(chosen & (fate < 0.8), np.int32(self.mask_id), ids)
    drawn = random.choice(self._ordinary(), ids.shape)
    hidden = np.where(chosen & (fate >= 0.9), drawn, hidden)
    return _shared(batch | {"ids": hidden.astype(np.int32), "labels": ids}, chosen)

  def _ordinary(self) -> np.ndarray:
    return np.setdiff1d(np.arange(self.vocabulary), (*self.special_ids, self.mask_id))


def next_tokens(batch: Batch, random: np.random.Generator) -> Batch:
  """Returns a batch {"ids", "mask"} with the token after each as its label.

  Returns:
    The batch with "labels" int32 [B, L], "weights" float32 [B, L], 0 where none comes after, and
    "share" float32 [B], the number of the others over B.
  """
  del random
  ids, mask = batch["ids"], batch["mask"]
  follows = np.concatenate([mask[:, 1:], np.zeros_like(mask[:, :1])], axis=1) & mask
  return _shared(batch | {"labels": np.roll(ids, -1, axis=1)}, follows)


def _shared(batch: Batch, chosen: np.ndarray) -> Batch:
  """Adds weights, and what parts of the batch need for a loss that is the mean over all tokens."""
  share = np.full(len(chosen), chosen.sum() / len(chosen), np.float32)
  return batch | {"weights": chosen.astype(np.float32), "share": share}


def pack(rows: Sequence[np.ndarray], length: int, end: int) -> np.ndarray:
  """Joins texts, each followed by the end token, and cuts them into rows without padding.

  Args:
    rows: Ids of each text.
    length: Of the rows.
    end: Id of the end token.

  Returns:
    int32 [M, length]; what is left over at the end is dropped.

  Raises:
    InputError: Too little text for a single row.
  """
  joined = np.concatenate([part for row in rows for part in (row, [end])]).astype(np.int32)
  count = len(joined) // length
  if not count:
    raise InputError(
      f"{len(joined)} tokens in all, expected at least {length}.",
      "Use shorter rows, or more texts.",
    )
  return joined[: count * length].reshape(count, length)
