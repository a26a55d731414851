"""k-nearest-neighbour classification on the features of a training set.

As in ALOE's evaluation, which calls scikit-learn: 20 neighbours, Euclidean distance of features as
they are, one vote each.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from bcos_jax import functional as F
from bcos_jax.errors import InputError, unknown_name

from .. import hosts, sharding
from .features import Features, check_pair

METRICS = ("euclidean", "cosine")
QUERIES, KNOWN = 1024, 8192  # rows of the largest array of distances, 32 MiB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours:
  """Predictions by nearest neighbours.

  Attributes:
    predicted: Class numbers, int32 [N].
    labels: The true ones, int32 [N].
    examples: Numbers of the examples in the data set, int64 [N].
    data: Name of the data set.
    k: Number of neighbours.
    metric: One of `METRICS`.
  """

  predicted: np.ndarray
  labels: np.ndarray
  examples: np.ndarray
  data: str
  k: int
  metric: str

  @property
  def accuracy(self) -> float:
    """Share of predictions that are right, in [0, 1]."""
    return float(np.mean(self.predicted == self.labels))


def classify(
  train: Features,
  test: Features,
  *,
  k: int = 20,
  metric: str = "euclidean",
  mesh: Mesh | None = None,
) -> Neighbours:
  """Classifies each example of `test` by the majority of its k neighbours in `train`.

  Of classes with equally many votes the smaller number wins, as in scikit-learn. Of training
  examples at equal distance the earlier is the nearer one; scikit-learn's choice among them is
  arbitrary. Neighbours are exact up to float32 rounding of distances.

  Args:
    train: Of the training set.
    test: Of the test set.
    k: Number of neighbours.
    metric: `euclidean`, or `cosine`: Euclidean between features scaled to unit length, which ranks
      as the cosine does.
    mesh: Of the devices that share the test examples; all by default.

  Raises:
    InputError: An unknown metric; k below 1 or above the number of training examples; features
      that are not finite, or of different networks or classes.
  """
  check_pair(train, test)
  check_k(k, len(train), metric)
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1}) if mesh is None else mesh
  with jax.default_matmul_precision("highest"):
    _, rows = nearest(train.values, test.values, k=k, metric=metric, mesh=mesh)
  votes = train.labels[rows]
  return Neighbours(
    predicted=majority(votes, len(train.label_names)),
    labels=test.labels,
    examples=test.examples,
    data=test.name,
    k=k,
    metric=metric,
  )


def check_k(k: int, count: int, metric: str) -> None:
  """Raises InputError unless `count` training examples have k neighbours by a known metric."""
  if metric not in METRICS:
    raise unknown_name("metric", metric, METRICS)
  if not 1 <= k <= count:
    raise InputError(
      f"k={k} neighbours of {count} training examples; expected 1 to {count}.",
      "Choose a k in this range.",
    )


def agreement(first: Neighbours, second: Neighbours) -> float:
  """Returns the share of test examples for which two networks' neighbours agree, in [0, 1].

  Such as a teacher and its student.

  Raises:
    InputError: The predictions are not for the same examples.
  """
  same = np.array_equal(first.examples, second.examples) and first.data == second.data
  if not same:
    raise InputError(
      f"The predictions are for {len(first.examples)} examples of {first.data} and for "
      f"{len(second.examples)} of {second.data}; expected the same ones.",
      "Compare two networks on one data set; leave out the same damaged pictures.",
    )
  return float(np.mean(first.predicted == second.predicted))


def majority(votes: np.ndarray, num_classes: int) -> np.ndarray:
  """Returns the most frequent class of each row, of equals the smallest: int32 [N] of [N, k]."""
  winners = []
  for begin in range(0, len(votes), QUERIES):
    block = votes[begin : begin + QUERIES]
    flat = block + num_classes * np.arange(len(block))[:, None]
    counts = np.bincount(flat.reshape(-1), minlength=len(block) * num_classes)
    winners.append(counts.reshape(len(block), num_classes).argmax(axis=1))
  return np.concatenate(winners).astype(np.int32)


def nearest(
  known: np.ndarray, queries: np.ndarray, *, k: int, metric: str, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k nearest of `known` [M, D] for each of `queries` [N, D], both float32.

  The device holds all queries, a chunk of what is known, and distances of one chunk to a block.

  Args:
    known: Read once, chunk by chunk.
    queries: Split over the devices.
    k: At most M.
    metric: One of `METRICS`.
    mesh: Of the devices.

  Returns:
    Squared distances float32 [N, k], rising, and rows of `known` int32 [N, k]. Of equal distances
    the smaller row comes first.
  """
  unit = metric == "cosine"
  # Distances do not change with the origin; near the features' mean they lose fewer digits.
  center = np.zeros(known.shape[1], np.float32) if unit else _mean(known)
  split = NamedSharding(mesh, PartitionSpec(None, sharding.BATCH_AXES))
  count, divisor = len(queries), sharding.batch_divisor(mesh)
  block = -(-min(QUERIES, count) // divisor) * divisor
  blocks = -(-count // block)
  padded = np.pad(queries, ((0, blocks * block - count), (0, 0)), mode="edge")
  asked = _put(padded.reshape(blocks, block, -1), split)
  best = (
    _put(np.full((blocks, block, k), np.inf, np.float32), split),
    _put(np.zeros((blocks, block, k), np.int32), split),
  )
  before = None
  for begin, chunk in _chunks(known):
    chunk, first = sharding.replicate((chunk, np.int32(begin)), mesh)
    count_known = np.int32(len(known))
    jax.block_until_ready(before)  # Chunks must not queue up without end.
    before, best = best[0], _merge(best, asked, chunk, first, count_known, center, unit)
  distances, rows = (part.reshape(blocks * block, k)[:count] for part in hosts.to_host(best))
  return distances, rows


@functools.partial(jax.jit, static_argnames=("unit",))
def _merge(best, queries, chunk, first, count, center, unit):
  """Returns the nearest so far [blocks, n, k] when a chunk [m, D] of the known joins them."""
  chunk = F.unit_length(chunk) if unit else chunk - center
  rows = first + jnp.arange(len(chunk), dtype=jnp.int32)
  lengths = jnp.sum(jnp.square(chunk), axis=-1)

  def one_block(block):
    distances, found, x = block
    x = F.unit_length(x) if unit else x - center
    own = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    squares = jnp.maximum(own + lengths - 2 * x @ chunk.T, 0.0)
    squares = jnp.where(rows < count, squares, jnp.inf)  # What fills up the last chunk.
    distances = jnp.concatenate([distances, squares], axis=1)
    found = jnp.concatenate([found, jnp.broadcast_to(rows, squares.shape)], axis=1)
    # Of equals the first comes first, so earlier rows stay in front of later ones.
    least, places = jax.lax.top_k(-distances, best[0].shape[-1])
    return -least, jnp.take_along_axis(found, places, axis=1)

  return jax.lax.map(one_block, (*best, queries))


def _chunks(known: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the first row and the rows of each chunk, all of one shape."""
  size = min(KNOWN, len(known))
  for begin in range(0, len(known), size):
    chunk = np.asarray(known[begin : begin + size])
    yield begin, np.pad(chunk, ((0, size - len(chunk)), (0, 0)))


def _mean(known: np.ndarray) -> np.ndarray:
  total = np.zeros(known.shape[1])
  for begin in range(0, len(known), KNOWN):
    total += np.sum(known[begin : begin + KNOWN], axis=0, dtype=np.float64)
  return (total / len(known)).astype(np.float32)


def _put(array: np.ndarray, place: NamedSharding) -> jax.Array:
  """Places an array that every process has whole."""
  return jax.make_array_from_callback(array.shape, place, lambda index: array[index])
