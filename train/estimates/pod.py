"""Cost estimates of a training step on a TPU slice, compiled without the hardware.

libtpu (extra `[tpu]`) compiles for a described topology on any machine. The program is the very one
that the slice would run, so its memory and communication are exact; only times are estimates. For
GPUs see `gpus`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bcos_jax.errors import InputError

from .. import feeds, objectives, plan, sharding, start
from ..config import TEXT_OBJECTIVES
from .chips import GPUS, TPUS, Chip, check_topology

IMAGENET_TRAIN = 1_281_167

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """What one device does in one step.

  Attributes:
    topology: As given, e.g. "v5e:16x16".
    chip: The device's chip.
    devices: Number of devices.
    batch_size: Of all devices together.
    parameters: Number of the network's parameters.
    memory: Bytes by use: state and batch ("arguments"), intermediate results ("temporaries"),
      "program", and what they add up to at most ("total").
    flops: Floating-point operations, see `arithmetic`.
    traffic: Bytes read from and written to HBM.
    collectives: Kind -> (how many, bytes of their results).
    loops: Number of loops; traffic and collectives within count once, not for every turn.
    seconds: That compiling took; None for an estimate from the program before it is compiled.
    exchange: Seconds in which devices exchange gradients; 0 where `collectives` say it.
  """

  topology: str
  chip: Chip
  devices: int
  batch_size: int
  parameters: int
  memory: dict[str, float]
  flops: float
  traffic: float
  collectives: dict[str, tuple[int, int]]
  loops: int
  seconds: float | None
  exchange: float = 0.0

  @property
  def fits(self) -> bool:
    """Whether the step fits into the device's memory."""
    return self.memory["total"] <= self.chip.memory

  def step_seconds(self, utilisation: float) -> float:
    """Estimates the time of a step at a share of the chip's peak arithmetic and bandwidth."""
    slowest = max(self.flops / self.chip.flops, self.traffic / self.chip.bandwidth)
    return slowest / utilisation + self.exchange


def compile_recipe(config: ConfigDict, topology: str, examples: int = IMAGENET_TRAIN) -> Cost:
  """Compiles a recipe's step for a topology.

  Args:
    config: The recipe. Its `init` counts by the architecture alone: no weights are read.
    topology: Kind and shape, e.g. "v5e:16x16".
    examples: Size of the training set, which durations in epochs depend on.

  Raises:
    InputError: Unknown topology, libtpu is missing, or a recipe that cannot be used.
    MemoryError: The compiler found that the step does not fit; names the largest buffers.
  """
  check_memory_of(config, topology)
  mesh = sharding.make_mesh(config.mesh, devices(topology))
  program, layout = lowered(config, mesh, examples)
  begin = time.perf_counter()
  try:
    compiled = program.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise MemoryError(largest_buffers(str(error))) from error
  flops = arithmetic(config, examples) / mesh.size
  return read(compiled, layout, topology, mesh, config.data.batch_size, flops, begin)


