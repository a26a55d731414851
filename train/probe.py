"""Probes: a head trained on frozen features, at all learning rates of a sweep together.

As in ALOE's evaluation: AdamW, one cycle of the learning rate, 50 epochs, rates 0.01, 0.003 and
0.001. Unlike there, the rate and the epoch are chosen on examples held out of the training set;
`select="test"` chooses them on the test set as published, which makes its accuracy an optimistic
one. And where PyTorch's OneCycleLR also moves AdamW's first beta, that of optax does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from bcos_jax import ops
from bcos_jax.errors import InputError, unknown_name

from . import heads, losses, optimizer, sharding
from .features import Features, check
from .state import new_key

SELECTIONS = ("held_out", "test")
CROSS_ENTROPY = "cross_entropy"
_LEAST_CYCLE = 4  # steps; optax's cycle has no rising part in fewer
PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How to train a probe.

  Attributes:
    head: `linear`, `bcos` or `bcos_mlp`, see `heads.make`; "" takes the form that the network's
      own classifier has: `bcos` for B-cos networks, else `linear`.
    loss: A key of `losses.LOSSES`; "" takes `uniform_off_label_bce` (off-target 1/C) for B-cos
      heads, `cross_entropy` for linear ones. With the BCE losses goes the constant -log(C - 1) on
      the logits, with cross-entropy none: it would change nothing.
    rates: Learning rates, at the peak of the cycle.
    epochs: Passes over the examples.
    batch_size: Examples at a time on all devices together; at most all of them, and rounded up to
      a multiple of the devices. The last batch of an epoch is smaller, not dropped.
    weight_decay: Of AdamW.
    hidden: Features between the two maps of `bcos_mlp`; 0 takes as many as the network has.
    normalise: Whether features are scaled to unit length first (CLIP's linear probes).
    select: What chooses rate and epoch: `held_out` or `test`.
    held_out: Share of each class's training examples that `held_out` takes.
    seed: Of the first parameters, the order of examples, and which are held out.
  """

  head: str = ""
  loss: str = ""
  rates: tuple[float, ...] = (0.01, 0.003, 0.001)
  epochs: int = 50
  batch_size: int = 8192
  weight_decay: float = 1e-4
  hidden: int = 0
  normalise: bool = False
  select: str = "held_out"
  held_out: float = 0.1
  seed: int = 0

  def resolved(self, model: nn.Module) -> Options:
    """Returns the options with head and loss named.

    Raises:
      InputError: A name is unknown or a number out of range.
    """
    own = "bcos" if isinstance(model.ops, ops.BcosOps) else "linear"
    head = self.head or own
    by_head = CROSS_ENTROPY if head == "linear" else "uniform_off_label_bce"
    options = dataclasses.replace(
      self, head=head, loss=self.loss or by_head, rates=tuple(map(float, self.rates))
    )
    for kind, value, known in (
      ("head", head, heads.HEADS),
      ("loss", options.loss, losses.LOSSES),
      ("select", self.select, SELECTIONS),
    ):
      if value not in known:
        raise unknown_name(kind, value, known)
    for name, fits, expected in (
      ("rates", self.rates and all(0 < r < math.inf for r in self.rates), "positive numbers"),
      ("epochs", self.epochs >= 1, "at least 1"),
      ("batch_size", self.batch_size >= 1, "at least 1"),
      ("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number >= 0"),
      ("hidden", self.hidden >= 0, "at least 1, or 0 for as many as the network has"),
      ("held_out", 0 < self.held_out < 1, "a share between 0 and 1"),
    ):
      if not fits:
        raise InputError(f"{name}={getattr(self, name)}; expected {expected}.", f"Change {name}.")
    return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
  """What one learning rate has reached.

  Attributes:
    rate: The learning rate.
    epoch: The epoch with the best accuracy on what chooses; of equals the first.
    selection: That accuracy.
    test: Accuracy on the test set after that epoch.
  """

  rate: float
  epoch: int
  selection: float
  test: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
  """A trained probe.

  Attributes:
    head: The function of parameters and features.
    params: Its parameters at the chosen rate and epoch; NumPy float32.
    rates: By learning rate, in the order of the options.
    chosen: Position of the rate with the best `selection`; of equals the first.
    selected_on: Number of examples that chose.
    options: With every choice named.
    label_names: Names of the classes.
    network: Digest of the network whose features these are.
  """

  head: heads.Head
  params: Mapping[str, Any]
  rates: tuple[Rate, ...]
  chosen: int
  selected_on: int
  options: Options
  label_names: tuple[str, ...]
  network: str

  @property
  def accuracy(self) -> float:
    """Accuracy on the test set at the chosen rate, in [0, 1]."""
    return self.rates[self.chosen].test

  def logits(self, features: jax.Array | np.ndarray) -> jax.Array:
    """Returns the logits float32 [N, C] of features float [N, D]."""
    with jax.default_matmul_precision("highest"):
      return jax.jit(self.head)(self.params, features)


