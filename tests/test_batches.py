"""Device batches: filled up, in order, trees in and out, and fetched behind what is computed."""

import jax
import numpy as np
import pytest

from bcos_jax import batches
from bcos_jax.errors import InputError


@pytest.mark.parametrize(("size", "starts"), [(None, [0]), (3, [0, 3, 6]), (7, [0]), (20, [0])])
def test_batches_have_one_size_and_the_order_of_the_rows(size, starts):
  rows = {"a": np.arange(7), "b": (np.arange(14).reshape(7, 2), None)}
  seen, shapes = [], set()

  def function(batch):
    shapes.add(batch["a"].shape)
    return {"sum": batch["a"][:, None] + batch["b"][0], "own": jax.numpy.asarray(batch["a"])}

  def watch(places):
    seen.extend(places)
    return places

  found = batches.in_batches(function, rows, size, watch)
  np.testing.assert_array_equal(found["own"], np.arange(7))
  np.testing.assert_array_equal(found["sum"], rows["a"][:, None] + rows["b"][0])
  assert isinstance(found["sum"], np.ndarray)
  assert seen == starts and shapes == {(min(size or 7, 7),)}


def test_exact_batches_are_filled_up():
  (rows, kept), *more = batches.filled(2, 4, exact=True)
  assert rows.tolist() == [0, 1, 1, 1] and kept == 2 and not more
  found = batches.in_batches(lambda rows: rows * 2, np.arange(2), 4, exact=True)
  assert found.tolist() == [0, 2]
  assert not list(batches.filled(0, 4))


def test_results_are_fetched_after_the_next_was_asked_for():
  log = []

  class Result:
    def __init__(self, number):
      self.number = number
      log.append(f"ask {number}")

    def __array__(self, *args, **fields):
      log.append(f"fetch {self.number}")
      return np.array([self.number])

  found = [
    (part.tolist(), tag) for part, tag in batches.overlapped((Result(i), i) for i in range(3))
  ]
  assert found == [([0], 0), ([1], 1), ([2], 2)]
  assert log == ["ask 0", "ask 1", "fetch 0", "ask 2", "fetch 1", "fetch 2"]


@pytest.mark.parametrize("size", [0, -1, 2.5, "3"])
def test_sizes_are_integers_of_at_least_one(size):
  with pytest.raises(InputError, match="batch_size"):
    batches.in_batches(lambda rows: rows, np.arange(3), size)
