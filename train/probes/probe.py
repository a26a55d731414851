"""Linear probes: heads trained on frozen features, all learning rates of a sweep at once.

As in ALOE's evaluation: AdamW, one cycle of the learning rate, 50 epochs of batches of 8192, rates
0.01, 0.003 and 0.001. Unlike there, rate and epoch are chosen on examples held out of the training
set; `select="test"` chooses them on the test set as published, which makes its accuracy an
optimistic one. And PyTorch's OneCycleLR also moves AdamW's first beta, optax's does not.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
import numpy as np

from bcos_jax.errors import InputError, unknown_name

from .. import sharding
from ..objectives import losses
from . import heads, sweep
from .features import Features, check_pair, digest

SELECTIONS = ("held_out", "test")
CROSS_ENTROPY = "cross_entropy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions:
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
      a multiple of the devices. The last batch of an epoch is smaller, not dropped. 0 takes the
      published 8192, but at most a sixth of the examples, as few as 64: data sets of under 50,000
      would else see a step or two per epoch.
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
  batch_size: int = 0
  weight_decay: float = 1e-4
  hidden: int = 0
  normalise: bool = False
  select: str = "held_out"
  held_out: float = 0.1
  seed: int = 0

  def resolved(self, model: nn.Module) -> ProbeOptions:
    """Returns the options with head and loss named.

    Raises:
      InputError: A name is unknown or a number out of range.
    """
    own = "linear" if model.ops.conventional else "bcos"
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
      ("batch_size", self.batch_size >= 0, "at least 1, or 0 for one that fits the data"),
      ("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number >= 0"),
      ("hidden", self.hidden >= 0, "at least 1, or 0 for as many as the network has"),
      ("held_out", 0 < self.held_out < 1, "a share between 0 and 1"),
    ):
      if not fits:
        raise InputError(f"{name}={getattr(self, name)}; expected {expected}.", f"Change {name}.")
    return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
  """A trained probe.

  Attributes:
    head: The function of parameters and features.
    params: Its parameters at the chosen rate and epoch; NumPy float32.
    rates: By learning rate, in the order of the options.
    chosen: Position of the rate with the best `selection`; of equals that of the least loss.
    selected_on: Number of examples that chose.
    options: With every choice named.
    label_names: Names of the classes.
    network: Digest of the network whose features these are.
  """

  head: heads.Head
  params: Mapping[str, Any]
  rates: tuple[sweep.Rate, ...]
  chosen: int
  selected_on: int
  options: ProbeOptions
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
  options: ProbeOptions = ProbeOptions(),
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
  check_pair(train, test)
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1}) if mesh is None else mesh
  head = _head(model, train, options)
  sweep.check_size(head, train.values.shape[1], options.rates)
  fitted, held = split(train, options)
  tested = sweep.FeaturePart(test, np.arange(len(test)))
  selection = tested if held is None else sweep.FeaturePart(train, held)
  with jax.default_matmul_precision("highest"):
    params, rates = sweep.run(
      head,
      losses.from_config(options.loss, {"smoothing": 0.0, "off": -1.0}),
      sweep.FeaturePart(train, fitted),
      selection,
      tested,
      rates=options.rates,
      epochs=options.epochs,
      batch_size=options.batch_size or min(8192, max(64, len(fitted) // 6)),
      weight_decay=options.weight_decay,
      seed=options.seed,
      mesh=mesh,
    )
  chosen = max(range(len(rates)), key=lambda i: (rates[i].selection, -rates[i].loss))
  return Probe(
    head=head,
    params=jax.tree.map(lambda leaf: np.asarray(leaf[chosen]), params),
    rates=rates,
    chosen=chosen,
    selected_on=len(selection.rows),
    options=options,
    label_names=train.label_names,
    network=train.about.get("network", ""),
  )


def _head(model: nn.Module, train: Features, options: ProbeOptions) -> heads.Head:
  """Returns the untrained head that the options name, for the classes of the examples."""
  classes, width = len(train.label_names), train.values.shape[1]
  return heads.make(
    model,
    classes,
    options.head,
    logit_bias=0.0 if options.loss == CROSS_ENTROPY else -math.log(max(classes - 1, 1)),
    hidden=options.hidden or width,
    normalise=options.normalise,
  )


def join(model: nn.Module, variables: Any, probe: Probe) -> tuple[nn.Module, Any]:
  """Returns one network that ends in the probe: `explain`, `save` and all else take it as any.

  Its logits are the probe's of the network's features, and it has as many classes. A B-cos
  network applies it behind the pooling, in `pool_first` order.

  Args:
    model: The network whose features the probe was trained on.
    variables: Its variables; not modified.
    probe: See `fit`.

  Raises:
    InputError: The network is another one, or has no classifier of the probe's form; says what is
      missing.
  """
  own = digest(model, variables)
  if probe.network and own != probe.network:
    raise InputError(
      f"The probe was trained on features of the network {probe.network}, this one is {own}.",
      "Give the network whose features these were.",
    )
  return heads.join(model, variables, probe.head, probe.params)


def split(train: Features, options: ProbeOptions) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the rows to train on, int [n], and those held out; None where the test set chooses.

  Of each class the same share is held out, rounded, but never a class's only example.

  Raises:
    InputError: No row would be held out.
  """
  rows = np.arange(len(train))
  if options.select == "test":
    return rows, None
  counts = np.bincount(train.labels, minlength=len(train.label_names))
  check_held_out(counts, train.name, options)
  order = np.random.default_rng([options.seed, 0]).permutation(rows)
  order = order[np.argsort(train.labels[order], kind="stable")]
  within = rows - np.repeat(np.cumsum(counts) - counts, counts)  # Place among its class.
  held = np.sort(order[within < np.repeat(_held(counts, options), counts)])
  return np.setdiff1d(rows, held), held


def check_held_out(counts: np.ndarray, name: str, options: ProbeOptions) -> None:
  """Checks that of so many examples of each class, int [C], some are held out to choose on.

  Raises:
    InputError: None would be.
  """
  if options.select != "test" and not _held(counts, options).any():
    raise InputError(
      f"A share of {options.held_out} of the {counts.sum()} examples of {name} holds none out "
      "in any class.",
      "Give a larger held_out, or select='test', which makes the test accuracy an optimistic one.",
    )


def _held(counts: np.ndarray, options: ProbeOptions) -> np.ndarray:
  """Returns how many examples of each class are held out."""
  return np.clip(np.round(counts * options.held_out), 0, np.maximum(counts - 1, 0))