def fit(
  model: nn.Module,
  train: Features,
  test: Features,
  options: Options = Options(),
  *,
  mesh: Mesh | None = None,
) -> Probe:
  """Trains a probe at every learning rate in one program, and chooses one.

  All rates see the same batches and start from the same parameters, so each is the probe that it
  would be alone, up to rounding. Features stay on the host, and on disk where they are kept
  there; a batch at a time is on the devices.

  Args:
    model: The network whose features these are.
    train: Of the training set.
    test: Of the test set.
    options: See `Options`.
    mesh: Of the devices that share a batch; all by default.

  Raises:
    InputError: An option cannot be used; features that are not finite, or of different networks
      or classes; too few examples to hold any out.
  """
  options = options.resolved(model)
  _check_pair(train, test)
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1}) if mesh is None else mesh
  classes, width = len(train.label_names), train.values.shape[1]
  head = heads.make(
    model,
    classes,
    options.head,
    logit_bias=0.0 if options.loss == CROSS_ENTROPY else -math.log(max(classes - 1, 1)),
    hidden=options.hidden or width,
    normalise=options.normalise,
  )
  fitted, chosen_on = split(train, options)
  with jax.default_matmul_precision("highest"):
    params, rows = _sweep(head, train, fitted, test, chosen_on, options, mesh)
  chosen = max(range(len(rows)), key=lambda i: (rows[i].selection, -i))
  return Probe(
    head=head,
    params=jax.tree.map(lambda leaf: np.asarray(leaf[chosen]), params),
    rates=rows,
    chosen=chosen,
    selected_on=len(test) if chosen_on is None else len(chosen_on),
    options=options,
    label_names=train.label_names,
    network=train.about.get("network", ""),
  )


