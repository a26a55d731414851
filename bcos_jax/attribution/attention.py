"""Attribution methods that use attention weights or propagate relevance through attention."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re
from typing import Any, ClassVar

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..ops import Ops
from .families import SEEN, TAPS, HalvedProducts, SeenAttention, replaced
from .gradients import input_times_gradient, shows
from .images import check_resize
from .running import summed
from .settings import Method
from .task import Array, Batch, Task, check_choice, check_share, gradients
from .tokens import PixelTokens, pixel_tokens

LRP_RULES = ("attn_lrp", "cp_lrp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionRollout(Method):
  """Attention rollout (Abnar & Zuidema, arXiv 2005.00928, section 3, eq. 1).

  The product over blocks of (1 - residual) A + residual I, A the mean of the heads' weights, read
  at the tokens that the network reads out. It does not depend on the target. It applies to plain
  vision transformers.

  Args:
    residual: Share of the residual connection. Published: 0.5.
    resize: From patches to pixels, 'bilinear' or 'nearest'.
  """

  name: ClassVar[str] = "attention_rollout"
  residual: float = 0.5
  resize: str = "bilinear"

  def __post_init__(self):
    check_share("residual", self.residual)
    check_resize(self.resize)

  def run(self, task: Task) -> np.ndarray:
    layout = pixel_tokens(task.network.model, task.side, "Attention rollout")
    settings = {"residual": float(self.residual), "layout": layout, "resize": self.resize}
    return summed(_seeing(task), _rollout, **settings)


def _rollout(batch: Batch, _: Array, *, residual: float, layout: PixelTokens, resize: str) -> Array:
  seen = _weights(batch)
  means = [jnp.mean(weights, 1) for weights in seen]
  last = None
  if layout.layout.probe:
    *means, last = means
  rolled = rolled_out(means, residual, layout.count)
  rows: Any = (
    layout.read_out() @ rolled if last is None else (last @ rolled[..., layout.prefix :, :])[:, 0]
  )
  return layout.upsampled(layout.patches(rows), resize)[:, None]


def rolled_out(means: Sequence[Array], residual: float, count: int) -> Array:
  """Returns the product of (1 - residual) A + residual I over blocks, the last one leftmost.

  Args:
    means: Weights [..., count, count] of each block, the mean of its heads, the first block first.
    residual: Share of the residual connection.
    count: Number of tokens.
  """
  rolled = jnp.eye(count)
  for weights in means:
    rolled = (1 - residual) * (weights @ rolled) + residual * rolled
  return rolled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chefer(Method):
  """Chefer's attribution for transformers (Chefer et al., arXiv 2103.15679, eqs. 5 and 6).

  R += mean over heads of (A * gradient of A)^+ @ R from block to block, starting from I, read at
  the tokens that the network reads out. What I alone would give is left out: it is nothing for a
  class token, and the same for every patch where the head averages patches. It applies to plain
  vision transformers.

  Args:
    resize: As for `attention_rollout`.
  """

  name: ClassVar[str] = "chefer"
  resize: str = "bilinear"

  def __post_init__(self):
    check_resize(self.resize)

  def run(self, task: Task) -> np.ndarray:
    layout = pixel_tokens(task.network.model, task.side, "Chefer's attribution")
    return summed(_seeing(task), _chefer, layout=layout, resize=self.resize)


def _chefer(batch: Batch, _: Array, *, layout: PixelTokens, resize: str) -> Array:
  seen, found = _weights_and_gradients(batch)
  steps = [
    jnp.mean(jnp.maximum(weights[:, None] * gradient, 0), 2)
    for weights, gradient in zip(seen, found, strict=True)
  ]
  last = None
  if layout.layout.probe:
    *steps, last = steps
  start = relevance = jnp.eye(layout.count)
  for step in steps:
    relevance = relevance + step @ relevance
  if last is None:
    rows = layout.read_out() @ (relevance - start)
  else:
    rows = (last @ relevance[..., layout.prefix :, :])[:, :, 0]
  return layout.upsampled(layout.patches(jnp.asarray(rows)), resize)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeGrad(Method):
  """LeGrad (Bousselham et al., arXiv 2404.03214, section 3), over all blocks.

  After each block the network's own read-out scores the target; the positive part of the score's
  gradient with respect to that block's attention weights (or to those of the attention that
  pools), averaged over heads and queries, is that block's map. The result is the mean over blocks.
  It applies to plain vision transformers.

  Args:
    normalize: Whether the least of each map becomes 0 and the largest 1, as published.
    resize: As for `attention_rollout`.
  """

  name: ClassVar[str] = "legrad"
  normalize: bool = True
  resize: str = "bilinear"

  def __post_init__(self):
    check_resize(self.resize)

  def run(self, task: Task) -> np.ndarray:
    layout = pixel_tokens(task.network.model, task.side, "LeGrad")
    settings = {"resize": self.resize, "normalize": bool(self.normalize)}
    return summed(_seeing(task), _legrad, layout=layout, **settings)


def _legrad(batch: Batch, _: Array, *, layout: PixelTokens, resize: str, normalize: bool) -> Array:
  model, maps = batch.network.model, []
  for depth in range(1, model.depth + 1):
    # What the shorter networks share, all but the last block, the compiler computes once.
    shorter = batch.replaced(model=model.clone(depth=depth))
    found = _weights_and_gradients(shorter, last_only=True)[1]
    maps.append(jnp.mean(jnp.maximum(found[0], 0), (2, 3)))
  maps = layout.upsampled(layout.patches(sum(maps[1:], maps[0]) / len(maps)), resize)
  if not normalize:
    return maps
  low, high = (f(maps, (-2, -1), keepdims=True) for f in (jnp.min, jnp.max))
  return (maps - low) / jnp.where(high > low, high - low, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttnLrp(Method):
  """AttnLRP with the epsilon rule, summed over channels (Achtibat et al., arXiv 2402.05602).

  Relevance is input times a gradient with changed rules: the divisors of norms and the gates of
  activations are constants, and products of two variables halve each one's share. It applies to
  networks with attention.

  Args:
    rule: 'attn_lrp', attention as in the paper; or 'cp_lrp', which takes attention weights for
      constants (CP-LRP, arXiv 2202.07304), as ALOE's evaluation does. The second is the
      network's own `detached()` explanation.
  """

  name: ClassVar[str] = "attn_lrp"
  rule: str = "attn_lrp"

  def __post_init__(self):
    check_choice("rule", self.rule, LRP_RULES)

  def run(self, task: Task) -> np.ndarray:
    model = task.network.model
    if not shows(_seeing(task)):
      raise InputError(
        f"AttnLRP needs a network with attention, and this {type(model).__name__} has none.",
        "Use a transformer, or a method that any network supports.",
      )
    ops = lrp_ops(model.ops, self.rule)
    return summed(task.replaced(model=model.clone(ops=ops)), input_times_gradient)


def lrp_ops(ops: Ops, rule: str = "attn_lrp") -> Ops:
  """Returns the layer family whose gradient, times the input, is the relevance of a rule."""
  return replaced(ops.detached(), HalvedProducts) if rule == "attn_lrp" else ops.detached()


def _seeing(task: Task) -> Task:
  """Returns the task for the network that shows its attention weights."""
  model = task.network.model
  return task.replaced(model=model.clone(ops=replaced(model.ops, SeenAttention)))


def in_order(tree: Any) -> list[tuple[tuple[str, ...], Array]]:
  """Returns (path, leaf) in the order of the network's layers: numbers in names count."""
  leaves: dict[Any, Any] = traverse_util.flatten_dict(tree)

  def order(path):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", "/".join(path))]

  return [(path, leaves[path]) for path in sorted(leaves, key=order)]


def _weights(batch: Batch) -> list[Array]:
  """Returns the attention weights of each layer, [B, heads, Q, T]."""
  shown = batch.network.model.apply(batch.network.variables, batch.inputs, mutable=[SEEN])[1]
  return [leaf for _, leaf in in_order(shown[SEEN])]


def _weights_and_gradients(
  batch: Batch, last_only: bool = False
) -> tuple[list[Array], list[Array]]:
  """Returns attention weights [B, heads, Q, T] and their gradients [B, K, heads, Q, T]."""
  apply, variables = batch.network.model.apply, batch.network.variables
  shapes = jax.eval_shape(lambda x: apply(variables, x, mutable=[SEEN])[1], batch.inputs)
  layers = in_order(shapes[SEEN])[-1 if last_only else 0 :]
  taps = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in layers}

  def score(taps):
    tapped = {**variables, TAPS: traverse_util.unflatten_dict(taps)}
    outputs, shown = apply(tapped, batch.inputs, mutable=[SEEN])
    return batch.select(outputs), shown[SEEN]

  found, seen = gradients(score, taps, has_aux=True)
  seen = dict(in_order(seen))
  return [seen[path] for path in taps], [found[path] for path in taps]
