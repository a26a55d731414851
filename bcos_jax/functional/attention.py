"""Softmax attention, linear in its values once the weights are held."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .held import hold

Array = jax.Array


def attention_weights(
  q: Array, k: Array, *, bias: Array | None = None, scale: float | None = None
) -> Array:
  """Returns the weights of softmax attention, float32 [..., heads, Q, T]; see `attend`."""
  # Heads first: XLA's CPU backend multiplies matrices two to four times as fast so.
  q, k = jnp.swapaxes(q, -3, -2), jnp.swapaxes(k, -3, -2)
  return _weights(q, k, bias, q.shape[-1] ** -0.5 if scale is None else scale)


def mix(weights: Array, v: Array) -> Array:
  """Returns values mixed by attention weights, [..., Q, heads, head_dim]; see `attend`."""
  # The heads' result is turned afterwards: a product that turns it itself is slower on the CPU.
  return jnp.swapaxes(jnp.einsum("...hqk,...khd->...hqd", weights.astype(v.dtype), v), -3, -2)


def attend(
  q: Array,
  k: Array,
  v: Array,
  *,
  bias: Array | None = None,
  scale: float | None = None,
  keep: Array | None = None,
  detach: bool = False,
) -> Array:
  """Softmax attention, with a gradient of its own: reverse mode only.

  Where there are so many tokens that the weights of one head are more than `MOST_WEIGHTS`, they
  are made for some queries at a time, and once more in the backward pass: memory then grows with
  the tokens rather than with their square.

  Args:
    q: Queries, [..., Q, heads, head_dim].
    k: Keys, [..., T, heads, head_dim].
    v: Values, like `k`.
    bias: Added to the scaled products, broadcastable against [..., heads, Q, T]: what depends on
      no input, such as relative positions or a mask of large negative numbers.
    scale: Multiplies the products; None takes head_dim^-0.5.
    keep: Multiplies the weights, likewise broadcastable (dropout while training).
    detach: Stops the gradient through the attention weights (queries and keys), so that the
      result is linear in `v`.

  Returns:
    [..., Q, heads, head_dim] in the dtype of `v`. The softmax is computed in float32.
  """
  if detach:
    q, k = hold(q), hold(k)
  if keep is not None:
    return mix(attention_weights(q, k, bias=bias, scale=scale) * keep, v)
  factor = q.shape[-1] ** -0.5 if scale is None else scale
  q, k, v = (jnp.swapaxes(part, -3, -2) for part in (q, k, v))
  queries, tokens = q.shape[-2], k.shape[-2]
  if queries * tokens <= MOST_WEIGHTS:
    out = _whole(q, k, v, bias, factor)
  else:
    out = _in_parts(q, k, v, bias, factor, max(1, MOST_WEIGHTS // tokens))
  return jnp.swapaxes(out, -3, -2)


MOST_WEIGHTS = 2**22
"""Weights of one head (16 MiB) above which `attend` works through some queries at a time."""


def _weights(q: Array, k: Array, bias: Array | None, scale: float) -> Array:
  """Returns the weights of heads that come first, float32 [..., heads, Q, T]."""
  wide = jnp.promote_types(q.dtype, jnp.float32)
  # Queries are the smaller array to scale, but must not lose digits by it.
  early = q.dtype == wide
  logits = jnp.einsum(
    "...qd,...td->...qt", q * scale if early else q, k, preferred_element_type=wide
  )
  logits = logits if early else logits * scale
  return jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)


def _whole(q: Array, k: Array, v: Array, bias: Array | None, scale: float) -> Any:
  """Returns attention over heads that come first, [..., heads, Q, head_dim]."""
  if q.dtype == jnp.promote_types(q.dtype, jnp.float32):
    return _attended(q, k, v, bias, scale)
  # In bfloat16, as accelerators compute, a TPU moves 3 % fewer bytes by automatic differentiation.
  return _attended_fwd(q, k, v, bias, scale)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attended(q: Array, k: Array, v: Array, bias: Array | None, scale: float) -> Array:
  return _attended_fwd(q, k, v, bias, scale)[0]


def _attended_fwd(q, k, v, bias, scale):
  weights = _weights(q, k, bias, scale)
  out = jnp.einsum("...qt,...td->...qd", weights.astype(v.dtype), v)
  return out, (q, k, v, bias, weights)


def _attended_bwd(scale, residuals, cotangent):
  # Automatic differentiation multiplies the same matrices, but leaves some of their results to be
  # turned: twice the time on a CPU.
  q, k, v, bias, weights = residuals
  narrow = weights.astype(v.dtype)
  d_v = jnp.einsum("...qt,...qd->...td", narrow, cotangent)
  d_weights = jnp.einsum("...qd,...td->...qt", cotangent, v, preferred_element_type=weights.dtype)
  share = jnp.sum(d_weights * weights, axis=-1, keepdims=True)
  d_logits = weights * (d_weights - share)
  d_bias = None if bias is None else _summed_to(d_logits, bias)
  d_logits = d_logits.astype(q.dtype)
  d_q = jnp.einsum("...qt,...td->...qd", d_logits, k) * scale
  d_k = jnp.einsum("...qt,...qd->...td", d_logits, q) * scale
  return d_q, d_k, d_v, d_bias


_attended.defvjp(_attended_fwd, _attended_bwd)


def _summed_to(gradient: Array, operand: Array) -> Array:
  """Returns the gradient of an operand that was broadcast to the shape of `gradient`."""
  gradient = jnp.sum(gradient, axis=tuple(range(gradient.ndim - operand.ndim)))
  spread = tuple(i for i, n in enumerate(operand.shape) if n == 1 and gradient.shape[i] > 1)
  return jnp.sum(gradient, axis=spread, keepdims=True).astype(operand.dtype)


def _in_parts(q: Array, k: Array, v: Array, bias: Array | None, scale: float, size: int) -> Array:
  """Returns what `_attended` does, `size` queries at a time."""
  count = q.shape[-2]
  short = -count % size
  rows = jnp.moveaxis(_split_rows(q, short, size), -3, 0)
  per_row = None if bias is None or bias.ndim < 2 or bias.shape[-2] == 1 else bias
  offsets = None if per_row is None else jnp.moveaxis(_split_rows(per_row, short, size), -3, 0)

  @jax.checkpoint
  def part(pieces):
    rows, offset = pieces
    return _whole(rows, k, v, bias if per_row is None else offset, scale)

  out = jnp.moveaxis(jax.lax.map(part, (rows, offsets)), 0, -3)
  return out.reshape(*out.shape[:-3], -1, out.shape[-1])[..., :count, :]


def _split_rows(x: Array, short: int, size: int) -> Array:
  """Fills the rows of [..., rows, columns] up and splits them, [..., parts, size, columns]."""
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, short), (0, 0)])
  return x.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Turns queries or keys by their positions (rotary embedding, arXiv 2104.09864).

  Channel i and channel i + head_dim / 2 are the two coordinates of a plane ("rotate half").

  Args:
    x: [N, T, heads, head_dim]; the last P tokens have positions, those before are left alone.
    cos: Cosines of the angles, [P, head_dim], or [N, P, head_dim] where texts differ.
    sin: Sines, likewise.

  Returns:
    The same shape and dtype as `x`.
  """
  prefix, placed = jnp.split(x, [x.shape[1] - cos.shape[-2]], axis=1)
  low, high = jnp.split(placed, 2, axis=-1)
  cos, sin = cos[..., None, :], sin[..., None, :]
  turned = placed * cos + jnp.concatenate([-high, low], axis=-1) * sin
  return jnp.concatenate([prefix, turned.astype(x.dtype)], axis=1)