def split(train: Features, options: Options) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the rows to train on, int [n], and those held out; None where the test set chooses.

  Of each class the same share is held out, rounded, but never a class's only example.

  Raises:
    InputError: No row would be held out.
  """
  rows = np.arange(len(train))
  if options.select == "test":
    return rows, None
  order = np.random.default_rng([options.seed, 0]).permutation(rows)
  order = order[np.argsort(train.labels[order], kind="stable")]
  counts = np.bincount(train.labels, minlength=len(train.label_names))
  within = rows - np.repeat(np.cumsum(counts) - counts, counts)  # Place among its class.
  share = np.minimum(np.round(counts * options.held_out), counts - 1)
  held = np.sort(order[within < np.repeat(share, counts)])
  if not len(held):
    raise InputError(
      f"A share of {options.held_out} of the {len(train)} examples of {train.name} holds none out "
      "in any class.",
      "Give a larger held_out, or select='test', which makes the test accuracy an optimistic one.",
    )
  return np.setdiff1d(rows, held), held


def _check_pair(train: Features, test: Features) -> None:
  for features in (train, test):
    check(features)
  for key, first, second in (
    ("network", train.about.get("network"), test.about.get("network")),
    ("classes", train.label_names, test.label_names),
    ("width", train.values.shape[1], test.values.shape[1]),
  ):
    if first != second:
      raise InputError(
        f"The features of {train.name} and {test.name} differ in their {key}: {first} and "
        f"{second}.",
        "Give two splits of one data set, by one network.",
      )


def schedule(steps: int) -> Callable[[jax.Array], jax.Array]:
  """Returns the factor of the learning rate by step: optax's cosine cycle, 1 at its peak.

  Runs of fewer than 4 steps, in which it has no rising part, keep 1.
  """
  if steps < _LEAST_CYCLE:
    return jnp.ones_like
  return optax.cosine_onecycle_schedule(steps, 1.0)


def make_step(head: heads.Head, options: Options, steps: int) -> tuple[Callable, Callable]:
  """Returns two pure functions for one learning rate; `fit` maps them over all.

  Args:
    head: The head.
    options: Resolved.
    steps: Of the whole run.

  Returns:
    start(params) -> optimiser state; advance(rate, params, state, batch, step) -> (params, state).
    A batch is {"features": float [n, D], "label": int [n], "mask": float [n]}.
  """
  loss = losses.from_config(options.loss, {"smoothing": 0.0, "off": -1.0})
  # AdamW in its order: the decay joins the direction, then both are scaled by the rate.
  tx = optax.chain(optax.scale_by_adam(), optimizer.decay(options.weight_decay))
  factor = schedule(steps)

  def objective(params, batch):
    values = loss(head(params, batch["features"]), batch["label"])
    return jnp.sum(values * batch["mask"]) / jnp.sum(batch["mask"])

  def advance(rate, params, state, batch, step):
    direction, state = tx.update(jax.grad(objective)(params, batch), state, params)
    scale = -rate * factor(step)
    return optax.apply_updates(params, jax.tree.map(lambda d: scale * d, direction)), state

  return tx.init, advance


def _sweep(
  head: heads.Head,
  train: Features,
  fitted: np.ndarray,
  test: Features,
  chosen_on: np.ndarray | None,
  options: Options,
  mesh: Mesh,
) -> tuple[PyTree, tuple[Rate, ...]]:
  """Returns the best parameters of every rate, with a leading axis of rates, and what they reach.

  Rows `fitted` of `train` are trained on, rows `chosen_on` (or all of `test`) choose.
  """
  size, test_rows = _batch_size(len(fitted), options, mesh), np.arange(len(test))
  selection = (test, test_rows) if chosen_on is None else (train, chosen_on)
  start, advance = make_step(head, options, options.epochs * -(-len(fitted) // size))
  advance = jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, None, None)), donate_argnums=(1, 2))
  hits = jax.jit(jax.vmap(lambda params, batch: _hits(head, params, batch), in_axes=(0, None)))

  def accuracy(params, features, rows):
    batches = _batches(features, rows, size, mesh)
    return np.sum([hits(params, batch) for batch in batches], axis=0) / len(rows)

  count = len(options.rates)
  params = head.init(new_key(options.seed), train.values.shape[1])
  params = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), params)
  rates, params = sharding.replicate((np.float32(options.rates), params), mesh)
  state, step = jax.vmap(start)(params), 0
  best, reached, epochs = params, np.full(count, -1.0), np.zeros(count, int)
  for epoch in range(1, options.epochs + 1):
    order = np.random.default_rng([options.seed, epoch]).permutation(fitted)
    for batch in _batches(train, order, size, mesh):
      params, state = advance(rates, params, state, batch, step)
      step += 1
    found = accuracy(params, *selection)
    better = found > reached
    best = _where(better, params, best)
    reached, epochs = np.where(better, found, reached), np.where(better, epoch, epochs)
  tested = reached if chosen_on is None else accuracy(best, test, test_rows)
  columns = (options.rates, epochs, reached, tested)
  rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
  return best, tuple(Rate(rate=r, epoch=e, selection=s, test=t) for r, e, s, t in rows)


@jax.jit
def _where(better: jax.Array, new: PyTree, old: PyTree) -> PyTree:
  """Returns the new leaves of the rates that are better; never a buffer of `new`, which goes."""
  return jax.tree.map(
    lambda n, o: jnp.where(better.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old
  )


def _hits(head: heads.Head, params: PyTree, batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns how many are right; a logit that is not finite is never right."""
  logits = head(params, batch["features"])
  right = (jnp.argmax(logits, axis=-1) == batch["label"]) & jnp.isfinite(logits).all(axis=-1)
  return jnp.sum(right * batch["mask"])


def _batch_size(count: int, options: Options, mesh: Mesh) -> int:
  divisor = math.lcm(sharding.batch_divisor(mesh), jax.process_count())
  return -(-min(options.batch_size, count) // divisor) * divisor


def _batches(
  features: Features, rows: np.ndarray, size: int, mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Yields the rows in batches of one shape; what fills up the last has the mask 0."""
  for begin in range(0, len(rows), size):
    # In the order of the file: the order within a batch changes rounding at most.
    chosen = np.sort(rows[begin : begin + size])
    mask = np.pad(np.ones(len(chosen), np.float32), (0, size - len(chosen)))
    chosen = np.pad(chosen, (0, size - len(chosen)), mode="edge")
    mine = slice(jax.process_index(), None, jax.process_count())
    batch = {
      "features": np.asarray(features.values[chosen[mine]]),
      "label": features.labels[chosen[mine]],
      "mask": mask[mine],
    }
    yield sharding.put_batch(batch, mesh)
