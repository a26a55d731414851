"""Networks of other libraries: one line each, explained without anything unexplained."""

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, layers, program

from ..common import rel

IMAGES = np.random.RandomState(0).random_sample((2, 12, 12, 3)).astype(np.float32)


class LinenNetwork(nn.Module):
  """Convolution, batch norm, dropout, max pooling, attention, remat and a head."""

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.remat(nn.Conv)(8, (3, 3), name="stem")(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
    x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1, 8)
    x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="pre")(x))
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(5, name="head")(x.mean(1))


class NnxNetwork(nnx.Module):
  """The same in NNX."""

  def __init__(self, rngs):
    self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(8, 5, rngs=rngs)

  def __call__(self, x):
    x = nnx.gelu(self.norm(self.stem(x)))
    x = nnx.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1, 8)
    return self.head(self.dropout(x + self.attention(x)).mean(1))


def complete(ex, *sources):
  """Whether nothing is unexplained, and residuals have these names."""
  assert ex.completeness_error.max() <= 3e-6
  assert np.abs(ex.weights).max() > 0
  for source in sources:
    assert source in ex.residuals, sorted(ex.residuals)


def test_linen():
  network = LinenNetwork()
  variables = network.init(jax.random.key(0), IMAGES, train=False)
  variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
  ex = bcos_jax.explain(network, variables, IMAGES, 1)
  assert rel(ex.logits, network.apply(variables, IMAGES, train=False)) <= 1e-5
  complete(ex, "params/stem/bias", "batch_stats/norm/mean", "params/attention/value/bias")
  assert len(ex) == 2 and ex.contributions.shape == (2, 12, 12)
  assert "2 pictures" in repr(ex)


def test_channels_of_functions_that_have_them_first():
  variables = jax.random.normal(jax.random.key(0), (5, 3, 4, 4))

  class ChannelsFirst:
    channel_axis = 1

    def __call__(self, variables, x):
      return jax.nn.gelu(jax.lax.conv(x, variables, (1, 1), "SAME")).sum((2, 3))

  network = ChannelsFirst()
  ex = bcos_jax.explain(network, variables, np.moveaxis(IMAGES, -1, 1), [[1, 2], [0, 4]])
  last = bcos_jax.explain(
    lambda v, x: network(v, jnp.moveaxis(x, -1, 1)), variables, IMAGES, [[1, 2], [0, 4]]
  )
  for name in ("images", "inputs", "weights", "contributions"):
    assert getattr(ex, name).shape == getattr(last, name).shape, name
    assert rel(getattr(ex, name), getattr(last, name)) <= 1e-6, name
  complete(ex)
  traced = program.trace(network, variables, np.moveaxis(IMAGES, -1, 1))
  assert traced.bcosify(b=1.5).channel_axis == 1


def test_recurrent_networks():
  class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(5, name="head")(nn.RNN(nn.LSTMCell(8), name="cell")(x)[:, -1])

  x = IMAGES.mean(2)
  variables = Recurrent().init(jax.random.key(0), x)
  ex = bcos_jax.explain(Recurrent(), variables, x, 1)
  complete(ex, "params/head/bias")
  assert (np.abs(ex.contributions).sum(0) > 0).all()  # of the first step as well


def test_layers_of_this_package_in_a_module_without_a_family():
  layer = layers.BcosConv(3, (3, 3))
  variables = layer.init(jax.random.key(0), IMAGES)
  ex = bcos_jax.explain(layer, variables, IMAGES, lambda y: y[:, 5, 5, 1])
  complete(ex)
  detached = layers.BcosConv(3, (3, 3), detach=True)
  weights = jax.grad(lambda x: jnp.sum(detached.apply(variables, x)[:, 5, 5, 1]))(IMAGES)
  assert rel(ex.weights, weights) <= 1e-5


