"""Tensors of a conversion: checked and cast when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import LazyTensor
from bcos_jax.variables import initial

Progress = Callable[[int], object]


def prepared(
  key: str, tensor: LazyTensor, dtype: Any, allow_nonfinite: bool, progress: Progress
) -> LazyTensor:
  """Returns a tensor that is checked and cast when it is read."""
  target = tensor.dtype if dtype is None else np.dtype(dtype)

  def read() -> np.ndarray:
    array = np.asarray(tensor)
    if not allow_nonfinite and (bad := _nonfinite(array)):
      raise InputError(
        f"{key!r} {list(array.shape)} has {bad} weights that are NaN or infinite.",
        "Use an earlier checkpoint; --allow_nonfinite converts it anyway.",
      )
    cast = array.astype(target, copy=False)
    if not allow_nonfinite and cast is not array and _nonfinite(cast):
      raise InputError(
        f"{key!r} has weights beyond the range of {target}.", "Choose --dtype float32."
      )
    progress(tensor.nbytes)
    return cast

  return LazyTensor(tensor.shape, target, read)


def _nonfinite(array: np.ndarray) -> int:
  """Returns how many numbers are NaN or infinite; a finite sum shows that there are none."""
  with np.errstate(all="ignore"):
    if np.isfinite(np.sum(array, dtype=np.float64)):
      return 0
  return int(array.size - np.count_nonzero(np.isfinite(array)))


def initial_leaves(model: nn.Module, paths: set[str], seed: int) -> dict[str, np.ndarray]:
  """Returns initial values of some leaves; what the others need is not computed."""
  leaves = initial(model, paths, jax.random.key(seed))
  return {path: np.asarray(leaf) for path, leaf in leaves.items()}


def dtype_notes(state: Mapping[str, LazyTensor], dtype: str | None) -> Iterator[str]:
  """Says which tensors change their dtype."""
  kinds = {str(tensor.dtype) for tensor in state.values() if "float" in str(tensor.dtype)}
  others = sorted(kinds - {dtype or "float32"})
  if others and dtype != "source":
    counts = ", ".join(f"{sum(str(t.dtype) == d for t in state.values())} {d}" for d in others)
    yield f"{counts} tensors become {dtype or 'float32'} (--dtype source keeps them)"
