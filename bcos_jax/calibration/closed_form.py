"""B-cosification in closed form: a student's maps fitted to its teacher's, one after the other.

No labels and no gradients of a loss: from pictures or texts alone, each map of the student is given
the kernel whose response, on what the student really sees, is closest to what the teacher makes at
that place. The maps come in the order of the network; each is fitted on the results of those
before, so that their errors are mended instead of added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import Any
import zlib

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from ..batches import filled
from ..layers.linear import BcosConv, convolution
from . import norms
from .aims import Part, parts, rows_per_input
from .fit import Compared, Rows, errors, fit
from .inputs import check_inputs, check_networks
from .kernels import Kernel
from .report import Fitted, Report
from .settings import Calibration
from .traced import Execution, Map, evaluate, trace

Array = jax.Array
Variables = Mapping[str, Any]

LARGEST_PATCHES = 2**27
"""Bytes of patches that are made at a time."""


def calibrate(
  teacher: nn.Module,
  teacher_variables: Variables,
  student: nn.Module,
  variables: Variables,
  inputs: Any,
  settings: Calibration | None = None,
  *,
  progress: Callable[[Sequence[Part]], Iterable[Part]] = iter,
) -> tuple[Variables, Report]:
  """Fits the maps of a B-cosified network to those of the conventional one, without labels.

  Args:
    teacher: The conventional network.
    teacher_variables: Its variables.
    student: The B-cos network that `bcosify` makes of it.
    variables: Its variables; not modified.
    inputs: Pictures of the network's domain, plain colours [N, H, W, C] in [0, 1]; or texts,
      {"tokens": ids [N, L], "mask": [N, L], zero where there is padding}.
    settings: Places, effort, and what the head aims at.
    progress: Wraps the loop over the maps, such as `tqdm.tqdm`.

  Returns:
    The student's variables in closed form, and how well each map fits on held-out inputs. A map
    whose fit is worse than what it started from stays as it was, and so does one that sees or aims
    at values that are constant or not finite; the report names them.

  Raises:
    InputError: A teacher that is a B-cos network, a student that is none; inputs that the networks
      cannot take, too few, or not finite.
  """
  check_networks(teacher, student)
  settings = Calibration() if settings is None else settings
  count = check_inputs(inputs)
  batches = [
    jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], inputs)
    for rows, _ in filled(count, settings.batch_size)
  ]
  taught, learned = (
    Execution(trace(model, tree, batches[0], apply), _flat(tree), batches)
    for model, tree in ((teacher, teacher_variables), (student, variables))
  )
  fitter = _Fitter(learned, taught, student, count, inputs, settings)
  before = fitter.outputs(Execution(learned.program, learned.variables, batches))
  order = list(parts(learned.program, taught.program))
  fitted = tuple(fitter.fit(part) for part in progress(order))
  met = {part.path for part in order}
  wanted, after = fitter.outputs(taught), fitter.outputs(learned)
  features = getattr(student, "predicts", "classes") == "features"
  agreements = [_agreement(wanted, found, features=features) for found in (before, after)]
  left = tuple(path for path in learned.program.maps if path not in met)
  report = Report(fitted, left, *agreements, features=features)
  return traverse_util.unflatten_dict(learned.variables, sep="/"), report


def _agreement(teacher: np.ndarray, student: np.ndarray, *, features: bool) -> float:
  """Returns the share of equal predictions of outputs [n, C], or of features the mean cosine."""
  if not (np.isfinite(student).all()):
    return 0.0
  if not features:
    return float((teacher.argmax(-1) == student.argmax(-1)).mean())
  length = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(student, axis=-1)
  return float(((teacher * student).sum(-1) / np.maximum(length, 1e-30)).mean())


def apply(model: nn.Module, variables: Variables, inputs: Any) -> Array:
  """Returns a network's output for plain colours [N, H, W, C] or {'tokens', 'mask'}."""
  if isinstance(inputs, Mapping):
    output = model.apply(variables, inputs["tokens"], mask=inputs.get("mask"))
  else:
    output = model.apply(variables, model.ops.encoding(inputs))
  return jnp.asarray(output)


def _flat(variables: Variables) -> dict[str, Any]:
  return traverse_util.flatten_dict(variables, sep="/")


