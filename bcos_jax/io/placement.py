"""Placement of a file's tensors on devices, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from ..errors import InputError
from .tensor_files import FileTensor

Placement = (
  jax.sharding.Sharding
  | Mapping[str, Any]
  | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
)


def placed(variables: Mapping[str, Any], sharding: Placement | None) -> dict[str, Any]:
  """Returns the tensors of a file, or arrays, where they belong; see `bundles.load`."""
  leaves: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  leaves = {path: _placed(path, leaf, sharding) for path, leaf in leaves.items()}
  return traverse_util.unflatten_dict(leaves, sep="/")


def _placed(path: str, tensor: Any, sharding: Placement | None) -> np.ndarray | jax.Array:
  if sharding is None:
    return tensor.read() if isinstance(tensor, FileTensor) else tensor
  place: Any = sharding
  if isinstance(sharding, Mapping):
    for part in path.split("/"):
      place = place.get(part) if isinstance(place, Mapping) else None
  elif not isinstance(sharding, jax.sharding.Sharding):
    place = sharding(path, tensor.shape)
  if not isinstance(place, jax.sharding.Sharding):
    raise InputError(
      f"The sharding of {path!r} is {place!r}, expected a jax.sharding.Sharding.",
      "Give one sharding, a tree of them like the variables, or a function (path, shape).",
    )
  try:
    return jax.make_array_from_callback(tensor.shape, place, lambda index: tensor[index])
  except ValueError as error:
    raise InputError(
      f"{path!r} {list(tensor.shape)} cannot be placed as {place}: {error}",
      "Give a function (path, shape) -> sharding that fits each shape.",
    ) from error
