"""Whether the explanation mode of a family holds what its layers compute."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from ..errors import InputError
from .base import Ops

Array = jax.Array

_REQUESTS: dict[str, Callable[[Ops, Array], Array]] = {
  "conv": lambda ops, x: ops.conv(4, 3, name="m")(x),
  "dense": lambda ops, x: ops.dense(4, name="m")(x),
  "dense with a gate": lambda ops, x: ops.dense(4, gate="gelu", name="m")(x),
  "linear": lambda ops, x: ops.linear(4, name="m")(x),
  "classifier": lambda ops, x: ops.classifier(4, name="m")(x),
  "window_head": lambda ops, x: ops.window_head(4, 3, name="m")(x),
  "vocabulary": lambda ops, x: ops.vocabulary(4, use_bias=False, name="m")(x),
  "batch_norm": lambda ops, x: ops.batch_norm(name="m")(x, False),
  "layer_norm": lambda ops, x: ops.layer_norm(name="m")(x),
  "group_norm": lambda ops, x: ops.group_norm(2, name="m")(x),
  "rms_norm": lambda ops, x: ops.rms_norm(name="m")(x),
  "response_norm": lambda ops, x: ops.response_norm(name="m")(x),
  "layer_scale": lambda ops, x: ops.layer_scale(0.5, name="m")(x),
  "spatial_pool": lambda ops, x: ops.spatial_pool(x),
  "readout": lambda ops, x: ops.readout(lambda y: y, x),
  "attend": lambda ops, x: ops.attend(x, 2 * x, x),
  "weigh": lambda ops, x: ops.weigh(x, ops.act(x, "silu")),
  **{
    f"act {kind}": functools.partial(lambda kind, ops, x: ops.act(x, kind), kind)
    for kind in F.GATES
  },
  **{
    f"head_act {kind}": functools.partial(lambda kind, ops, x: ops.head_act(x, kind), kind)
    for kind in ("relu", "tanh")
  },
}


class _Asking(nn.Module):
  ops: Ops
  request: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return _REQUESTS[self.request](self.ops, x)


def check_detached(ops: Ops) -> None:
  """Checks, layer by layer, that `ops.detached()` is the dynamic linear map of the family.

  Of each layer that an architecture may request, on random numbers: detached it has the same
  value; its derivative times the input is the value, but for what it makes of zero; and where its
  plain derivative depends on the input, the detached one differs from it (a B-cos transform fulfils
  the second condition also where nothing is held). Takes some seconds.

  Raises:
    InputError: Naming every layer that departs, and how.
  """
  problems = [f"{name}: {why}" for name in _REQUESTS if (why := _departs(ops, name))]
  if problems:
    raise InputError(
      f"{type(ops).__name__}.detached() does not hold what the family computes: "
      f"{'; '.join(problems)}.",
      "Pass detach=self.detach to the layers, and F.hold(...) what else depends on the input.",
    )


def _departs(ops: Ops, request: str, tolerance: float = 1e-4) -> str:
  """Returns how the explanation of one request departs; '' if it does not."""
  random = np.random.RandomState(0)
  x, step = (jnp.asarray(random.standard_normal((1, 4, 4, 32)), jnp.float32) for _ in range(2))
  measured = _measured(ops, request, x, step)
  changed, made, explained, scale, bent, apart = (float(value) for value in measured)
  if changed > tolerance:
    return "its value changes"
  if abs(explained - made) > tolerance * scale:
    return "its derivative times the input is not its value"
  if bent > tolerance and apart <= tolerance:
    return "its derivative is the plain one"
  return ""


def _measured(ops: Ops, request: str, x: Array, step: Array) -> tuple[Array, ...]:
  """Returns norms and sums of one request's value y and of the derivatives of a sum of it.

  They are: relative change of y when detached; the sum, but for that of zero; the same by the
  detached derivative; a scale of the latter; relative change of the plain derivative along `step`;
  relative distance between the plain and the detached derivative.
  """
  plain, held = (_Asking(family, request) for family in (ops, ops.detached()))
  variables = plain.init(jax.random.key(0), x)

  def value(module: nn.Module, x: Array) -> Any:
    return module.apply(variables, x)

  y = value(plain, x)
  cotangent = jax.random.normal(jax.random.key(1), y.shape, y.dtype)

  def total(module, x):
    return jnp.sum(value(module, x) * cotangent)

  gradient, weights = (jax.grad(functools.partial(total, m))(x) for m in (plain, held))
  # Reverse over reverse: layers have no forward mode.
  bend = jax.grad(lambda x: jnp.sum(jax.grad(functools.partial(total, plain))(x) * step))(x)
  norm, least = jnp.linalg.norm, 1e-12
  return (
    norm((value(held, x) - y).ravel()) / (norm(y.ravel()) + least),
    total(plain, x) - total(plain, jnp.zeros_like(x)),
    jnp.sum(weights * x),
    norm(weights.ravel()) * norm(x.ravel()) + least,
    norm(bend.ravel()) / (norm(gradient.ravel()) + least),
    norm((weights - gradient).ravel()) / (norm(gradient.ravel()) + least),
  )
