"""Stochastic depth: which branches are dropped, how often, and none in evaluation."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps
from bcos_jax.errors import InputError
from bcos_jax.layers import drop_path, drop_rates

from ..common import filled, photos


class _Drop(nn.Module):
  rate: float

  @nn.compact
  def __call__(self, y, train):
    return drop_path(self, y, self.rate, train)


def _dropped(y, rate, seed=0):
  return np.asarray(_Drop(rate).apply({}, y, True, rngs={"dropout": jax.random.key(seed)}))


def test_whole_images_are_dropped_and_the_expectation_stays():
  """torchvision's stochastic_depth in mode 'row': one draw per image, divided by 1 - rate."""
  count, rate = 4000, 0.25
  y = jnp.asarray(np.random.RandomState(0).standard_normal((count, 2, 2, 3)).astype(np.float32))
  dropped = _dropped(y, rate)
  gone = (dropped == 0).reshape(count, -1)
  assert np.array_equal(gone.all(axis=1), gone.any(axis=1))
  kept = ~gone.all(axis=1)
  np.testing.assert_allclose(dropped[kept], np.asarray(y)[kept] / (1 - rate), rtol=1e-6)
  # Five standard deviations of a binomial distribution.
  assert abs(gone[:, 0].mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
  assert not np.array_equal(dropped, _dropped(y, rate, seed=1))


@pytest.mark.parametrize("rate, train", [(0.5, False), (0.0, True)])
def test_nothing_is_drawn_where_nothing_is_dropped(rate, train):
  y = jnp.ones((2, 3))
  assert _Drop(rate).apply({}, y, train) is y  # without a stream of random numbers


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_that_are_no_probabilities(rate):
  with pytest.raises(InputError, match="stochastic depth"):
    _Drop(rate).apply({}, jnp.ones((2, 3)), False)


def test_rates_rise_from_zero():
  assert drop_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
  assert drop_rates(0.3, 1) == [0]


def _seen(model):
  return model.ops.encoding(photos(4, side=16))


@pytest.mark.parametrize(
  "name", ["resnet_tiny", "resnext_tiny", "convnext_test", "convnextv2_test"]
)
@pytest.mark.parametrize("ops", [StandardOps(), BcosOps()], ids=["standard", "bcos"])
def test_create_takes_the_rate(name, ops):
  """It changes training, draw by draw, and neither parameters nor evaluation."""
  sizes = {"num_classes": 3, "image_size": 16}
  plain = bcos_jax.create(name, ops=ops, drop_path=0.0, **sizes)
  model = bcos_jax.create(name, ops=ops, drop_path=0.5, **sizes)
  variables, x = filled(plain), _seen(plain)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def run(model, train, seed=0):
    rngs = {"dropout": jax.random.key(seed)}
    return model.apply(variables, x, train, rngs=rngs, mutable=["batch_stats"])[0]

  assert np.array_equal(run(model, False), run(plain, False))
  assert np.array_equal(run(model, True, 0), run(model, True, 0))
  outputs = [np.asarray(run(model, True, seed)) for seed in range(4)]
  assert np.isfinite(outputs).all()
  assert any(not np.array_equal(outputs[0], other) for other in outputs[1:])


def test_networks_that_keep_every_layer_refuse_it():
  """A DenseNet has no residual branches."""
  with pytest.raises(InputError, match="'drop_path'"):
    bcos_jax.create("densenet_tiny", ops=StandardOps(), drop_path=0.1)