def test_nnx():
  network = NnxNetwork(nnx.Rngs(0))
  ex = bcos_jax.explain(network, None, IMAGES, 1)
  assert network.dropout.deterministic is False  # the user's module is left as it is
  network.eval()
  assert rel(ex.logits, network(IMAGES)) <= 1e-5
  complete(ex, "stem/bias", "norm/mean", "attention/value/bias")


def test_equinox():
  eqx = pytest.importorskip("equinox", reason="comes with the extra [frameworks]")
  keys = jax.random.split(jax.random.key(0), 2)
  network = eqx.nn.Sequential(
    [
      eqx.nn.Lambda(lambda x: jnp.moveaxis(x, -1, 0)),
      eqx.nn.Conv2d(3, 8, 3, key=keys[0]),
      eqx.nn.GroupNorm(2, 8),
      eqx.nn.Lambda(jax.nn.silu),
      eqx.nn.MaxPool2d(2, 2),
      eqx.nn.Lambda(lambda x: x.mean((1, 2))),
      eqx.nn.Dropout(0.5),
      eqx.nn.Linear(8, 5, key=keys[1]),
    ]
  )
  ex = bcos_jax.explain(network, None, IMAGES, 1)
  assert rel(ex.logits, jax.vmap(eqx.nn.inference_mode(network))(IMAGES)) <= 1e-5
  complete(ex, "layers/1/bias", "layers/7/bias")


def test_haiku():
  hk = pytest.importorskip("haiku", reason="comes with the extra [frameworks]")

  def forward(x, is_training):
    x = hk.Conv2D(8, 3, name="stem")(x)
    x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training)
    return hk.Linear(5, name="head")(jax.nn.elu(x).mean((1, 2)))

  network = hk.transform_with_state(forward)
  variables = network.init(jax.random.key(0), IMAGES, True)
  ex = bcos_jax.explain(network, variables, IMAGES, 1, is_training=False)
  assert rel(ex.logits, network.apply(*variables, None, IMAGES, False)[0]) <= 1e-5
  complete(ex, "0/stem/b", "0/head/b")
  linear = hk.transform(lambda x: hk.Linear(5)(x.mean((1, 2))))
  complete(bcos_jax.explain(linear, linear.init(jax.random.key(0), IMAGES), IMAGES, 1), "linear/b")


