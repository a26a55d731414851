"""What maps see and aim at, at some places of the inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import math
from typing import Any
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from ..layers.linear import BcosConv, convolution
from .aims import Part, rows_per_input
from .execution import Execution
from .fit import Compared, Rows
from .settings import Calibration
from .shares import Shares
from .traced import Map, evaluate

Array = jax.Array

_DRAWN = 256  # Inputs whose places are drawn at a time.


@dataclasses.dataclass(frozen=True)
class Sample:
  """The rows of this process, without what fills up shares, and the gate; see `fit.Rows`."""

  x: np.ndarray
  target: np.ndarray
  base: np.ndarray
  gain: np.ndarray
  held_out: np.ndarray
  gate: str

  def problem(self, shares: Shares) -> str:
    """Returns why nothing can be fitted to the rows of all processes; '' if something can."""
    for what, values in (("sees", self.x), ("aims at", self.target - self.base)):
      low, high = shares.range_of(values)
      if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return f"{what} values that are not finite"
      if (low == high).all():
        return f"{what} the same in all places"
    return ""

  def power(self, form: Compared, shares: Shares) -> float:
    """Returns the variance of what is compared, of all processes' held-out places.

    Of as many places as `put` makes of them: what it fills up with counts in mean errors.
    """
    wanted = np.asarray(form.act(jnp.asarray(self.target)))[self.held_out]
    held = int(shares.total(len(wanted)))
    more = shares.missing(len(self.x))
    return (shares.spread(wanted) or 1.0) * held / max(held + more, 1)

  def put(self, shares: Shares) -> Rows:
    """Returns the rows on the devices. What fills up their shares is zero and held out."""
    x, target, base = (shares.put(shares.filled(a)) for a in (self.x, self.target, self.base))
    held_out = shares.put(shares.filled(self.held_out, True))
    return jax.tree.map(jnp.asarray, Rows(x, target, base, shares.put_whole(self.gain), held_out))


class Sampler:
  """Draws places, and evaluates both networks as far as a map needs it."""

  def __init__(
    self,
    student: Execution,
    teacher: Execution,
    model: nn.Module,
    inputs: Any,
    shares: Shares,
    settings: Calibration,
  ):
    self.student, self.teacher, self.shares, self.settings = student, teacher, shares, settings
    self.head = getattr(model, "head", None)
    self.logit_bias = getattr(model.ops, "logit_bias", None) != 0
    self.odds = settings.head == "log_odds"
    mask = inputs.get("mask") if isinstance(inputs, Mapping) else None
    self.mask = None if mask is None else np.asarray(mask) != 0

  def reach(self, part: Part) -> None:
    """Evaluates both networks up to what a map sees and aims at."""
    seen = self.student.program.seen_by(part.path)
    head = part.path == self.head
    self.student.advance([seen] if head else [seen, *part.student.sides])
    self.teacher.advance([self.teacher.program.output if head else part.teacher.ends[-1]])

  def rows(self, part: Part) -> Sample:
    """Returns the rows of a map that is reached."""
    return (self._head_rows if part.path == self.head else self._rows)(part)

  def _rows(self, part: Part) -> Sample:
    student = self.student
    module = student.program.maps[part.path]
    seen, response = (f(part.path) for f in (student.program.seen_by, student.program.response))
    shape = student.program.shapes[response]
    places = self.places(part.path, shape)
    index = [places[rows] for rows in self.shares.batches(self.settings.batch_size)]
    end = part.student.ends[-1]
    chain = student.missing(end, response)

    def sample(env, index):
      x = seen_at(module, env[seen], index)
      values = [evaluate(chain, env | {response: jnp.full(shape, s)}, [end])[0] for s in (0.0, 1.0)]
      base, one = (rows_at(value, index) for value in values)
      return x, base, (one - base)[:, 0]

    x, base, gain = self.gathered(student.per_batch(chain, sample, index, reads=[seen]))
    target = self._wanted(part, index)
    gate = part.student.gate
    if part.teacher.gate and not gate:
      target = np.asarray(F.gated(jnp.asarray(target), part.teacher.gate))
    held = np.broadcast_to(self.shares.held_out[:, None], x.shape[:2])
    read = self._read(shape, places)
    x, target, base, held = (each[read] for each in (x, target, base, held))
    return Sample(_seen(module, x[:, None]), target, base, gain[0], held, gate)

  def _wanted(self, part: Part, index: list[np.ndarray]) -> np.ndarray:
    """Returns the teacher's values at the places; its one value per input where it pooled first."""
    end = part.teacher.ends[-1]

    def sample(env, index):
      value = env[end]
      if rows_per_input(value.shape) == 1:
        index = jnp.zeros_like(index)
      return (rows_at(value, index),)

    return self.gathered(self.teacher.per_batch((), sample, index, reads=[end]))[0]

  def _head_rows(self, part: Part) -> Sample:
    """Returns the head's inputs at all places of each input, and its targets for their mean."""
    student, teacher = self.student, self.teacher
    module = student.program.maps[part.path]
    seen, response = (f(part.path) for f in (student.program.seen_by, student.program.response))
    shape = student.program.shapes[response]
    end = student.program.output
    tail = student.missing(end, response)

    def sample(env):
      x = F.gated(env[seen], module.gate or "identity")
      base, one = (
        evaluate(tail, env | {response: jnp.full(shape, s)}, [end])[0] for s in (0.0, 1.0)
      )
      return x.reshape(len(x), -1, 1, x.shape[-1]), base, one - base

    x, base, gain = self.gathered(student.per_batch(tail, sample, reads=[seen]))
    output = teacher.program.output
    (logits,) = self.gathered(teacher.per_batch((), lambda env: (env[output],), reads=[output]))
    if self.settings.head == "auto":
      # Other heads add to the logits as well; without a constant the function is the aim.
      self.odds = self.logit_bias and bool(base.any())
    target = np.asarray(self.aimed(jnp.asarray(logits)))
    return Sample(_seen(module, x), target, base, gain[0], self.shares.held_out, "")

  def aimed(self, logits: Array) -> Array:
    """Returns what the head aims at where the teacher has such logits."""
    if not self.odds:
      return logits
    p = jax.nn.log_softmax(logits)
    odds = p - jnp.log1p(-jnp.exp(jnp.minimum(p, -1e-6)))
    return jnp.clip(odds, -self.settings.clip, self.settings.clip)

  def gathered(self, results: Iterable[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Returns the rows of all this process's batches, without what filled them up."""
    return gathered(results, len(self.shares.held_out))

  def places(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns which rows of each input of this process are looked at, int [n, r]."""
    count = self.shares.count
    inputs = math.prod(self.student.variables[f"params/{path}/kernel"].shape[:-1])
    there = rows_per_input(shape)
    places, rng = drawn(self.settings, path, inputs, count, there)
    if (mask := self.mask_of(shape)) is not None:
      # Padding last, and all else in an order that does not depend on its length.
      order = np.where(mask, rng.random((there, count)).T[self.shares.mine], np.inf)
      return _smallest(order, places.shape[1])
    return places[self.shares.mine]

  def mask_of(self, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns which rows of a value are no padding, if it has one for each token."""
    return self.mask if self.mask is not None and shape[1:-1] == self.mask.shape[1:] else None

  def _read(self, shape: tuple[int, ...], places: np.ndarray) -> np.ndarray:
    """Returns which of the places are no padding, bool [n, r]."""
    mask = self.mask_of(shape)
    return np.ones(places.shape, bool) if mask is None else np.take_along_axis(mask, places, axis=1)


def gathered(results: Iterable[tuple[np.ndarray, ...]], count: int) -> list[np.ndarray]:
  """Returns the rows of all batches, `count` of them, without what filled the batches up."""
  begin, made = 0, []
  for parts in results:
    made = made or [np.empty((count, *part.shape[1:]), part.dtype) for part in parts]
    for whole, part in zip(made, parts, strict=True):
      whole[begin : begin + len(part)] = part[: max(count - begin, 0)]
    begin += len(parts[0])
  return made


def drawn(
  settings: Calibration, path: str, inputs: int, count: int, there: int
) -> tuple[np.ndarray, np.random.Generator]:
  """Returns which rows of each input a map is fitted at, int [count, r], and the generator.

  Args:
    settings: How many rows are wanted.
    path: Of the map, which draws others than other maps.
    inputs: Channels that a response sees.
    count: Inputs.
    there: Rows of each.
  """
  wanted = max(settings.rows, settings.rows_per_channel * inputs)
  each = min(there, -(-wanted // count))
  rng = np.random.default_rng([settings.seed, zlib.crc32(path.encode())])
  starts = range(0, count, _DRAWN)
  blocks = (_smallest(rng.random((min(_DRAWN, count - i), there)), each) for i in starts)
  return np.concatenate(list(blocks)), rng


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
  """Returns where in each row its smallest values are, in ascending order, int [n, count]."""
  return np.sort(np.argpartition(values, count - 1, axis=1)[:, :count], axis=1)


def seen_at(module: Map, x: Array, index: Array) -> Array:
  """Returns what a map sees of [B, ..., C] at some places, [B, r, groups, inputs]."""
  if not isinstance(module, BcosConv):
    return F.gated(rows_at(x, index), module.gate or "identity")[:, :, None]
  linear = convolution(module, x.shape[1:-1])
  x = jnp.pad(x, ((0, 0), *linear.pads, (0, 0)))
  windows = jnp.asarray(_windows(linear, x.shape[1:-1]))[index]
  batch, places, size = windows.shape
  # Channels outermost, as kernels are grouped.
  seen = jnp.swapaxes(rows_at(x, windows.reshape(batch, -1)).reshape(batch, places, size, -1), 2, 3)
  return seen.reshape(batch, places, linear.groups, -1)


def _windows(linear: Any, padded: tuple[int, ...]) -> np.ndarray:
  """Returns the positions that each response of a convolution sees, int [places, window]."""
  axes = []
  for size, k, stride, dilation in zip(
    padded, linear.window, linear.strides, linear.dilation, strict=True
  ):
    first = np.arange(0, size - dilation * (k - 1), stride)
    axes.append(first[:, None] + dilation * np.arange(k))
  flat = np.zeros((1, 1), int)
  for size, axis in zip(padded, axes, strict=True):
    flat = flat[:, None, :, None] * size + axis[None, :, None, :]
    flat = flat.reshape(flat.shape[0] * flat.shape[1], -1)
  return flat


def _seen(module: Map, x: np.ndarray) -> np.ndarray:
  """Returns rows with the constant channel of a bias, if the map has one."""
  if not module.use_bias:
    return x
  return np.concatenate([x, np.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)


def rows_at(value: Array, index: Array) -> Array:
  """Returns rows [B, r, C] of a value [B, ..., C]."""
  value = value.reshape(len(value), -1, value.shape[-1])
  return jnp.take_along_axis(value, index[:, :, None], axis=1)
