"""Maps of a B-cosified program fitted to what the function computes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...calibration.aims import Part, parts, rows_per_input
from ...calibration.closed_form import fitted_kernel, input_batches
from ...calibration.execution import Execution
from ...calibration.fit import Compared
from ...calibration.inputs import FEWEST
from ...calibration.kernels import Kernel
from ...calibration.report import Fitted, Report
from ...calibration.sampling import Sample, drawn, gathered, rows_at, seen_at
from ...calibration.settings import Calibration
from ...calibration.shares import Shares
from ...calibration.store import Store
from ...calibration.traced import evaluate
from ...errors import InputError
from ..batching import batched
from ..decisions import placed
from ..pairing import kernels
from ..program import Program
from ..reading import reading_of
from ..transforms import Transforms
from .chains import back_from, chain_of, paths_left
from .flat import flattened, half_path, output_of
from .views import MapView, views_of

if TYPE_CHECKING:
  from ..bcosified import BcosifiedProgram

Array = jax.Array


def calibrate(
  made: BcosifiedProgram,
  inputs: Any,
  settings: Calibration | None = None,
  *,
  progress: Callable[[Sequence[Part]], Iterable[Part]] = iter,
) -> tuple[Any, Report]:
  """Fits the maps of a B-cosified program to those of the function, without labels.

  Each map gets the kernel whose response, on what the B-cos network really sees, is closest to what
  the function makes at that place, in the order of the program; see `bcos_jax.calibration`. Maps of
  weights, queries and keys, are fitted as well. All activations that later maps need stay in
  memory.

  Args:
    made: The program, with variables.
    inputs: [N, ...] of the function's domain, at least 8; no labels.
    settings: Places and effort; `head` and `memory` count for networks of this package only.
    progress: Wraps the loop over the maps, such as `tqdm.tqdm`.

  Returns:
    The variables in closed form, of the structure of `made.variables`, and how well each map fits.
    Maps that cannot be fitted are named: in loops and branches, with a kernel that is shared or
    computed.

  Raises:
    InputError: The program was traced from shapes; inputs that do not fit, are too few, not finite
      or all the same; a second sweep is asked for.
  """
  settings = Calibration() if settings is None else settings
  inputs = _checked(made, inputs, settings)
  with jax.default_matmul_precision("highest"):
    return _Fitter(made, inputs, settings).run(progress)


def _checked(made: BcosifiedProgram, inputs: Any, settings: Calibration) -> np.ndarray:
  if made.variables is None:
    raise InputError(
      "The program was traced from shapes: it has no variables to be fitted to.",
      "Trace it with its variables.",
    )
  if settings.effort.block_rounds:
    raise InputError(
      f"effort.block_rounds is {settings.effort.block_rounds}: programs have no second sweep.",
      "Leave it at 0.",
    )
  made.program.check_arguments(made.program.variables, inputs)
  inputs = np.asarray(inputs)
  if len(inputs) < FEWEST:
    raise InputError(
      f"There are {len(inputs)} inputs to calibrate with, expected at least {FEWEST}.",
      "512 are a good start; they need no labels.",
    )
  if not np.isfinite(inputs).all() or (inputs == inputs[:1]).all():
    what = "all the same" if np.isfinite(inputs).all() else "not all finite"
    raise InputError(
      f"The inputs to calibrate with are {what}: nothing can be fitted to them.",
      "Give different inputs of the network's domain.",
    )
  return inputs


class _Fitter:
  """Fits one map after the other; the variables change in its run."""

  def __init__(self, made: BcosifiedProgram, inputs: np.ndarray, settings: Calibration):
    self.made, self.settings = made, settings
    self.shares = shares = Shares(None, len(inputs))
    shares.hold_out(settings.held(shares.count))
    self.rows = shares.batches(settings.batch_size)
    batches = input_batches(inputs, self.rows)
    whole = batched(made.program.bare, len(batches[0])).program
    teacher, student, self.views = _programs(made, whole)
    kept = shares, Store(0.0), {}
    self.teacher = Execution(teacher, _leaves(made.program, made.program.variables), batches, *kept)
    self.student = Execution(student, _student_leaves(made), batches, *kept)
    held = shares.batches(settings.batch_size, held_out=True)
    self.held = held, Execution(student, self.student.variables, input_batches(inputs, held), *kept)
    output = whole.values[teacher.output].shape
    self.features = len(output) != 2 or output[-1] < 2

  def run(self, progress: Callable[[Sequence[Part]], Iterable[Part]]) -> tuple[Any, Report]:
    """Fits all maps; returns the variables, and how well each map fits."""
    rows, execution = self.held
    before = self._outputs(execution, rows)
    order = list(parts(self.student.program, self.teacher.program, chain_of, "{}"))
    fitted = [self._fit(part) for part in progress(order)]
    wanted, after = (self._outputs(run, self.rows) for run in (self.teacher, self.student))
    names = [d.name for d in self.made.decisions if d.part == "map"]
    left = paths_left(names, [part.path for part in order])
    agreements = [self._agreement(wanted, found) for found in (before, after)]
    report = Report(tuple(fitted), left, *agreements, features=self.features)
    return self._variables(), report

  def _fit(self, part: Part) -> Fitted:
    view, variables = self.views[part.path], self.student.variables
    paths = [part.path, half_path(part.path)] if view.paired else [part.path]
    own = {"params/map/kernel": np.asarray(view.own_kernel([variables[p] for p in paths]))}
    kernel = Kernel(own, "map", view.module)
    old = kernel.plain(jnp.ones(()))
    self.student.advance([view.seen, *part.student.sides])
    self.teacher.advance([part.teacher.ends[-1]])
    sample = self._sample(part, view, old.shape[1])
    about = {
      "path": part.path,
      "inputs": old.shape[1],
      "outputs": old.shape[0] * old.shape[2],
      "rows": len(sample.x),
      "gate": sample.gate,
    }
    if problem := sample.problem(self.shares):
      return Fitted(**about, kept=True, problem=problem)
    form = Compared(kernel.b, view.module.guard, sample.gate)
    power = sample.power(form, self.shares)
    new, found = fitted_kernel(sample.put(self.shares), old, form, self.settings.effort, None)
    figures = {name: float(value) for name, value in found.items()}
    before, after = figures["before"] / power, figures["after"] / power
    kept = not after < before
    if not kept:
      kernel.write(jnp.asarray(new))
      for path, leaf in zip(paths, view.variables(own["params/map/kernel"]), strict=True):
        variables[path] = np.asarray(leaf, variables[path].dtype)
    return Fitted(
      **about,
      before=1 - before,
      fit=1 - min(before, after),
      ridge=figures["ridge"],
      condition=figures["condition"],
      kept=kept,
    )

  def _sample(self, part: Part, view: MapView, width: int) -> Sample:
    """Returns what a map sees and aims at, at some places of the inputs."""
    student, end = self.student, part.student.ends[-1]
    full = student.program.shapes[view.response]
    shape = jax.eval_shape(view.outputs, jax.ShapeDtypeStruct(full, jnp.float32)).shape
    there = rows_per_input(shape)
    places, _ = drawn(self.settings, part.path, width, self.shares.count, there)
    index = [places[rows] for rows in self.rows]
    chain = student.missing(end, view.response)
    back = back_from(student.program, part.path, end)

    def at(value: Array, index: Array) -> Array:
      return rows_at(view.outputs(back(value)), index)

    def seen(env, index):
      x = seen_at(view.module, view.seen_values(env[view.seen]), index)
      values = [
        evaluate(chain, env | {view.response: jnp.full(full, s)}, [end])[0] for s in (0.0, 1.0)
      ]
      base, one = (at(value, index) for value in values)
      return x, base, (one - base)[:, 0]

    count = self.shares.count
    x, base, gain = gathered(student.per_batch(chain, seen, index, reads=[view.seen]), count)
    wanted = self.teacher.per_batch(
      (), lambda env, index: (at(env[end], index),), index, reads=[end]
    )
    (target,) = gathered(wanted, count)
    held = np.broadcast_to(self.shares.held_out[:, None], x.shape[:2])
    x, target, base, held = (a.reshape(-1, *a.shape[2:]) for a in (x, target, base, held))
    return Sample(x[:, None], target, base, gain[0], held, part.student.gate)

  def _outputs(self, run: Execution, batches: Sequence[np.ndarray]) -> np.ndarray:
    """Returns classes of the held-out inputs, or features; -1 where an output is not finite."""
    output = run.program.output
    equations = run.missing(output)

    def predicted(env: dict[int, Array]) -> Array:
      (found,) = evaluate(equations, env, [output])
      if self.features:
        return found.reshape(len(found), -1)
      return jnp.where(jnp.isfinite(found).all(-1), found.argmax(-1), -1)

    found = list(run.per_batch(equations, predicted, reads=[output]))
    made = np.zeros((self.shares.count, *found[0].shape[1:]), found[0].dtype)
    for rows, part in zip(batches, found, strict=True):
      made[rows] = part
    return made[self.shares.held_out]

  def _agreement(self, teacher: np.ndarray, student: np.ndarray) -> float:
    if not self.features:
      return float(np.mean((teacher == student) & (student >= 0)))
    length = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(student, axis=-1)
    return float(np.mean(np.nan_to_num((teacher * student).sum(-1) / np.maximum(length, 1e-30))))

  def _variables(self) -> Any:
    """Returns the variables in their own structure."""
    made, flat = self.made, self.student.variables
    network = made.variables["network"] if made.extended else made.variables
    leaves = [jnp.asarray(flat[path]) for path in made.program.paths]
    network = jax.tree.unflatten(jax.tree.structure(network), leaves)
    if not made.extended:
      return network
    own = {**made.variables, "network": network}
    if "negated" in own:
      own["negated"] = {path: jnp.asarray(flat[half_path(path)]) for path in own["negated"]}
    return own


def _programs(made: BcosifiedProgram, whole: Program) -> Any:
  """Returns the programs of the function and of the B-cos network, and the maps that are fitted."""
  decisions = placed(made.decisions, whole)
  changed = {d.equation: d for d in decisions if d.changes}
  own = made.variables if made.extended else {}
  output = output_of(whole)
  reading = None if made.pairing == "none" else reading_of(whole)
  plain = flattened(whole, {}, output)
  views = views_of(
    whole, decisions, plain.equations, {e: e for e in reading.maps} if reading else {}
  )
  number = 1 + max(whole.values)
  first = [] if reading is None else kernels(whole, reading)
  negated = {path: number + i for i, path in enumerate(first)}
  if missing := negated.keys() - views.keys():
    raise InputError(
      f"The first map of {', '.join(missing)} cannot be fitted with a paired input.",
      "Calibrate without pairing.",
    )
  teacher = flattened(whole, views, output)
  return teacher, flattened(whole, views, output, Transforms(changed, own), negated), views


def _leaves(program: Program, variables: Any) -> dict[str, Any]:
  leaves = [
    np.asarray(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.number) else leaf  # no keys
    for leaf in jax.tree.leaves(variables)
  ]
  return dict(zip(program.paths, leaves, strict=True))


def _student_leaves(made: BcosifiedProgram) -> dict[str, Any]:
  network = made.variables["network"] if made.extended else made.variables
  halves = made.variables["negated"] if made.pairing != "none" else {}
  own = {half_path(path): np.asarray(leaf) for path, leaf in halves.items()}
  return _leaves(made.program, network) | own
