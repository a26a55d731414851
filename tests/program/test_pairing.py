"""Inputs [z, -z] of B-cosified programs: the declared network's values and explanations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, InputError, StandardOps, layers, program

from ..common import filled, photos, rel

MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.25])


@pytest.mark.parametrize("name", ["resnet_tiny", "vit_test"])
def test_the_declared_network_is_explained_alike(name):
  encoding = Encoding(tuple(MEAN.tolist()), tuple(STD.tolist()))
  model = bcos_jax.create(name, ops=StandardOps(encoding=encoding))
  variables, images = filled(model), jnp.asarray(photos(2, max(model.image_sides)))
  orders = {"head_order": "pool_first", "token_head_order": "pool_first", "logit_bias": 0.0}
  traced = program.trace(lambda v, x: model.apply(v, encoding(x)), variables, images)
  if name == "vit_test":  # whose declared family keeps values linear, and other epsilons
    made = traced.bcosify(b=1.0, biases="keep", pairing="negated")
    ops = BcosOps(b=1.0, use_bias=True, norm="batch", **orders)
  else:
    made = traced.bcosify(pool="average", pairing="negated")
    ops = BcosOps(encoding=Encoding(pairing="negated"), **orders)
  declared, own = bcos_jax.bcosify(model, variables, ops=ops)
  found = bcos_jax.explain(made, made.variables, images, 1)
  expected = bcos_jax.explain(declared, own, images, 1)
  assert rel(found.logits, expected.logits) <= 1e-4
  assert rel(found.inputs, expected.inputs) <= 1e-6
  if name == "resnet_tiny":
    assert rel(found.weights, expected.weights) <= 1e-4
    assert rel(found.contributions, expected.contributions) <= 1e-4
    assert found.completeness_error.max() <= 1e-5
  assert bcos_jax.render.rgba(found).shape == (2, *images.shape[1:3], 4)


def normalised(x, axis):
  shape = [3 if i == axis else 1 for i in range(4)]
  return (x - MEAN.reshape(shape)) / STD.reshape(shape)


def channels_first(w, x):
  """A PyTorch layout."""
  y = jax.lax.conv_general_dilated(
    normalised(x, 1), w["stem"], (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
  )
  return jax.nn.relu(y).mean((2, 3)) @ w["head"]


def grouped(w, x):
  """A group for each colour, recomputed."""

  @jax.checkpoint
  def stem(w, x):
    return jax.lax.conv_general_dilated(
      jnp.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0))),
      w.transpose(2, 3, 1, 0),
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=3,
    )

  return jax.nn.relu(stem(w["stem"], normalised(x, 3))).mean((1, 2)) @ w["head"]


def patches(w, x):
  """A vision transformer's: two maps of patches, and attention weights of the input."""
  n, h = len(x), x.shape[1]
  x = normalised(x, 3).reshape(n, h // 2, 2, h // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(n, -1, 12)
  kernel = w["stem"].reshape(6, 12).T
  y = jax.nn.softmax(x @ jnp.swapaxes(x, 1, 2)) @ (x @ kernel) + x @ w["value"]
  return y.mean(1) @ w["head"]


CASES = {
  "NCHW": (channels_first, (6, 3, 2, 2), 1),
  "groups": (grouped, (6, 1, 2, 2), 3),
  "patches": (patches, (6, 3, 2, 2), 3),
}


def of(name):
  function, shape, axis = CASES[name]
  rng = np.random.RandomState(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
  variables = {"stem": draw(*shape), "head": draw(6, 4), "value": draw(12, 6)}
  x = jnp.moveaxis(jnp.asarray(photos(3, 8)), 3, axis)
  return function, variables, x, program.trace(function, variables, x), axis


@pytest.mark.parametrize("name", CASES)
def test_with_everything_kept_the_function_is_unchanged(name):
  function, variables, x, traced, axis = of(name)
  same = traced.bcosify(b=1.0, biases="keep", pairing="negated")
  assert rel(same(same.variables, x), function(variables, x)) <= 1e-5
  encoded = same.encode(same.variables, x)
  assert rel(encoded, jnp.concatenate([normalised(x, axis), -normalised(x, axis)], axis)) <= 1e-6
  made = traced.bcosify(pairing="negated")
  assert "of [z, -z]" in made.table().split("\n")[-2]
  ex = bcos_jax.explain(made, made.variables, x, 1)
  assert ex.weights.shape == (3, 8, 8, 6) and ex.contributions.shape == (3, 8, 8)
  assert np.abs(ex.residual).max() <= 1e-5 * np.abs(ex.value).max()
  gradient = jax.grad(lambda v: (made(v, x) ** 2).sum())(made.variables)
  assert np.abs(gradient["negated"]["stem"]).max() > 0


def test_the_first_map_is_the_transform_of_both_halves():
  _, variables, x, traced, _ = of("NCHW")
  made = traced.bcosify(pairing="negated", rules={"head": {"b": 1.0}})
  z = jnp.moveaxis(made.encode(made.variables, x), 1, 3)
  half = variables["stem"].transpose(2, 3, 1, 0) / 2
  kernel = jnp.concatenate([half, -half], 2)
  y = layers.BcosConv(6, (2, 2), strides=2).apply({"params": {"kernel": kernel}}, z)
  expected = jax.nn.relu(y).mean((1, 2)) @ variables["head"]
  assert rel(made(made.variables, x), expected) <= 1e-5


def test_contributions_are_those_of_the_channels():
  _, variables, x, traced, _ = of("NCHW")
  assert traced.explain(variables, x, 1).contributions.shape == (3, 8, 8)
  square = jnp.ones((2, 3, 3, 3))
  summed = program.trace(lambda w, x: x.sum((1, 2, 3))[:, None] @ w, jnp.ones((1, 2)), square)
  assert summed.explain(jnp.ones((1, 2)), square, 1).contributions.shape == (2, 3, 3)
  ones = jnp.asarray(photos(2, 8))
  stated = program.trace(lambda _, x: x.mean((2, 3)), {}, ones, channel_axis=1)
  assert stated.explain({}, ones, 1).contributions.shape == (2, 8, 3)  # of 8 channels


class Tied(nn.Module):
  """Whose stem is read again, or computed, or comes after an activation."""

  kind: str

  @nn.compact
  def __call__(self, x):
    w = self.param("w", nn.initializers.normal(1.0), (3, 3))
    if self.kind == "tied":
      return (nn.relu(x @ w) @ w).mean((1, 2))
    if self.kind == "computed":
      return (x @ (w / jnp.linalg.norm(w))).mean((1, 2))
    return (nn.relu(x) @ w).mean((1, 2))


@pytest.mark.parametrize(
  "kind, message",
  [
    ("tied", "params/w is the kernel of a first map, and dot_general at"),
    ("computed", "The kernel of a first map is computed from params/w"),
    ("late", "reads the input before any map"),
  ],
)
def test_inputs_that_cannot_be_paired(kind, message):
  images = jnp.asarray(photos(2, 8))
  variables = Tied(kind).init(jax.random.key(0), images)
  traced = program.trace(Tied(kind).apply, variables, images)
  with pytest.raises(InputError, match=message):
    traced.bcosify(pairing="negated")
  with pytest.raises(InputError, match=r"pairing .complement.\. Known: negated, none"):
    traced.bcosify(pairing="complement")
  with pytest.raises(InputError, match="channel_axis is 0"):
    program.trace(Tied(kind).apply, variables, images, channel_axis=0)
