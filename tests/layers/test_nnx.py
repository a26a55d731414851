"""NNX layers against the Linen layers of the same kernels."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, layers

from ..common import rel

X = np.random.RandomState(0).standard_normal((2, 7, 6, 4)).astype(np.float32)
CONVOLUTIONS = (
  {},
  {"b": 1.0, "use_bias": True},
  {"b": 1.5, "strides": 2, "padding": 1, "weights": "unit"},
  {"weights": "cosine", "padding": [(1, 0), (0, 2)], "padding_mode": "replicate"},
  {"max_out": 2, "feature_group_count": 2, "kernel_dilation": (2, 1), "use_bias": True},
  {"learn_b": True, "b": 1.25, "padding": "VALID"},
  {"dtype": jnp.bfloat16},
)
DENSE = ({}, {"b": 1.5, "weights": "cosine"}, {"max_out": 3, "weights": "unit", "use_bias": True})


def as_linen(layer, other):
  """Returns the parameters of a Linen layer that equals an NNX one."""
  found = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
  if other.use_bias:
    found["bias"] = layer.bias[...] = jnp.linspace(-0.1, 0.1, len(found["bias"]))
  return {"params": found}


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolutions(options):
  layer = layers.nnx.BcosConv(4, 6, (3, 2), **options, rngs=nnx.Rngs(0))
  other = layers.BcosConv(6, (3, 2), **options)
  variables = as_linen(layer, other)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
    jnp.shape, dict(other.init(jax.random.key(0), X))
  )
  np.testing.assert_array_equal(layer(X), other.apply(variables, X))


@pytest.mark.parametrize("options", DENSE, ids=str)
def test_dense_maps(options):
  layer = layers.nnx.BcosLinear(4, 5, **options, rngs=nnx.Rngs(0))
  other = layers.BcosDense(5, **options)
  variables = as_linen(layer, other)
  np.testing.assert_array_equal(layer(X), other.apply(variables, X))


class Network(nnx.Module):
  """A B-cos network as one writes it in NNX."""

  def __init__(self, rngs):
    self.stem = layers.nnx.BcosConv(4, 8, (3, 3), strides=2, max_out=2, rngs=rngs)
    self.head = layers.nnx.BcosLinear(8, 3, learn_b=True, rngs=rngs)

  def __call__(self, x):
    return self.head(self.stem(x)).mean((1, 2))


def test_networks_are_explained_and_trained():
  network = Network(nnx.Rngs(0))
  ex = bcos_jax.explain(network, None, X, 1)
  assert rel(ex.logits, network(X)) <= 1e-5
  assert np.abs(ex.residual).max() <= 1e-6 and np.abs(ex.weights).max() > 0

  def declared(x):
    stem = layers.BcosConv(8, (3, 3), strides=2, max_out=2, detach=True)
    head = layers.BcosDense(3, learn_b=True, detach=True)
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    x = stem.apply({"params": params["stem"]}, x)
    return head.apply({"params": params["head"]}, x).mean((1, 2))[:, 1].sum()

  assert rel(ex.weights, jax.grad(declared)(jnp.asarray(X))) <= 1e-5
  gradient = nnx.grad(lambda network: (network(X) ** 2).sum())(network)
  assert np.abs(gradient["head"]["b"][...]) > 0


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda **r: layers.nnx.BcosLinear(4, 0, **r), "out_features is 0"),
    (lambda **r: layers.nnx.BcosLinear(4, 2, b=0.5, **r), "B is 0.5"),
    (lambda **r: layers.nnx.BcosLinear(4, 2, weights="units", **r), "weights 'units'.*'unit'"),
    (lambda **r: layers.nnx.BcosConv(4, 2, 3, **r), r"kernel_size=\(3, 3\)"),
    (lambda **r: layers.nnx.BcosConv(4, 6, (3, 3), feature_group_count=3, **r), "not divisible"),
    (lambda **r: layers.nnx.BcosConv(4, 6, (3,), **r)(X), "Input has shape"),
  ],
)
def test_what_cannot_be(make, message):
  with pytest.raises(InputError, match=message):
    make(rngs=nnx.Rngs(0))
