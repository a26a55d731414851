"""B-cosification in closed form: a student's maps fitted to its teacher's, one after the other.

No labels and no gradients of a loss: from pictures or texts alone, each map of the student is given
the kernel whose response, on what the student really sees, is closest to what the teacher makes at
that place. The maps come in the order of the network; each is fitted on the results of those
before, so that their errors are mended instead of added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from ..models import BaseNetwork
from . import norms
from .aims import Part, blocks, parts
from .blocks import BlockFitter, Importance, importance
from .execution import Execution
from .finished import FinishedMaps, key_of
from .fit import Compared, Effort, Rows, errors, fit
from .inputs import check_inputs, check_networks
from .kernels import Kernel
from .report import Fitted, Refined, Report
from .sampling import Sampler
from .settings import Calibration
from .shares import Shares
from .store import Store
from .traced import evaluate, trace

Array = jax.Array
Variables = Mapping[str, Any]


def calibrate(
  teacher: nn.Module,
  teacher_variables: Variables,
  student: nn.Module,
  variables: Variables,
  inputs: Any,
  settings: Calibration | None = None,
  *,
  mesh: Mesh | None = None,
  cache: str | os.PathLike | None = None,
  progress: Callable[[Sequence[Part]], Iterable[Part]] = iter,
) -> tuple[Variables, Report]:
  """Fits the maps of a B-cosified network to those of the conventional one, without labels.

  In memory are both networks, the inputs, `settings.memory` of activations or more (see there), and
  the rows of one map: `settings.rows`, or `rows_per_channel` times its inputs if more, of its
  inputs in float32, about three times over. A second sweep (`Effort.block_rounds`) holds what a
  block returns for all inputs, four times over, whatever `settings.memory` says.

  Networks of other libraries (`program.as_network`) are fitted on one device, their activations in
  memory; mesh and cache are not used, and there is no second sweep.

  Args:
    teacher: The conventional network.
    teacher_variables: Its variables.
    student: The B-cos network that `bcosify` makes of it.
    variables: Its variables; not modified.
    inputs: Pictures of the network's domain, plain colours [N, H, W, C] in [0, 1] or, in a quarter
      of the memory, of 8 bits; or texts, {"tokens": ids [N, L], "mask": [N, L], zero where there
      is padding}.
    settings: Places, effort, and what the head aims at.
    mesh: Devices over which inputs and places are split, all axes alike; None computes on the
      default device. On several processes each gives inputs of its own; the result is that of one
      device from all of them, up to the order of sums.
    cache: Folder in which each finished map is recorded, on several processes one that all see. An
      interrupted calibration of the same networks, inputs and settings goes on from there, and on
      the same devices ends with the same bits. What does not fit in `settings.memory` lies there
      meanwhile. The folder is left with the records, which may be deleted.
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
  networks = (teacher, teacher_variables), (student, variables)
  if isinstance(student, BaseNetwork):
    made = student.calibrated(variables, networks[0], inputs, settings, progress)
    if made is not None:
      return made
  with jax.default_matmul_precision("highest"):
    return _fitted(*networks, inputs, settings, Shares(mesh, count), cache).run(progress)


def _fitted(
  teacher: tuple[nn.Module, Variables],
  student: tuple[nn.Module, Variables],
  inputs: Any,
  settings: Calibration,
  shares: Shares,
  cache: str | os.PathLike | None,
) -> _Fitter:
  shares.hold_out(settings.held(shares.count))
  key = ""
  if cache is not None:
    told = dataclasses.replace(settings, memory=0)  # which changes nothing
    models, variables = (teacher[0], student[0]), (teacher[1], student[1], inputs)
    key = key_of(models, variables, told, shares)
  return _Fitter(teacher, student, inputs, settings, shares, FinishedMaps(cache, key, shares))


def input_batches(inputs: Any, rows: Sequence[np.ndarray]) -> list[Any]:
  """Returns rows of the inputs, views where they follow each other."""

  def taken(leaf: Any, which: np.ndarray) -> np.ndarray:
    whole = which[-1] - which[0] == len(which) - 1
    return np.asarray(leaf)[slice(which[0], which[-1] + 1) if whole else which]

  return [jax.tree.map(lambda leaf, which=which: taken(leaf, which), inputs) for which in rows]


def apply(model: nn.Module, variables: Variables, inputs: Any) -> Array:
  """Returns a network's output for plain colours [N, H, W, C] or {'tokens', 'mask'}.

  Colours are in [0, 1], or of 8 bits.
  """
  if isinstance(inputs, Mapping):
    output = model.apply(variables, inputs["tokens"], mask=inputs.get("mask"))
  else:
    colors = inputs / np.float32(255) if inputs.dtype == np.uint8 else inputs
    output = model.apply(variables, model.ops.encoding(colors))
  return jnp.asarray(output)


def _flat(variables: Variables) -> dict[str, Any]:
  return traverse_util.flatten_dict(variables, sep="/")