def arithmetic(config: ConfigDict, examples: int = IMAGENET_TRAIN) -> float:
  """Returns the floating-point operations of a recipe's step, on all devices together.

  They are counted before the step is compiled. A compiled program has loops, to send while it
  computes, and its own count is of one turn of each.

  Arguments and errors as for `compile_recipe`.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.accumulate = 1  # A loop over the parts of a batch; the arithmetic is the same.
    config.mesh.update(dict.fromkeys(config.mesh, 1))
  mesh = sharding.make_mesh(config.mesh, jax.local_devices()[:1])
  return (lowered(config, mesh, examples)[0].cost_analysis() or {})["flops"]


def lowered(config: ConfigDict, mesh: Mesh, examples: int) -> tuple[jax.stages.Lowered, Any]:
  """Returns a recipe's step for a mesh, before it is compiled, and the layout of its state."""
  model, _ = start.network(config, weights=False)
  objective, frozen = objectives.from_config(config, model, mesh, weights=False)
  steps_per_epoch = max(examples // config.data.batch_size, 1)
  made = plan.make(config, objective, None, frozen, mesh, steps_per_epoch)
  batch = abstract_batch(config, model, mesh, objective.extras)
  return made.train_step.lower(made.layout, batch, made.frozen), made.layout


def check_memory_of(config: ConfigDict, topology: str) -> None:
  """Checks that the chips of a topology can hold a batch of a recipe, before it is compiled.

  Raises:
    InputError: They cannot, with both sizes.
  """
  kind, _, shape = topology.partition(":")
  memory = {**TPUS, **GPUS}[kind].memory * math.prod(int(side) for side in shape.split("x"))
  if config.objective.name not in TEXT_OBJECTIVES:
    feeds.check_pictures(config, memory)
  model, _ = start.network(config, weights=False)
  feeds.check_batches(config, model, memory)


def devices(topology: str) -> Sequence[Any]:
  """Returns the devices of a described topology; none of them need be there."""
  check_topology(topology)
  # Read by libtpu when it is loaded: describe chips instead of looking for them.
  os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(topology, "tpu").devices
  except (RuntimeError, jax.errors.JaxRuntimeError, ValueError) as error:
    raise InputError(
      f"Cannot describe the topology {topology!r}: {' '.join(str(error).split())[:300]}.",
      'Install libtpu (pip install "bcos_jax[tpu]"), and give a shape that the generation has.',
    ) from error


def abstract_batch(
  config: ConfigDict,
  model: Any,
  mesh: Mesh,
  extras: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch, split over the mesh; `extras` as of an `Objective`."""
  place, rows = sharding.batch_sharding(mesh), config.data.batch_size
  more = {name: ((rows, *one.shape), one.dtype) for name, one in (extras or {}).items()}
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    for name, (shape, dtype) in {**feeds.batch_spec(config, model), **more}.items()
  }


def read(
  compiled: jax.stages.Compiled,
  layout: Any,
  topology: str,
  mesh: Mesh,
  batch_size: int,
  flops: float,
  begin: float,
) -> Cost:
  """Reads the costs off a compiled step; its `flops` per device are given."""
  memory: Any = compiled.memory_analysis()
  program = compiled.as_text() or ""
  parts = {
    "arguments": memory.argument_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "program": memory.generated_code_size_in_bytes,
  }
  # The next state is written over the state that was given.
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return Cost(
    topology=topology,
    chip=TPUS[topology.partition(":")[0]],
    devices=mesh.size,
    batch_size=batch_size,
    parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(layout.params)),
    memory={**parts, "total": sum(parts.values()) + results},
    flops=flops,
    traffic=(compiled.cost_analysis() or {})["bytes accessed"],
    collectives=collectives(program),
    loops=len(re.findall(r"\) while\(", program)),
    seconds=time.perf_counter() - begin,
  )


def collectives(program: str) -> dict[str, tuple[int, int]]:
  """Returns, by kind, how many collectives an HLO program has and the bytes of their results."""
  found: dict[str, tuple[int, int]] = {}
  pattern = re.compile(rf"= (.+?) ({'|'.join(COLLECTIVES)})(-start)?\(")
  for shapes, kind, asynchronous in pattern.findall(program):
    sizes = [
      _BYTES.get(dtype, 4) * math.prod(int(side) for side in sides.split(",") if side)
      for dtype, sides in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes)
    ]
    if asynchronous and kind == "collective-permute":
      sizes = sizes[1:2]  # Operand, result and two words of bookkeeping.
    elif asynchronous and kind != "all-reduce":
      sizes = sizes[len(sizes) // 2 :]  # Operands, then results.
    count, total = found.get(kind, (0, 0))
    found[kind] = count + 1, total + sum(sizes)
  return found


def largest_buffers(message: str) -> str:
  """Returns the total and the largest buffers that the compiler names."""
  lines = [line.strip() for line in message.splitlines()]
  wanted = [
    line
    for line in lines
    if re.match(r"(Used|Exceeded|Total hbm|\d+\. Size|Shape:|XLA label:|Operator:)", line)
  ]
  return "\n  ".join([lines[0][:300], *wanted[:24]])
