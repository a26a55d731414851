"""Cost estimates of a training step on the GPUs of one host, without any of them.

XLA compiles for a GPU only where one is. So the step of one GPU's share of the batch is lowered,
not compiled: its arithmetic is counted, its memory and traffic are estimated as `lowered` says, and
times follow from published figures. Everything here is an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bcos_jax.errors import InputError

from .. import sharding
from . import pod
from .chips import GPUS, check_topology, gpus_of
from .lowered import footprint
from .pod import Cost


def estimate_recipe(config: ConfigDict, topology: str, examples: int = pod.IMAGENET_TRAIN) -> Cost:
  """Estimates the costs of a recipe's step.

  Args:
    config: The recipe; its mesh may split the batch, and the state (`fsdp`), nothing else.
    topology: Kind and number, e.g. "h100:8".
    examples: Size of the training set, which durations in epochs depend on.

  Raises:
    InputError: Unknown topology, or a recipe that cannot be used.
  """
  check_topology(topology)
  pod.check_memory_of(config, topology)
  mesh, chip = _split(config, gpus_of(topology)), GPUS[topology.partition(":")[0]]
  share = config.copy_and_resolve_references()
  with share.unlocked():
    share.data.batch_size = _share(config, mesh)
    share.accumulate = 1
    share.mesh.update(dict.fromkeys(share.mesh, 1))
  one = sharding.make_mesh(share.mesh, jax.local_devices()[:1])
  program, layout = pod.lowered(share, one, examples)
  (state, batch, frozen), _ = program.args_info
  used, parameters = footprint(program), jax.tree.leaves(layout.params)
  split = mesh["fsdp"] if config.layout else 1
  held = _bytes(state) / split + _bytes(batch) + _bytes(frozen)
  return Cost(
    topology=topology,
    chip=chip if config.ops.get("dtype") == "bfloat16" else chip.in_float32(),
    devices=math.prod(mesh.values()),
    batch_size=config.data.batch_size,
    parameters=sum(math.prod(leaf.shape) for leaf in parameters),
    memory={
      "arguments": held,
      "temporaries": used.temporaries,
      "total": held + used.temporaries,
    },
    flops=(program.cost_analysis() or {})["flops"] * config.accumulate,
    traffic=used.traffic * config.accumulate,
    collectives={},
    loops=used.loops,
    seconds=None,
    exchange=_exchanged(_bytes(layout.params), math.prod(mesh.values()), split) / chip.link,
  )


def _split(config: ConfigDict, count: int) -> dict[str, int]:
  """Returns the sizes of a recipe's mesh on so many devices."""
  sizes = dict(config.mesh)
  known = math.prod(size for size in sizes.values() if size != -1)
  sizes = {axis: count // known if size == -1 else size for axis, size in sizes.items()}
  if math.prod(sizes.values()) > count or min(sizes.values()) < 1:
    raise InputError(
      f"config.mesh={dict(config.mesh)} does not fit {count} GPUs.",
      "The axis sizes must multiply to at most their number; -1 takes what is left.",
    )
  if any(size > 1 for axis, size in sizes.items() if axis not in sharding.BATCH_AXES):
    raise InputError(
      f"config.mesh={sizes} splits more than the batch and the state.",
      "Estimates for GPUs know data and fsdp: leave the other axes at 1.",
    )
  return sizes


def _share(config: ConfigDict, mesh: Mapping[str, int]) -> int:
  """Returns the examples that a device has at a time."""
  parts = math.prod(mesh.values()) * config.accumulate
  if config.data.batch_size % parts:
    raise InputError(
      f"A batch of {config.data.batch_size} does not split into {parts} equal parts.",
      f"Choose a multiple of {parts} as --config.data.batch_size.",
    )
  return config.data.batch_size // parts


def _exchanged(gradients: float, devices: int, split: int) -> float:
  """Returns the bytes that each of some devices sends in a step, by rings.

  Gradients are summed over all devices: each sends twice what it does not keep. Parameters that
  are split over some of them are gathered for the forward and the backward pass, and their
  gradients scattered.
  """
  whole = devices // split
  return 3 * gradients * (split - 1) / split + 2 * gradients / split * (whole - 1) / whole


def _bytes(tree: Any) -> float:
  """Returns the bytes of arrays, of which only shapes and types are known."""
  return sum(
    math.prod(leaf.shape)
    * (4 if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize)
    for leaf in jax.tree.leaves(tree)
  )