@functools.partial(jax.jit, static_argnames=("form", "effort", "everywhere"))
def fitted_kernel(
  rows: Rows, old: Array, form: Compared, effort: Effort, everywhere: Any
) -> tuple[Array, dict[str, Array]]:
  """Returns the new kernel and its figures, with held-out errors `before` and `after`."""
  new, figures = fit(rows, old, form, effort)
  before, after = (errors(w, rows, form)[1].sum() for w in (old, new))
  made = new, {**figures, "before": before, "after": after}
  return made if everywhere is None else lax.with_sharding_constraint(made, everywhere)


class _Fitter:
  """Fits one map after the other; the student's variables change in its run."""

  def __init__(
    self,
    teacher: tuple[nn.Module, Variables],
    student: tuple[nn.Module, Variables],
    inputs: Any,
    settings: Calibration,
    shares: Shares,
    finished: FinishedMaps,
  ):
    self.settings, self.shares, self.finished, self._inputs = settings, shares, finished, inputs
    self._kept = shares, Store(settings.memory * 2**30, finished.activations), {}
    batches = input_batches(inputs, shares.batches(settings.batch_size))
    shape = jax.tree.map(shares.shape, batches[0])
    self.student, self.teacher = (
      Execution(trace(model, tree, shape, apply), _flat(tree), batches, *self._kept)
      for model, tree in (student, teacher)
    )
    self.sampler = Sampler(self.student, self.teacher, student[0], inputs, shares, settings)
    self.features = getattr(student[0], "predicts", "classes") == "features"

  def run(self, progress: Callable[[Sequence[Part]], Iterable[Part]]) -> tuple[Variables, Report]:
    """Fits all maps; returns the student's variables, and how well each fits."""
    student, size = self.student, self.settings.batch_size
    # What is held out lies in few batches.
    held = self.shares.batches(size, held_out=True)
    start = Execution(
      student.program, student.variables, input_batches(self._inputs, held), *self._kept
    )
    before = self.predictions(start, held)
    order = list(parts(student.program, self.teacher.program))
    fitted = {part.path: self.fit(number, part) for number, part in enumerate(progress(order))}
    refined: tuple[Refined, ...] = ()
    if self.settings.effort.block_rounds:
      refined = self._second_sweep(order, fitted, progress)
    every = self.shares.batches(size)
    wanted, after = (self.predictions(run, every) for run in (self.teacher, student))
    self.finished.forget_activations()
    met = {part.path for part in order}
    left = tuple(path for path in student.program.maps if path not in met)
    agreements = [self._agreement(wanted, found) for found in (before, after)]
    report = Report(
      tuple(fitted.values()), left, *agreements, features=self.features, blocks=refined
    )
    return traverse_util.unflatten_dict(student.variables, sep="/"), report

  def fit(self, number: int, part: Part) -> Fitted:
    """Fits a map, or takes it over from an interrupted run."""
    variables = self.student.variables
    if number < self.finished.done:
      changed, figures = self.finished.load(number)
      fitted = Fitted(**figures)
      # All is evaluated as if the map were fitted, so that what follows sees the same bits.
      self.sampler.reach(part)
      variables.update({path: leaf.view(variables[path].dtype) for path, leaf in changed.items()})
      if not fitted.problem:
        self._reach_norm(part)
      return fitted
    start = dict(variables)
    fitted = self._fit(part)
    if fitted.problem:
      variables.update(start)
    changed = {path: leaf for path, leaf in variables.items() if leaf is not start[path]}
    self.finished.save(number, changed, fitted)
    return fitted

  def _second_sweep(
    self,
    order: Sequence[Part],
    fitted: dict[str, Fitted],
    progress: Callable[[Sequence[Part]], Iterable[Part]],
  ) -> tuple[Refined, ...]:
    """Improves the maps of each block together, and fits all others again; `fitted` is updated."""
    size, shapes = self.settings.batch_size, self.student.program.shapes
    batches = input_batches(self._inputs, self.shares.batches(size))
    self.student.restart(batches)
    self.teacher.restart(batches)
    others = self.teacher.program.shapes
    of_end = {
      last.path: (*inner, last)
      for *inner, last in blocks(self.student.program, order)
      if shapes[last.student.ends[-1]] == others[last.teacher.ends[-1]]
    }
    values = [block[-1].teacher.ends[-1] for block in of_end.values()]
    weights = importance(self.teacher, values, self.sampler, self.shares, size, self.settings.seed)
    inside = {part.path for block in of_end.values() for part in block[:-1]}
    refined, left = [], [part for part in order if part.path not in inside]
    for number, part in enumerate(progress(left), start=len(order)):
      if part.path in of_end:
        weight = weights[part.teacher.ends[-1]]
        refined.append(self._refine(number, of_end[part.path], weight))
      else:
        again = self.fit(number, part)
        fitted[part.path] = dataclasses.replace(again, before=fitted[part.path].before)
    return tuple(refined)

  def _refine(self, number: int, block: Sequence[Part], weights: Importance) -> Refined:
    """Improves the maps of a block, or takes them over from an interrupted run."""
    variables, effort = self.student.variables, self.settings.effort
    fitter = BlockFitter(
      block, self.student, self.teacher, self.sampler, self.shares, self.settings.batch_size
    )
    if number < self.finished.done:
      changed, figures = self.finished.load(number)
      variables.update({path: leaf.view(variables[path].dtype) for path, leaf in changed.items()})
      for part in block:
        self._reach_norm(part)
      return Refined(tuple(figures["paths"]), figures["after"])
    start = dict(variables)
    after = fitter.refine(weights, effort.block_rounds, effort.block_inner)
    for part in block:
      for path in part.student.norms[-1][:1]:
        norm = self.student.program.norms[path]
        self._restore_norms(part, norms.gain(variables, path, norm))
    refined = Refined(tuple(part.path for part in block), after)
    changed = {path: leaf for path, leaf in variables.items() if leaf is not start[path]}
    self.finished.save(number, changed, refined)
    return refined

  def _fit(self, part: Part) -> Fitted:
    module = self.student.program.maps[part.path]
    kernel = Kernel(self.student.variables, part.path, module)
    old = kernel.plain(self._silence_norms(part))
    self.sampler.reach(part)
    sample = self.sampler.rows(part)
    about = {
      "path": part.path,
      "inputs": old.shape[1],
      "outputs": old.shape[0] * old.shape[2],
      "rows": int(self.shares.total(len(sample.x))),
      "gate": sample.gate,
    }
    if problem := sample.problem(self.shares):
      return Fitted(**about, kept=True, problem=problem)
    length = None if part.student.norms[-1] else kernel.length
    form = Compared(kernel.b, module.guard, sample.gate, module.use_bias, length)
    power = sample.power(form, self.shares)
    rows = sample.put(self.shares)
    del sample  # The largest rows are a good part of the memory.
    new, figures = self._improved(rows, power, old, form)
    kept = not figures["after"] < figures["before"]
    gain = kernel.write(old if kept else jnp.asarray(new))
    self._restore_norms(part, gain)
    return Fitted(
      **about,
      before=1 - figures["before"],
      fit=1 - min(figures["before"], figures["after"]),
      ridge=figures["ridge"],
      condition=figures["condition"],
      kept=kept,
    )

  def _improved(
    self, rows: Rows, power: float, old: Array, form: Compared
  ) -> tuple[np.ndarray, dict[str, float]]:
    """Returns a map's new kernel, and figures with errors relative to a power."""
    shares = self.shares
    made = fitted_kernel(rows, shares.put_whole(old), form, self.settings.effort, shares.everywhere)
    new, found = jax.tree.map(shares.fetched, made)
    figures = {name: float(value) for name, value in found.items()}
    for name in ("before", "after"):
      figures[name] /= power
    return new, figures

  def _agreement(self, teacher: np.ndarray, student: np.ndarray) -> float:
    """Returns the share of equal predictions of all processes, or of features the mean cosine."""
    if self.features:
      length = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(student, axis=-1)
      each = np.nan_to_num((teacher * student).sum(-1) / np.maximum(length, 1e-30))
    else:
      each = (teacher == student) & (student >= 0)
    agreed, count = self.shares.total([each.sum(dtype=float), each.size])
    return float(agreed / count)

  def predictions(self, run: Execution, batches: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what a network makes of this process's held-out inputs.

    Classes, or tokens that are no padding, int [n], -1 where an output is not finite; or features
    [n, D].
    """
    output, held_out = run.program.output, self.shares.held_out
    equations = run.missing(output)

    def predicted(env: dict[int, Array]) -> Array:
      (found,) = evaluate(equations, env, [output])
      if self.features:
        return found
      return jnp.where(jnp.isfinite(found).all(-1), found.argmax(-1), -1)

    parts = list(run.per_batch(equations, predicted, reads=[output]))
    made = np.zeros((len(held_out), *parts[0].shape[1:]), parts[0].dtype)
    for rows, part in zip(batches, parts, strict=True):
      made[rows] = part
    mask = self.sampler.mask_of((*made.shape, 1))
    return made[held_out if mask is None or self.features else mask & held_out[:, None]]

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
      self._reach_norm(part)

      def moments(env: dict[int, Array], seen: int = seen) -> tuple[Array, Array]:
        x = env[seen].reshape(len(env[seen]), -1, env[seen].shape[-1])
        return x.mean(1), (x**2).mean(1)

      found = self.sampler.gathered(self.student.per_batch((), moments, reads=[seen]))
      mean, square = (self.shares.gathered(each).mean(0) for each in found)
      norms.set_identity(self.student.variables, path, program.norms[path], mean, square, gain)

  def _reach_norm(self, part: Part) -> None:
    for path in part.student.norms[-1][:1]:
      self.student.advance([self.student.program.seen_by(path)])