class _Fitter:
  """Fits one map after the other; the student's variables change in its run."""

  def __init__(
    self, student: Execution, teacher: Execution, model, count, inputs, settings: Calibration
  ):
    self.student, self.teacher = student, teacher
    self.head = getattr(model, "head", None)
    self.logit_bias = getattr(model.ops, "logit_bias", None) != 0
    self.settings, self.count = settings, count
    self.held_out = np.arange(count) >= count - settings.held(count)
    mask = inputs.get("mask") if isinstance(inputs, Mapping) else None
    self.mask = None if mask is None else np.asarray(mask) != 0

  def fit(self, part: Part) -> Fitted:
    module = self.student.program.maps[part.path]
    start = dict(self.student.variables)
    kernel = Kernel(self.student.variables, part.path, module)
    old = kernel.plain(self._silence_norms(part))
    rows, gate = (
      self._head_rows(part, module) if part.path == self.head else self._rows(part, module)
    )
    about = {
      "path": part.path,
      "inputs": old.shape[1],
      "outputs": old.shape[0] * old.shape[2],
      "rows": len(rows.x),
      "gate": gate,
    }
    if problem := _problem(rows):
      self.student.variables.update(start)
      return Fitted(**about, kept=True, problem=problem)
    length = None if part.student.norms[-1] else kernel.length
    form = Compared(kernel.b, module.guard, gate, module.use_bias, length)
    new, figures = fit(rows, old, form, self.settings.effort)
    before, after = (float(errors(w, rows, form)[1].sum()) for w in (old, new))
    kept = not after < before
    gain = kernel.write(old if kept else new)
    self._restore_norms(part, gain)
    wanted = np.asarray(form.act(rows.target))[np.asarray(rows.held_out)]
    power = float(wanted.var(axis=0).sum()) or 1.0
    return Fitted(
      **about,
      before=1 - before / power,
      fit=1 - min(before, after) / power,
      ridge=float(figures["ridge"]),
      condition=float(figures["condition"]),
      kept=kept,
    )

  def outputs(self, run: Execution) -> np.ndarray:
    """Returns what a network makes of the held-out inputs."""
    run.advance([run.program.output])
    output = run.program.output
    (found,) = self._gathered(run.per_batch((), lambda env: (env[output],), reads=[output]))
    mask = self._mask_of(found.shape)
    return found[self.held_out if mask is None else mask & self.held_out[:, None]]

  def _rows(self, part: Part, module: Map) -> tuple[Rows, str]:
    student, teacher = self.student, self.teacher
    seen, response = (f(part.path) for f in (student.program.seen_by, student.program.response))
    student.advance([seen, *part.student.sides])
    teacher.advance([part.teacher.ends[-1]])
    shape = student.program.shapes[response]
    index = self._places(part.path, shape, module)
    end = part.student.ends[-1]
    chain = student.missing(end, response)

    def sample(env, index):
      x = _seen_at(module, env[seen], index)
      values = [evaluate(chain, env | {response: jnp.full(shape, s)}, [end])[0] for s in (0.0, 1.0)]
      base, one = (_at(value, index) for value in values)
      return x, base, (one - base)[:, 0]

    x, base, gain = self._gathered(student.per_batch(chain, sample, index, reads=[seen]))
    target = self._wanted(part, index)
    gate = part.student.gate
    if part.teacher.gate and not gate:
      target = np.asarray(F.gated(jnp.asarray(target), part.teacher.gate))
    held = np.broadcast_to(self.held_out[:, None], x.shape[:2])
    read = self._read(shape, index)
    x, target, base, held = (each[read] for each in (x, target, base, held))
    x = _seen(module, x[:, None])
    return Rows(*map(jnp.asarray, (x, target, base, gain[0], held))), gate

  def _wanted(self, part: Part, index: list[np.ndarray]) -> np.ndarray:
    """Returns the teacher's values at the places; its one value per input where it pooled first."""
    end = part.teacher.ends[-1]

    def sample(env, index):
      value = env[end]
      if rows_per_input(value.shape) == 1:
        index = jnp.zeros_like(index)
      return (_at(value, index),)

    return self._gathered(self.teacher.per_batch((), sample, index, reads=[end]))[0]

  def _head_rows(self, part: Part, module: Map) -> tuple[Rows, str]:
    """Returns the head's inputs at all places of each input, and its targets for their mean."""
    student, teacher = self.student, self.teacher
    seen, response = (f(part.path) for f in (student.program.seen_by, student.program.response))
    student.advance([seen])
    teacher.advance([teacher.program.output])
    shape = student.program.shapes[response]
    end = student.program.output
    tail = student.missing(end, response)

    def sample(env):
      x = F.gated(env[seen], module.gate or "identity")
      base, one = (
        evaluate(tail, env | {response: jnp.full(shape, s)}, [end])[0] for s in (0.0, 1.0)
      )
      return x.reshape(len(x), -1, 1, x.shape[-1]), base, one - base

    x, base, gain = self._gathered(student.per_batch(tail, sample, reads=[seen]))
    output = teacher.program.output
    (logits,) = self._gathered(teacher.per_batch((), lambda env: (env[output],), reads=[output]))
    x = _seen(module, x)
    rows = (x, self._aimed(logits, base), base, gain[0], self.held_out)
    return Rows(*map(jnp.asarray, rows)), ""

  def _aimed(self, logits: np.ndarray, base: np.ndarray) -> np.ndarray:
    head = self.settings.head
    # Other heads add to the logits as well; without a constant the function is the aim.
    if head == "logits" or (head == "auto" and not (self.logit_bias and base.any())):
      return logits
    p = jax.nn.log_softmax(logits)
    odds = p - jnp.log1p(-jnp.exp(jnp.minimum(p, -1e-6)))
    return np.asarray(jnp.clip(odds, -self.settings.clip, self.settings.clip))

  def _gathered(self, results: list[tuple[Any, ...]]) -> list[np.ndarray]:
    """Returns the rows of all batches without what filled up the last one."""
    return [np.concatenate(parts)[: self.count] for parts in zip(*results, strict=True)]

  def _places(self, path: str, shape: tuple[int, ...], module: Map) -> list[np.ndarray]:
    """Returns which rows of each input are looked at, int [B, r] for each batch."""
    inputs = math.prod(self.student.variables[f"params/{path}/kernel"].shape[:-1])
    wanted = max(self.settings.rows, self.settings.rows_per_channel * inputs)
    there = rows_per_input(shape)
    each = min(there, -(-wanted // self.count))
    rng = np.random.default_rng([self.settings.seed, zlib.crc32(path.encode())])
    order = rng.random((self.count, there))
    if (mask := self._mask_of(shape)) is not None:
      # Padding last, and all else in an order that does not depend on its length.
      order = np.where(mask, rng.random((there, self.count)).T, np.inf)
    index = np.sort(np.argsort(order, axis=1)[:, :each], axis=1)
    return [index[rows] for rows, _ in filled(self.count, self.settings.batch_size)]

  def _mask_of(self, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns which rows of a value are no padding, if it has one for each token."""
    return self.mask if self.mask is not None and shape[1:-1] == self.mask.shape[1:] else None

  def _read(self, shape: tuple[int, ...], index: list[np.ndarray]) -> np.ndarray:
    """Returns which of the places are no padding, bool [N, r]."""
    (places,) = self._gathered([(rows,) for rows in index])
    mask = self._mask_of(shape)
    return np.ones(places.shape, bool) if mask is None else np.take_along_axis(mask, places, axis=1)

  def _silence_norms(self, part: Part) -> Array:
    """Makes the batch norms of a chain the identity; returns what they multiplied by."""
    program, variables = self.student.program, self.student.variables
    product = jnp.ones(())
    for path in part.student.norms[-1]:
      product = product * norms.gain(variables, path, program.norms[path])
      norms.set_identity(variables, path, program.norms[path])
    return product

  def _restore_norms(self, part: Part, gain: Array) -> None:
    """Gives the first batch norm of a chain the statistics of the new response.

    It then multiplies by `gain` in evaluation, and about so with the statistics of a batch.
    """
    program = self.student.program
    for path in part.student.norms[-1][:1]:
      seen = program.seen_by(path)
      self.student.advance([seen])

      def moments(env: dict[int, Array], seen: int = seen) -> tuple[Array, Array]:
        x = env[seen].reshape(len(env[seen]), -1, env[seen].shape[-1])
        return x.mean(1), (x**2).mean(1)

      found = self._gathered(self.student.per_batch((), moments, reads=[seen]))
      mean, square = (each.mean(0) for each in found)
      norms.set_identity(self.student.variables, path, program.norms[path], mean, square, gain)


def _problem(rows: Rows) -> str:
  """Returns why nothing can be fitted to rows; '' if something can."""
  for what, values in (("sees", rows.x), ("aims at", rows.target - rows.base)):
    if not bool(jnp.isfinite(values).all()):
      return f"{what} values that are not finite"
    if bool((values == values[:1]).all()):
      return f"{what} the same in all places"
  return ""


def _seen_at(module: Map, x: Array, index: Array) -> Array:
  """Returns what a map sees of [B, ..., C] at some places, [B, r, groups, inputs]."""
  if not isinstance(module, BcosConv):
    return F.gated(_at(x, index), module.gate or "identity")[:, :, None]
  size = 4 * math.prod(module.kernel_size) * math.prod(x.shape[1:])
  return jax.lax.map(
    lambda each: _inputs(module, each[0][None])[each[1]],
    (x, index),
    batch_size=max(1, LARGEST_PATCHES // size),
  )


def _inputs(module: BcosConv, x: Array) -> Array:
  """Returns what each response of a convolution sees of [1, ..., C], [places, groups, inputs]."""
  axes = "DHW"[3 - len(module.kernel_size) :]
  linear = convolution(module, x.shape[1:-1])
  patches = jax.lax.conv_general_dilated_patches(
    x,
    linear.window,
    linear.strides,
    linear.pads,
    rhs_dilation=linear.dilation,
    dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
  )
  return patches.reshape(-1, linear.groups, patches.shape[-1] // linear.groups)


def _seen(module: Map, x: np.ndarray) -> np.ndarray:
  """Returns rows with the constant channel of a bias, if the map has one."""
  if not module.use_bias:
    return x
  return np.concatenate([x, np.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)


def _at(value: Array, index: Array) -> Array:
  """Returns rows [B, r, C] of a value [B, ..., C]."""
  value = value.reshape(len(value), -1, value.shape[-1])
  return jnp.take_along_axis(value, index[:, :, None], axis=1)
