"""Inputs of a calibration: pictures or texts without labels, chosen and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from ..errors import InputError

FEWEST = 8
"""Pictures or texts below which nothing is fitted."""


def chosen(there: int, count: int, seed: int = 0) -> np.ndarray:
  """Returns which of the inputs that are there are used, `count` at most, int [n].

  In an order that the seed draws: the last ones are held out, and folders are sorted by class.
  """
  return np.random.default_rng(seed).permutation(there)[:count]


def check_networks(teacher: nn.Module, student: nn.Module) -> None:
  """Raises InputError unless a teacher is conventional and its student a B-cos network.

  Units of MaxOut would all be fitted to the same values: equal ones, which share every gradient and
  never become anything else.
  """
  for role, model, conventional in (("teacher", teacher, True), ("student", student, False)):
    if model.ops.conventional != conventional:
      kinds = ("a B-cos network", "a conventional one")
      raise InputError(
        f"The {role}, a {type(model).__name__}, is {kinds[not conventional]}, expected "
        f"{kinds[conventional]}.",
        "Give the conventional network, and the one that bcosify makes of it.",
      )
  if student.ops.max_out > 1:
    raise InputError(
      f"The student has max_out={student.ops.max_out}: nothing tells the units of an output apart "
      "to which they could be fitted.",
      "Calibrate a network with max_out=1, or train this one.",
    )


def check_inputs(inputs: Any) -> int:
  """Returns how many pictures or texts there are.

  Args:
    inputs: Pictures [N, H, W, C] in [0, 1] or of 8 bits, or texts {"tokens": ids [N, L], "mask":
      [N, L]}.

  Raises:
    InputError: They cannot be used.
  """
  texts = isinstance(inputs, Mapping)
  if texts:
    _check_texts(inputs)
  values = np.asarray(inputs["tokens"] if texts else inputs)
  what = "texts" if texts else "pictures"
  if values.ndim != (2 if texts else 4):
    raise InputError(
      f"The {what} to calibrate with have shape {values.shape}, expected "
      f"{'[N, L]' if texts else '[N, H, W, C]'}.",
      "Give token ids of one length." if texts else "Give pictures as one array of plain colours.",
    )
  if len(values) < FEWEST:
    raise InputError(
      f"There are {len(values)} {what} to calibrate with, expected at least {FEWEST}.",
      "512 are a good start; they need no labels.",
    )
  if not texts:
    _check_colors(values)
  elif (values == values[:1]).all():
    raise InputError(
      "The texts to calibrate with are all the same: nothing can be fitted to them.",
      "Give different texts of the network's domain.",
    )
  return len(values)


def _check_texts(texts: Mapping[str, Any]) -> None:
  if "tokens" not in texts or not texts.keys() <= {"tokens", "mask"}:
    raise InputError(
      f"The texts to calibrate with have {', '.join(map(repr, texts)) or 'nothing'}, expected "
      "'tokens' and 'mask'.",
      "Give {'tokens': ids [N, L], 'mask': [N, L]}.",
    )
  tokens = np.asarray(texts["tokens"])
  if not jnp.issubdtype(tokens.dtype, jnp.integer) or (tokens < 0).any():
    raise InputError(
      f"The tokens to calibrate with are {tokens.dtype} of at least {tokens.min(initial=0)}, "
      "expected ids: integers of at least 0.",
      "Give what the tokeniser of the network returns.",
    )
  if texts.get("mask") is None:
    return
  mask = np.asarray(texts["mask"])
  if mask.shape != tokens.shape or not (mask != 0).any(axis=-1).all():
    raise InputError(
      f"The mask has shape {mask.shape} for tokens of shape {tokens.shape}, and "
      f"{int((mask != 0).any(axis=-1).sum()) if mask.ndim else 0} texts in which it is not zero; "
      "expected the same shape, and some token of each text.",
      "Give 1 where there is a token, 0 where there is padding.",
    )


def _is_real(dtype: np.dtype) -> bool:
  return jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.complexfloating)


def _check_colors(images: np.ndarray) -> None:
  if not images.size or not _is_real(images.dtype):
    raise InputError(
      f"The pictures to calibrate with are {images.dtype} of shape {images.shape}, expected "
      "numbers.",
      "Give plain colours in [0, 1], or of 8 bits as uint8.",
    )
  low, high = images.min(), images.max()
  wide = images.dtype == np.uint8
  if not wide and not (np.isfinite(images).all() and low >= -1e-3 and high <= 1.001):
    raise InputError(
      f"The pictures to calibrate with have values from {low} to {high}, expected colours in "
      "[0, 1].",
      "Divide by 255 or give 8-bit colours as uint8, and do not normalise: the network does.",
    )
  same = (images == images[:1]).all()
  if same or (images == images[:, :1, :1]).all():
    how = "all the same" if same else "of one colour each"
    raise InputError(
      f"The pictures to calibrate with are {how}: nothing can be fitted to them.",
      "Give different pictures of the network's domain.",
    )
