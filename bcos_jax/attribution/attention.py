"""Attribution methods that use attention weights or propagate relevance through attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, unknown_name
from ..explain.targets import Target, Variables
from ..ops import Ops
from .families import SEEN, TAPS, AttnLRP, SeenAttention, replaced
from .gradients import input_times_gradient
from .task import Array, Batch, Progress, Task, by_image, check_resize, check_share, gradients
from .task import prepare as prepare_task
from .tokens import TokenLayout, pools_by_attention, read_out, token_layout

LRP_RULES = ("attn_lrp", "cp_lrp")


def attention_rollout(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  residual: float = 0.5,
  resize: str = "bilinear",
) -> np.ndarray:
  """Attention rollout (Abnar & Zuidema, arXiv 2005.00928, section 3, eq. 1).

  The product over blocks of (1 - residual) A + residual I, A the mean of the heads' weights, read
  at the tokens that the network reads out. It does not depend on the target.

  Args:
    residual: Share of the residual connection. Published: 0.5.
    resize: From patches to pixels, 'bilinear' or 'nearest'.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.

  Raises:
    InputError: A network that is not a plain vision transformer.
  """
  check_share("residual", residual)
  task, layout = _prepare(
    "Attention rollout", model, variables, images, targets, batch_size, progress, resize
  )
  return task.shaped(by_image(task, _rollout, residual=residual, layout=layout, resize=resize))


def _rollout(batch: Batch, *, residual: float, layout: TokenLayout, resize: str) -> Array:
  seen = _weights(batch)
  means = [jnp.mean(weights, 1) for weights in seen]
  model, last = batch.explained.model, None
  if pools_by_attention(model):
    *means, last = means
  rolled = rolled_out(means, residual, layout.count)
  rows = read_out(model, layout) @ rolled if last is None else (last @ rolled)[:, 0]
  maps = layout.upsampled(layout.patches(rows), resize)
  targets = jax.eval_shape(batch.score, batch.inputs).shape[1]
  return jnp.repeat(maps[:, None], targets, axis=1)


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


def chefer(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  resize: str = "bilinear",
) -> np.ndarray:
  """Chefer's attribution for transformers (Chefer et al., arXiv 2103.15679, eqs. 5 and 6).

  R += mean over heads of (A * gradient of A)^+ @ R from block to block, starting from I, read at
  the tokens that the network reads out. What I alone would give is left out: it is nothing for a
  class token, and the same for every patch where the head averages patches.

  Args:
    resize: As for `attention_rollout`.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.

  Raises:
    InputError: A network that is not a plain vision transformer.
  """
  task, layout = _prepare(
    "Chefer's attribution", model, variables, images, targets, batch_size, progress, resize
  )
  return task.shaped(by_image(task, _chefer, layout=layout, resize=resize))


def _chefer(batch: Batch, *, layout: TokenLayout, resize: str) -> Array:
  seen, found = _weights_and_gradients(batch)
  steps = [
    jnp.mean(jnp.maximum(weights[:, None] * gradient, 0), 2)
    for weights, gradient in zip(seen, found, strict=True)
  ]
  model, last = batch.explained.model, None
  if pools_by_attention(model):
    *steps, last = steps
  start = relevance = jnp.eye(layout.count)
  for step in steps:
    relevance = relevance + step @ relevance
  if last is None:
    rows = read_out(model, layout) @ (relevance - start)
  else:
    rows = (last @ relevance)[:, :, 0]
  return layout.upsampled(layout.patches(rows), resize)


def legrad(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  normalize: bool = True,
  resize: str = "bilinear",
) -> np.ndarray:
  """LeGrad (Bousselham et al., arXiv 2404.03214, section 3), over all blocks.

  After each block the network's own read-out scores the target; the positive part of the score's
  gradient with respect to that block's attention weights (or to those of the attention that
  pools), averaged over heads and queries, is that block's map. The result is the mean over blocks.

  Args:
    normalize: Whether the least of each map becomes 0 and the largest 1, as published.
    resize: As for `attention_rollout`.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.

  Raises:
    InputError: A network that is not a plain vision transformer.
  """
  task, layout = _prepare("LeGrad", model, variables, images, targets, batch_size, progress, resize)
  return task.shaped(
    by_image(task, _legrad, layout=layout, resize=resize, normalize=bool(normalize))
  )


def _legrad(batch: Batch, *, layout: TokenLayout, resize: str, normalize: bool) -> Array:
  model, maps = batch.explained.model, []
  for depth in range(1, model.depth + 1):
    # What the shorter networks share, all but the last block, the compiler computes once.
    shorter = batch.replaced(model.clone(depth=depth))
    _, found = _weights_and_gradients(shorter, last_only=True)
    maps.append(jnp.mean(jnp.maximum(found[0], 0), (2, 3)))
  maps = layout.upsampled(layout.patches(sum(maps) / len(maps)), resize)
  if not normalize:
    return maps
  low, high = (f(maps, (-2, -1), keepdims=True) for f in (jnp.min, jnp.max))
  return (maps - low) / jnp.where(high > low, high - low, 1)


def attn_lrp(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  rule: str = "attn_lrp",
) -> np.ndarray:
  """AttnLRP with the epsilon rule, summed over channels (Achtibat et al., arXiv 2402.05602).

  Relevance is input times a gradient with changed rules: the divisors of norms and the gates of
  activations are constants, and products of two variables halve each one's share.

  Args:
    rule: 'attn_lrp', attention as in the paper; or 'cp_lrp', which takes attention weights for
      constants (CP-LRP, arXiv 2202.07304), as ALOE's evaluation does. The second is the
      network's own `detached()` explanation.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.

  Raises:
    InputError: A network without attention, or an unknown rule.
  """
  if rule not in LRP_RULES:
    raise unknown_name("rule", rule, LRP_RULES)
  task = prepare_task(model, variables, images, targets, batch_size, progress)
  _check_attention(task, "AttnLRP")
  ops = lrp_ops(task.model.ops, rule)
  return task.shaped(by_image(task.replaced(task.model.clone(ops=ops)), input_times_gradient))


def lrp_ops(ops: Ops, rule: str = "attn_lrp") -> Ops:
  """Returns the layer family whose gradient, times the input, is the relevance of a rule."""
  return replaced(ops.detached(), AttnLRP) if rule == "attn_lrp" else ops.detached()


def _prepare(
  method: str, model, variables, images, targets, batch_size, progress, resize
) -> tuple[Task, TokenLayout]:
  """Returns the task for the network whose attention is seen, and its tokens."""
  check_resize(resize)
  task = prepare_task(model, variables, images, targets, batch_size, progress)
  layout = token_layout(task.model, task.images.shape[1:3], method)
  return _seeing(task), layout


def _seeing(task: Task) -> Task:
  return task.replaced(task.model.clone(ops=replaced(task.model.ops, SeenAttention)))


def _check_attention(task: Task, method: str) -> None:
  model, channels = _seeing(task).model, task.model.ops.encoding.channels
  image = jax.ShapeDtypeStruct((1, *task.images.shape[1:3], channels), jnp.float32)
  shown = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=[SEEN])[1], task.variables, image)
  if not jax.tree.leaves(shown):
    raise InputError(
      f"{method} needs a network with attention, and this {type(task.model).__name__} has none.",
      "Use a transformer, or a method that any network supports.",
    )


def in_order(tree: Any) -> list[tuple[tuple[str, ...], Array]]:
  """Returns (path, leaf) in the order of the network's layers: numbers in names count."""
  leaves = traverse_util.flatten_dict(tree)

  def order(path):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", "/".join(path))]

  return [(path, leaves[path]) for path in sorted(leaves, key=order)]


def _weights(batch: Batch) -> list[Array]:
  """Returns the attention weights of each layer, [B, heads, Q, T]."""
  shown = batch.explained.model.apply(batch.variables, batch.inputs, mutable=[SEEN])[1]
  return [leaf for _, leaf in in_order(shown[SEEN])]


def _weights_and_gradients(
  batch: Batch, last_only: bool = False
) -> tuple[list[Array], list[Array]]:
  """Returns attention weights [B, heads, Q, T] and their gradients [B, K, heads, Q, T]."""
  apply: Callable[..., Any] = batch.explained.model.apply
  shapes = jax.eval_shape(lambda x: apply(batch.variables, x, mutable=[SEEN])[1], batch.inputs)
  layers = in_order(shapes[SEEN])[-1 if last_only else 0 :]
  taps = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in layers}

  def score(taps):
    variables = {**batch.variables, TAPS: traverse_util.unflatten_dict(taps)}
    outputs, shown = apply(variables, batch.inputs, mutable=[SEEN])
    return batch.explained.select(outputs, batch.classes), shown[SEEN]

  found, seen = gradients(score, taps, has_aux=True)
  seen = dict(in_order(seen))
  return [seen[path] for path in taps], [found[path] for path in taps]
