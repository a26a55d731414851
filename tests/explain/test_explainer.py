"""Explanations compiled beforehand: the numbers of `explain`, from any thread."""

import concurrent.futures
import types

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, batches
from bcos_jax.batches import in_batches
from bcos_jax.explain import images as images_room

from ..common import filled, photos


@pytest.fixture(scope="module")
def asked():
  model = bcos_jax.create("resnet_tiny", ops=BcosOps())
  variables, images = filled(model), photos(5, model.image_size)
  return model, variables, images, bcos_jax.Explainer(model, variables, batch_size=2)


@pytest.mark.parametrize("target", [None, 3, np.array([0, 1, 2, 3, 4])])
def test_the_numbers_are_those_of_explain(asked, target):
  model, variables, images, explainer = asked
  ours, theirs = explainer(images, target), bcos_jax.explain(model, variables, images, target)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6 * max(np.abs(b).max(), 1))


def test_threads_ask_at_once_and_nothing_is_compiled(asked):
  _, _, images, explainer = asked
  alone = [explainer(images[i : i + 1], i).contributions for i in range(5)]
  compiled = []

  def note(event, *_, **__):
    compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      found = list(pool.map(lambda i: explainer(images[i : i + 1], i).contributions, range(5)))
  finally:
    jax.monitoring.unregister_event_duration_listener(note)
  assert not [event for event in compiled if "compile" in event]
  for a, b in zip(found, alone, strict=True):
    np.testing.assert_array_equal(a, b)


def test_what_it_was_not_compiled_for(asked):
  model, variables, images, explainer = asked
  with pytest.raises(InputError, match="compiled for"):
    explainer(images[:, :-1])
  with pytest.raises(InputError, match="one class for each picture"):
    explainer(images, lambda outputs: outputs.sum(-1))
  with pytest.raises(InputError, match="one class for each picture"):
    explainer(images, np.zeros((5, 2), int))
  with pytest.raises(InputError, match="expected 0 to"):
    explainer(images, 10_000)
  with pytest.raises(InputError, match="question 'all' is unknown"):
    bcos_jax.Explainer(model, variables, questions=("all",))
  with pytest.raises(InputError, match="does not classify pictures"):
    headless = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=0)
    bcos_jax.Explainer(headless, variables)


@pytest.mark.parametrize("free, expected", [(1e15, 5), (0, 1), (None, 5)])
def test_batches_that_fit(asked, monkeypatch, recwarn, free, expected):
  model, variables, images, _ = asked
  seen = []
  monkeypatch.setattr(batches, "free_memory", lambda: free)

  def noted(function, rows, batch_size):
    seen.append(batch_size)
    return in_batches(function, rows, batch_size)

  monkeypatch.setattr(images_room, "in_batches", noted)
  ex = bcos_jax.explain(model, variables, images, batch_size="auto")
  assert seen == [expected] and len(ex) == 5
  assert any("does not say" in str(each.message) for each in recwarn) == (free is None)


def test_the_batch_grows_with_memory():
  class Program:
    def memory_analysis(self):
      return types.SimpleNamespace(temp_size_in_bytes=80, output_size_in_bytes=10)

  def chosen(free, count=1000):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(batches, "free_memory", lambda: free)
      return batches.fitting(Program(), count)

  assert [chosen(free) for free in (0, 400, 1400, 1e9)] == [1, 2, 4, 256]
  assert chosen(1e9, 3) == 3
