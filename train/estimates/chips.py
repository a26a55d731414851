"""Published figures of TPU chips and GPUs, and the names of topologies of them."""

from __future__ import annotations

import dataclasses
import re

from bcos_jax.errors import InputError, unknown_name

from ..monitor.writer import peak_flops

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one TPU chip, or GPU.

  Attributes:
    memory: Of HBM, in bytes.
    flops: Peak per second in bfloat16.
    bandwidth: Of HBM, in bytes per second.
    per_host: Chips that a host feeds, in slices of several hosts.
    link: What a GPU sends to the others of its host, in bytes per second; 0 where the compiled
      program says what is sent.
  """

  memory: float
  flops: float
  bandwidth: float
  per_host: int = 4
  link: float = 0.0

  def in_float32(self) -> Chip:
    """Returns a GPU whose products are of float32, as JAX computes them there: in TF32."""
    return dataclasses.replace(self, flops=self.flops / 2)


def _chip(name: str, memory: float, bandwidth: float, per_host: int = 4, link: float = 0.0) -> Chip:
  flops = peak_flops(name)
  assert flops is not None, f"the peak of a {name} is not known"
  return Chip(memory, flops, bandwidth, per_host, link)


TPUS = {
  "v4": _chip("TPU v4", 32 * GIB, 1228e9),
  "v5e": _chip("TPU v5e", 16 * GIB, 819e9),
  "v5p": _chip("TPU v5p", 95 * GIB, 2765e9),
  "v6e": _chip("TPU v6e", 32 * GIB, 1640e9),
}

GPUS = {
  "a100": _chip("A100", 80 * GIB, 2039e9, 8, 300e9),
  "h100": _chip("H100", 80 * GIB, 3350e9, 8, 450e9),
  "h200": _chip("H200", 141e9, 4800e9, 8, 450e9),
}
"""The SXM modules, of 80 GB where there are several; links of one direction."""

_AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
_SHAPE = re.compile(r"[0-9]{1,3}(x[0-9]{1,3})*")
MOST_CHIPS = 256  # along a side


def is_gpu(topology: str) -> bool:
  """Whether a topology is of GPUs, such as h100:8."""
  return topology.partition(":")[0] in GPUS


def check_topology(topology: str) -> None:
  """Checks the form of a topology, without libtpu: what that is given must not end the process.

  Raises:
    InputError: An unknown generation of TPUs or GPUs, a shape that no slice of it has, or more GPUs
      than one host has.
  """
  kind, _, shape = topology.partition(":")
  if kind in GPUS:
    gpus_of(topology)
    return
  if kind not in TPUS:
    raise unknown_name("TPU generation or GPU", kind, {**TPUS, **GPUS})
  sides = [int(side) for side in shape.split("x")] if _SHAPE.fullmatch(shape) else []
  axes = _AXES[kind]
  if len(sides) != axes or not all(1 <= side <= MOST_CHIPS for side in sides):
    example = "x".join(["4"] * axes)
    raise InputError(
      f"Topology {topology!r} has the shape {shape!r}, expected {axes} sides from 1 to "
      f"{MOST_CHIPS}, such as {example}.",
      f"For example: --topology={kind}:{example}.",
    )


def gpus_of(topology: str) -> int:
  """Returns the number of GPUs of a topology.

  Raises:
    InputError: There are none, or more than one host has.
  """
  kind, _, count = topology.partition(":")
  most = GPUS[kind].per_host
  if not re.fullmatch(r"[0-9]{1,3}", count) or not 1 <= int(count) <= most:
    raise InputError(
      f"Topology {topology!r} has {count!r} GPUs, expected 1 to {most}: those of one host. How "
      "several hosts are connected is not known.",
      f"For example: --topology={kind}:{most}.",
    )
  return int(count)
