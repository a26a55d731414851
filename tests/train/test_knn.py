"""Nearest neighbours against scikit-learn's, for every chunk size."""

import dataclasses

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from bcos_jax import InputError
from bcos_jax.train import sharding
from bcos_jax.train.probes import knn

from ..clouds import clouds
from ..common import suggestion


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Chunks so small that there are several, and the last ones are not full."""
  monkeypatch.setattr(knn, "QUERIES", 16)
  monkeypatch.setattr(knn, "KNOWN", 30)


def reference(train, k, metric):
  model = KNeighborsClassifier(k, metric=metric, algorithm="brute")
  return model.fit(train.values.astype(np.float64), train.labels)


def one_device():
  return sharding.make_mesh({"data": 1, "fsdp": 1})


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("k", [1, 4, 20, 101])
def test_as_scikit_learn(metric, k):
  train, test = clouds(101, seed=0, distance=1.0), clouds(43, seed=1, distance=1.0)
  model = reference(train, k, metric)
  found = knn.classify(train, test, k=k, metric=metric)
  np.testing.assert_array_equal(found.predicted, model.predict(test.values))
  assert found.accuracy == pytest.approx(model.score(test.values, test.labels))
  _, rows = knn.nearest(train.values, test.values, k=k, metric=metric, mesh=one_device())
  np.testing.assert_array_equal(rows, model.kneighbors(test.values)[1])


def test_distances_far_from_the_origin_keep_their_digits():
  train, test = (clouds(60, seed=seed) for seed in (0, 1))
  squares, _ = knn.nearest(
    train.values + 1000, test.values + 1000, k=5, metric="euclidean", mesh=one_device()
  )
  wanted, _ = reference(train, 5, "euclidean").kneighbors(test.values)
  np.testing.assert_allclose(np.sqrt(squares), wanted, rtol=2e-4)


def test_of_equally_many_votes_the_smaller_class_wins():
  train = clouds(6, seed=0, classes=3)
  train = dataclasses.replace(train, labels=np.array([2, 2, 1, 1, 0, 2], np.int32))
  test = clouds(5, seed=1)
  found = knn.classify(train, test, k=6)
  assert (found.predicted == 2).all()
  votes = np.array([[2, 1, 1, 2], [0, 2, 2, 0], [1, 1, 1, 1]])
  np.testing.assert_array_equal(knn.majority(votes, 3), [1, 0, 1])


def test_of_equal_distances_the_earlier_row_is_nearer():
  known = np.zeros((70, 4), np.float32)
  _, rows = knn.nearest(known, known[:3], k=40, metric="euclidean", mesh=one_device())
  np.testing.assert_array_equal(rows, np.tile(np.arange(40), (3, 1)))


def test_agreement():
  train, test = clouds(60, seed=0), clouds(20, seed=1)
  first = knn.classify(train, test, k=5)
  assert knn.agreement(first, first) == 1.0
  changed = np.where(np.arange(20) < 5, (first.predicted + 1) % 3, first.predicted)
  assert knn.agreement(first, dataclasses.replace(first, predicted=changed)) == 0.75
  with pytest.raises(InputError, match="same ones"):
    knn.agreement(first, knn.classify(train, clouds(21, seed=1), k=5))


@pytest.mark.parametrize("k", [0, 61])
def test_more_neighbours_than_there_are(k):
  with pytest.raises(InputError, match=f"k={k} neighbours of 60"):
    knn.classify(clouds(60, seed=0), clouds(9, seed=1), k=k)


def test_what_cannot_be_compared():
  train, test = clouds(60, seed=0), clouds(9, seed=1)
  with pytest.raises(InputError, match=suggestion("euclidean")):
    knn.classify(train, test, metric="euclidian")
  for changed, problem in (
    ({"about": {**test.about, "network": "other"}}, "network"),
    ({"label_names": ("a",)}, "classes"),
    ({"values": test.values[:, :4]}, "width"),
  ):
    with pytest.raises(InputError, match=f"differ in their {problem}"):
      knn.classify(train, dataclasses.replace(test, **changed))
  test.values[4, 2] = np.inf
  with pytest.raises(InputError, match="example 4 of clouds:1 are not finite"):
    knn.classify(train, test)
  nothing = dataclasses.replace(test, values=test.values[:0], labels=test.labels[:0])
  with pytest.raises(InputError, match="no features"):
    knn.classify(train, nothing)
