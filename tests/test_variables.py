"""Adopting the variables of another network: which leaves, and what is refused."""

from flax import traverse_util
import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, StandardOps
from bcos_jax.variables import abstract_variables, exactly, graft, surplus


def network(**fields):
  options = {"stages": (1,), "width": 4, "num_classes": 3, "image_size": 8}
  return bcos_jax.create("resnet_tiny", ops=StandardOps(), **{**options, **fields})


def numbers(model):
  return jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), abstract_variables(model))


def test_what_is_named_is_reinitialised_and_all_else_is_shared():
  model = network()
  given = numbers(model)
  made = graft(model, given, ("head/kernel$",), key=jax.random.key(3))
  assert not (made["params"]["head"]["kernel"] == 7).any()
  assert made["params"]["head"]["bias"] is given["params"]["head"]["bias"]
  own = model.init(jax.random.key(3), np.zeros(model.input_spec.shape, np.float32))
  np.testing.assert_allclose(
    made["params"]["head"]["kernel"], own["params"]["head"]["kernel"], rtol=1e-6
  )


def test_what_the_model_lacks_is_left_out_where_it_is_named():
  model, features = network(), network(num_classes=0)
  made = graft(features, numbers(model), surplus(model, features))
  assert "head" not in made["params"]
  with pytest.raises(InputError, match="head/bias is unexpected; params/head/kernel is unex"):
    graft(features, numbers(model))


def test_everything_that_does_not_fit_is_listed():
  model, other = network(), numbers(network(width=8))
  del other["params"]["head"]["bias"]
  with pytest.raises(InputError) as error:
    graft(model, other, exactly(["params/bn1/scale"]), whose="Those of the other", fix="Do so.")
  wrong = {part.split()[0] for part in error.value.cause.partition(": ")[2].split("; ")}
  leaves = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  smaller = {path for path, leaf in leaves.items() if path != "params/bn1/scale"}
  assert wrong == smaller and "head/bias is missing" in error.value.cause
  assert error.value.cause.startswith("Those of the other") and error.value.fix == "Do so."