def test_keras(monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  keras = pytest.importorskip("keras", reason="comes with the extra [frameworks]")
  if keras.backend.backend() != "jax":
    pytest.skip("Keras was imported with another backend")
  network = keras.Sequential(
    [
      keras.layers.Input((12, 12, 3)),
      keras.layers.Conv2D(8, 3, name="stem"),
      keras.layers.BatchNormalization(name="norm"),
      keras.layers.Activation("gelu"),
      keras.layers.MaxPooling2D(),
      keras.layers.GlobalAveragePooling2D(),
      keras.layers.Dropout(0.5),
      keras.layers.Dense(5, name="head"),
    ]
  )
  ex = bcos_jax.explain(network, None, IMAGES, 1)
  assert rel(ex.logits, network(IMAGES, training=False)) <= 1e-5
  complete(ex, "trainable_variables/sequential/head/bias")


def haiku_network():
  hk = pytest.importorskip("haiku", reason="comes with the extra [frameworks]")

  def forward(x, is_training):
    return hk.nets.MobileNetV1(num_classes=10)(x, is_training)

  network = hk.transform_with_state(forward)
  return network, network.init(jax.random.key(0), IMAGES, True), {"is_training": False}


def keras_network(name):
  def make():
    keras = pytest.importorskip("keras", reason="comes with the extra [frameworks]")
    if keras.backend.backend() != "jax":
      pytest.skip("Keras was imported with another backend")
    network = getattr(keras.applications, name)
    fields = {"weights": None, "classes": 10, "classifier_activation": None}
    return network(input_shape=(32, 32, 3), **fields), None, {}

  return make


OTHERS = {
  "haiku.nets.MobileNetV1": haiku_network,
  "keras MobileNetV3Small": keras_network("MobileNetV3Small"),
  "keras ConvNeXtTiny": keras_network("ConvNeXtTiny"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_nobody_here_wrote(name, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  network, variables, options = OTHERS[name]()
  images = np.random.RandomState(0).random_sample((2, 32, 32, 3)).astype(np.float32)
  function, variables = program.function_of(network, variables, **options)
  traced = program.trace(function, variables, images)
  traced.check()
  ex = traced.explain(variables, images, 1)
  assert ex.completeness_error.max() <= 1e-5
  same = traced.bcosify(1.0, biases="keep")
  assert rel(jax.jit(same)(variables, images), jax.jit(function)(variables, images)) <= 1e-4
  made = traced.bcosify(pool="average")
  assert np.isfinite(jax.jit(made)(made.variables, images)).all()


def test_functions_are_traced_once():
  count = 0

  def function(w, x, scale=1.0):
    nonlocal count
    count += 1
    return scale * x.mean((1, 2)) @ w

  w = jnp.eye(3)
  once = bcos_jax.explain(function, w, IMAGES, 0)
  assert count == 2  # for one example, and for the batch
  bcos_jax.explain(function, w, IMAGES, 0)
  assert count == 2
  twice = bcos_jax.explain(function, w, IMAGES, 0, scale=2.0)
  assert rel(twice.weights, 2 * once.weights) <= 1e-6


@pytest.mark.parametrize(
  "model, variables, message",
  [
    (NnxNetwork(nnx.Rngs(0)), {}, "of nnx, which has its variables inside"),
    (LinenNetwork(), None, "of linen, which has its variables outside"),
    (np.eye(3), {}, "ndarray, expected a network or a function"),
  ],
)
def test_what_is_no_network(model, variables, message):
  with pytest.raises(InputError, match=message):
    program.function_of(model, variables)


def test_targets_of_texts_are_not_for_others():
  with pytest.raises(InputError, match="contrast is a target of language models"):
    bcos_jax.explain(lambda w, x: x, {}, IMAGES, bcos_jax.Contrast(1, 2))


class Trains(nn.Module):
  """That its batch statistics change is not said by an argument."""

  @nn.compact
  def __call__(self, x):
    return nn.BatchNorm(use_running_average=False)(x).mean((1, 2))


def test_modules_that_only_train():
  variables = Trains().init(jax.random.key(0), IMAGES)
  with pytest.raises(InputError, match=r"Trains cannot be called in evaluation mode.*train=False"):
    bcos_jax.explain(Trains(), variables, IMAGES, 0)


MIXING = {
  "dot": lambda w, x: x.mean((1, 2)) + (x.mean((1, 2)) @ x.mean((1, 2)).T) @ x.mean((1, 2)),
  "cumsum": lambda w, x: jnp.cumsum(x.mean((1, 2)), 0),
  "sort": lambda w, x: jnp.sort(x.mean((1, 2)), 0),
  "rev": lambda w, x: x.mean((1, 2)) + x.mean((1, 2))[::-1],
}


@pytest.mark.parametrize("name", MIXING)
def test_examples_that_are_mixed(name):
  with pytest.raises(InputError, match=r"mixes the examples|one value of all examples"):
    bcos_jax.explain(MIXING[name], {}, IMAGES, 0)


def test_networks_of_other_libraries_are_traced_once():
  eqx = pytest.importorskip("equinox", reason="comes with the extra [frameworks]")
  count = 0

  def counted(x):
    nonlocal count
    count += 1
    return x.mean((0, 1))

  network = eqx.nn.Sequential([eqx.nn.Lambda(counted), eqx.nn.Linear(3, 2, key=jax.random.key(0))])
  bcos_jax.explain(network, None, IMAGES, 0)
  once = count
  bcos_jax.explain(network, None, IMAGES, 0)
  assert count == once
