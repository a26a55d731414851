"""Programs compiled with the options that the platform runs them fastest with."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax

# Of what XLA's CPU backend hands over to a library of kernels, matrix products gain by it;
# convolutions, sums, and all that it fuses with them lose; see docs/performance.md.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def options() -> dict[str, str]:
  """Returns the compiler options for inference and explanations on the default backend.

  None on accelerators, and where this version of XLA does not have them.
  """
  if jax.default_backend() != "cpu":
    return {}
  try:
    jax.jit(lambda: 0, compiler_options=_CPU).lower().compile()
  except Exception:
    return {}
  return dict(_CPU)


class jit:
  """`jax.jit` of a function that users call, not of one within another, with `options`.

  They are looked up at the first call: to ask for the backend is to start it.
  """

  def __init__(self, function: Callable, **fields: Any):
    functools.update_wrapper(self, function)
    self._function, self._fields = function, fields

  @functools.cached_property
  def _compiled(self) -> Any:
    return jax.jit(self._function, compiler_options=options() or None, **self._fields)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self._compiled(*args, **kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__"):
      raise AttributeError(name)
    return getattr(self._compiled, name)
