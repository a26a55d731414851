"""Device meshes, and layouts of arrays as (regex, spec) tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import math
import re
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from bcos_jax.errors import InputError, unknown_name

from .optimizer import path_name

PyTree = Any
Layout = Sequence[tuple[str, Sequence[str | None] | str]]

BATCH_AXES = ("data", "fsdp")  # Both split the batch; `fsdp` may split parameters as well.


def make_mesh(
  axes: Mapping[str, int],
  devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]: jax's stub
) -> Mesh:
  """Arranges devices in a mesh.

  Args:
    axes: Size by axis name, among them `data` and `fsdp`; one size may be -1 (all the rest).
      Sizes that multiply to less than the number of devices use the first ones.
    devices: Defaults to all devices of all processes.

  Returns:
    The mesh.

  Raises:
    InputError: if the sizes do not fit the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = dict(axes)
  known = math.prod(size for size in sizes.values() if size != -1)
  if list(sizes.values()).count(-1) == 1 and known > 0 and len(devices) % known == 0:
    sizes = {name: len(devices) // known if s == -1 else s for name, s in sizes.items()}
  count = math.prod(sizes.values())
  if count > len(devices) or min(sizes.values()) < 1:
    raise InputError(
      f"mesh={dict(axes)} does not fit {len(devices)} devices.",
      "The axis sizes must multiply to at most the number of devices; -1 takes what is left.",
    )
  return Mesh(np.asarray(devices[:count]).reshape(tuple(sizes.values())), tuple(sizes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the leading axis over all devices that see different data."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_divisor(mesh: Mesh) -> int:
  """Returns the number that a global batch size must be a multiple of."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def rounded_up(batch_size: int, mesh: Mesh) -> int:
  """Returns the next global batch size that a mesh can split."""
  divisor = batch_divisor(mesh)
  return -(-batch_size // divisor) * divisor


@contextlib.contextmanager
def images_stay_apart(mesh: Mesh | None, batch_size: int) -> Iterator[None]:
  """Keeps what modules take and return split over the batch, while a network is traced.

  Where a parameter is split, the compiler would else now and then split what is computed with it
  alike, and send activations to do so; now it gathers the parameter.

  Args:
    mesh: Of the devices; None changes nothing.
    batch_size: Of the network's input.
  """
  if mesh is None or mesh.size == 1 or batch_size % batch_divisor(mesh):
    yield
    return
  others = set(mesh.axis_names) - set(BATCH_AXES)  # May split channels.
  rest = PartitionSpec.UNCONSTRAINED if others else None

  def split(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.ndim < 2 or x.shape[0] % batch_size:
      return x
    spec = PartitionSpec(BATCH_AXES, *[rest] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

  def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if context.method_name != "__call__":  # Others may return a parameter.
      return call(*args, **kwargs)
    # The gradient of what goes in is split like it, as is that of what comes out.
    return jax.tree.map(split, call(*jax.tree.map(split, args), **kwargs))

  with nn.intercept_methods(intercept):
    yield


def abstract(create: Callable[..., PyTree], rules: Layout, mesh: Mesh, *args: Any) -> PyTree:
  """Returns the shapes, dtypes and shardings of `create(*args)` without computing anything.

  Args:
    create: Makes a tree of arrays.
    rules: (regular expression, axis names by dimension) pairs; the first whose expression is
      found in a leaf's path ("params/stem/conv/kernel") decides. One name in place of a sequence
      splits the largest dimension that the axis divides, if there is one. Leaves that no rule
      names, and scalars, are replicated.
    mesh: The mesh.
    *args: For `create`.

  Returns:
    A tree of `jax.ShapeDtypeStruct`.

  Raises:
    InputError: if a rule does not fit an array's shape.
  """

  def place(path, leaf):
    name = path_name(path)
    spec = next((spec for pattern, spec in rules if re.search(pattern, name)), ())
    spec = _largest(leaf.shape, spec, mesh) if isinstance(spec, str) else spec
    if not isinstance(spec, list | tuple):
      raise InputError(
        f"layout has {spec!r} for {name}, expected mesh axes by dimension, or one axis.",
        f"Axes are {', '.join(mesh.shape)}; None leaves a dimension whole.",
      )
    spec = spec if leaf.ndim else ()
    parts = [mesh.shape.get(axis, 0) if axis else 1 for axis in spec]
    sizes = leaf.shape[: len(parts)]
    if len(parts) != len(sizes) or any(not n or d % n for n, d in zip(parts, sizes, strict=True)):
      raise InputError(
        f"layout {tuple(spec)} does not fit {name} of shape {leaf.shape} on {dict(mesh.shape)}.",
        "Add a rule for it before the one that matched.",
      )
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(place, jax.eval_shape(create, *args))


def _largest(shape: Sequence[int], axis: str, mesh: Mesh) -> tuple[str | None, ...]:
  """Returns the spec that splits the largest dimension that a mesh axis divides."""
  if axis not in mesh.shape:
    raise unknown_name("mesh axis in config.layout", axis, mesh.shape)
  fitting = [i for i, size in enumerate(shape) if size and size % mesh.shape[axis] == 0]
  if not fitting:
    return ()
  largest = max(fitting, key=lambda i: shape[i])
  return (*(None,) * largest, axis)


def shardings(tree: PyTree) -> PyTree:
  """Returns the sharding of each leaf."""
  return jax.tree.map(lambda leaf: leaf.sharding, tree)


def init_sharded(create: Callable[..., PyTree], like: PyTree, *args: Any) -> PyTree:
  """Returns `create(*args)`, each array initialised sharded as in `like` (see `abstract`).

  One compiled call makes them all, so no device ever holds more than its share.
  """
  return jax.jit(create, out_shardings=shardings(like))(*args)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Returns the tree with every array whole on every device of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays of this process's part of a batch, split along the leading axis.

  Returns at once; the copy to the devices overlaps with the steps that are already queued.
  """
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()
  }
