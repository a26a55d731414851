"""Feed-forward branches of transformers, plain and gated."""

from __future__ import annotations

from flax import linen as nn
import jax

from ...ops import Ops

Array = jax.Array


def feed_forward(
  ops: Ops,
  x: Array,
  hidden: int,
  activation: str,
  *,
  gated: bool = False,
  use_bias: bool = True,
  prefix: str = "",
) -> Array:
  """Two maps with an activation between them; gated, act(gate(x)) * up(x) instead of the first.

  The activated gate is a dynamic weight (GLU variants, arXiv 2002.05202).

  Args:
    ops: The layer family.
    x: Tokens, [..., D].
    hidden: Hidden channels.
    activation: A name of `functional.GATES`.
    gated: Whether there is a gate.
    use_bias: Whether the maps have biases, where the family keeps biases.
    prefix: Stands before the names of the maps, in the module that calls: `linear1` and `linear2`,
      or `gate`, `up` and `down`.

  Returns:
    [..., D].
  """

  def dense(features, name, gate=None):
    return ops.dense(features, gate=gate, use_bias=use_bias, name=prefix + name)

  width = x.shape[-1]
  if not gated:
    return dense(width, "linear2", activation)(dense(hidden, "linear1")(x))
  gate = ops.act(dense(hidden, "gate")(x), activation)
  return dense(width, "down")(ops.weigh(dense(hidden, "up")(x), gate))


class Mlp(nn.Module):
  """A feed-forward branch as a module of its own; fields and parameters as for `feed_forward`."""

  ops: Ops
  hidden: int
  activation: str
  gated: bool = False
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., D] to [..., D]."""
    return feed_forward(
      self.ops, x, self.hidden, self.activation, gated=self.gated, use_bias=self.use_bias
    )
