"""Programs as StableHLO, by `jax.export`: one file for several platforms, which JAX runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export as jax_export

from ..errors import InputError, unknown_name
from .programs import ExportProgram, blaming_batch

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
FILE = "explanation.stablehlo"


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
  """Returns target platforms, each once.

  Raises:
    InputError: None, or one that is unknown.
  """
  for name in platforms:
    if name not in PLATFORMS:
      raise unknown_name("target platform", name, PLATFORMS)
  if not platforms:
    raise InputError("No target platform is given.", f"Known: {', '.join(PLATFORMS)}.")
  return tuple(dict.fromkeys(platforms))


def written(program: ExportProgram, platforms: Sequence[str]) -> tuple[bytes, dict[str, Any]]:
  """Returns a program as a file, and what the manifest says of it.

  Raises:
    InputError: It cannot be lowered for a platform.
  """
  make = jax_export.export(jax.jit(program.function), platforms=platforms)
  try:
    with blaming_batch():
      exported = make(*program.inputs.values())
  except NotImplementedError as error:
    raise InputError(
      f"The network cannot be exported for {', '.join(platforms)}: "
      f"{' '.join(str(error).split())[:300]}",
      "Leave out the platform that is named.",
    ) from error
  about = {
    "platforms": list(platforms),
    "calling_convention_version": exported.calling_convention_version,
  }
  return bytes(exported.serialize()), about


def reader(content: bytes) -> Callable[..., dict[str, Any]]:
  """Returns the function that a file holds, which compiles at its first call.

  Raises:
    InputError: It cannot be read.
  """
  try:
    exported = jax_export.deserialize(bytearray(content))
  except Exception as error:  # of the reader's many kinds
    raise InputError(
      f"JAX cannot read the program: {' '.join(str(error).split())[:300]}",
      "It is of a JAX too old or too new: export the network again.",
    ) from error
  return jax.jit(exported.call)
