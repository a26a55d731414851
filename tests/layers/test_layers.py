"""Layers against slow reference twins, closed-form explanations, and invalid inputs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax import BcosOps, StandardOps, layers
from bcos_jax import functional as F
from bcos_jax.errors import InputError
from bcos_jax.models import blocks

from .. import twins
from ..common import pulled_back, rel, suggestion


def _random(*shape, seed=0):
  return np.random.RandomState(seed).standard_normal(shape)


def _both_modes(layer, variables, x):
  """Returns the results in training and in explanation mode."""
  return jax.jit(
    lambda variables, x: [
      layer.clone(detach=detach).apply(variables, x) for detach in (False, True)
    ]
  )(variables, x)


# Convolutions: one row per way in which they can differ from the plainest one.
CONVS = {
  "plain": {},
  "unit norm": {"weights": "unit"},
  "cosine of weights": {"weights": "cosine"},
  "cosine of weights, B=2.5": {"weights": "cosine", "b": 2.5},
  "B=1": {"b": 1},
  "B=1.5": {"b": 1.5},
  "B=2.5": {"b": 2.5},
  "B=1.01": {"b": 1.01},
  "bias": {"use_bias": True},
  "bias, B=2.5, unit norm": {"use_bias": True, "b": 2.5, "weights": "unit"},
  "learned B": {"learn_b": True},
  "learned B, unit norm": {"learn_b": True, "weights": "unit"},
  "MaxOut": {"max_out": 2},
  "MaxOut of 3, unit norm, bias": {"max_out": 3, "weights": "unit", "use_bias": True},
  "groups": {"feature_group_count": 2},
  "depthwise": {"feature_group_count": 4},
  "groups, MaxOut, B=1.7": {"feature_group_count": 2, "max_out": 2, "b": 1.7},
  "groups, MaxOut, unit norm, dilation": {
    "feature_group_count": 2,
    "max_out": 2,
    "weights": "unit",
    "kernel_dilation": 2,
    "padding": 2,
  },
  "strides": {"strides": 2},
  "uneven strides, kernel and padding": {
    "strides": (2, 1),
    "kernel_size": (2, 3),
    "padding": ((0, 1), (2, 0)),
  },
  "uneven dilation": {"kernel_dilation": (1, 2), "padding": (1, 2)},
  "dilation and strides": {"kernel_dilation": 2, "strides": 2, "padding": 2},
  "1x1": {"kernel_size": (1, 1), "padding": 0},
  "1x1, strides": {"kernel_size": (1, 1), "padding": 0, "strides": 2},
  "1x1, padding": {"kernel_size": (1, 1), "padding": 1, "strides": 2},
  "1x1, groups": {"kernel_size": (1, 1), "padding": 0, "feature_group_count": 2},
  "padding wider than half the kernel": {"padding": 3},
  "kernel over everything": {"kernel_size": (7, 6), "padding": 0},
  "valid": {"padding": "VALID"},
  "same": {"padding": "SAME"},
  "same, strides": {"padding": "SAME", "strides": 2},
  "same, even kernel, dilation": {
    "padding": "SAME",
    "kernel_size": (4, 2),
    "kernel_dilation": (1, 2),
  },
  "reflect": {"padding_mode": "reflect", "padding": 2},
  "replicate": {"padding_mode": "replicate", "strides": 2},
  "circular": {"padding_mode": "circular", "kernel_dilation": 2, "padding": 2},
  "1-D": {"kernel_size": (3,), "padding": 1},
  "1-D, everything": {
    "kernel_size": (3,),
    "strides": 2,
    "padding": ((2, 1),),
    "kernel_dilation": 2,
    "feature_group_count": 2,
    "max_out": 2,
    "b": 2.5,
    "weights": "unit",
    "use_bias": True,
    "padding_mode": "replicate",
  },
  "3-D": {"kernel_size": (3, 3, 3), "padding": 1},
  "3-D, everything": {
    "kernel_size": (2, 3, 1),
    "strides": (1, 2, 2),
    "padding": (1, 2, 0),
    "kernel_dilation": (1, 2, 1),
    "feature_group_count": 2,
    "max_out": 2,
    "b": 1.5,
    "weights": "unit",
    "use_bias": True,
    "padding_mode": "reflect",
  },
}
SPATIAL = {1: (9,), 2: (7, 6), 3: (4, 6, 5)}


def _pads(layer, spatial):
  """PyTorch's padding, or TensorFlow's 'SAME', by their definitions."""
  rank = len(layer.kernel_size)

  def per_axis(value):
    return (value,) * rank if isinstance(value, int) else tuple(value)

  strides, dilation = per_axis(layer.strides), per_axis(layer.kernel_dilation)
  if layer.padding == "VALID":
    pads = ((0, 0),) * rank
  elif layer.padding == "SAME":
    pads = []
    for size, k, s, d in zip(spatial, layer.kernel_size, strides, dilation, strict=True):
      total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
      pads.append((total // 2, total - total // 2))
  else:
    pads = [(p, p) if isinstance(p, int) else p for p in per_axis(layer.padding)]
  return strides, pads, dilation


def _conv(case: str):
  fields = {"features": 4, "kernel_size": (3, 3), "padding": 1} | CONVS[case]
  layer = layers.BcosConv(**fields)
  rank = len(layer.kernel_size)
  x = _random(2, *SPATIAL[rank], 4)
  kernel = _random(*layer.kernel_size, 4 // layer.feature_group_count, 4 * layer.max_out, seed=1)
  params = {"kernel": kernel}
  if layer.use_bias:
    params["bias"] = _random(kernel.shape[-1], seed=2)
  if layer.learn_b:
    params["b"] = np.array(1.7)
  strides, pads, dilation = _pads(layer, SPATIAL[rank])
  expected = twins.conv(
    x,
    kernel,
    strides=strides,
    pads=pads,
    dilation=dilation,
    groups=layer.feature_group_count,
    b=float(params.get("b", layer.b)),
    general=layer.learn_b,
    weights=layer.weights,
    max_out=layer.max_out,
    bias=params.get("bias"),
    padding_mode=layer.padding_mode,
  )
  return layer, {"params": jax.tree.map(np.float32, params)}, np.float32(x), expected


@pytest.mark.parametrize("case", CONVS)
def test_conv_is_its_twin(case):
  layer, variables, x, expected = _conv(case)
  # Explanation mode changes derivatives, never values.
  for y in _both_modes(layer, variables, x):
    assert rel(y, expected) <= 2e-6


def test_conv_parameters_have_flax_shapes():
  layer = layers.BcosConv(6, (3, 5), feature_group_count=2, max_out=3, use_bias=True, learn_b=True)
  params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))["params"]
  assert {k: v.shape for k, v in params.items()} == {
    "kernel": (3, 5, 2, 18),
    "bias": (18,),
    "b": (),
  }


DENSES = {
  "plain": {},
  "unit norm": {"weights": "unit"},
  "cosine of weights": {"weights": "cosine"},
  "B=1": {"b": 1},
  "B=1.5": {"b": 1.5, "weights": "cosine"},
  "B=2.5": {"b": 2.5, "weights": "unit"},
  "MaxOut": {"max_out": 2},
  "MaxOut, unit norm, bias, B=3": {"max_out": 3, "weights": "unit", "use_bias": True, "b": 3},
  "bias": {"use_bias": True},
  "learned B": {"learn_b": True},
}


@pytest.mark.parametrize("case", DENSES)
def test_dense_is_its_twin(case):
  layer = layers.BcosDense(5, **DENSES[case])
  x, kernel = _random(6, 7), _random(7, 5 * layer.max_out, seed=1)
  params = {"kernel": kernel}
  if layer.use_bias:
    params["bias"] = _random(kernel.shape[-1], seed=2)
  if layer.learn_b:
    params["b"] = np.array(2.0)
  expected = twins.dense(
    x,
    kernel,
    b=float(params.get("b", layer.b)),
    general=layer.learn_b,
    weights=layer.weights,
    max_out=layer.max_out,
    bias=params.get("bias", 0.0),
  )
  variables = {"params": jax.tree.map(np.float32, params)}
  for y in _both_modes(layer, variables, np.float32(x).reshape(2, 3, 7)):
    assert rel(y, expected.reshape(2, 3, 5)) <= 2e-6


def test_map_is_linear_at_b_1():
  """The conventional maps are the same layers at B=1; against jax's own."""
  x, kernel, bias = np.float32(_random(2, 8, 8, 4)), _random(3, 3, 4, 6), _random(6)
  conv = StandardOps().conv(6, 3, 2, use_bias=True, name="c")
  y = conv.apply({"params": {"kernel": np.float32(kernel), "bias": np.float32(bias)}}, x)
  expected = (
    jax.lax.conv_general_dilated(
      x, np.float32(kernel), (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    + bias
  )
  assert rel(y, expected) <= 1e-6


def test_v1_divides_by_its_gain():
  """B-cos v1: out / (k sqrt(I) / 100)."""
  conv = BcosOps.v1().conv(4, 3, name="c")
  x, kernel = _random(1, 5, 5, 6), _random(3, 3, 6, 8, seed=1)
  expected = twins.conv(
    x, kernel, strides=(1, 1), pads=((1, 1), (1, 1)), dilation=(1, 1), weights="unit", max_out=2
  ) / (3 * np.sqrt(6) / 100)
  assert (
    rel(conv.apply({"params": {"kernel": np.float32(kernel)}}, np.float32(x)), expected) <= 2e-6
  )


@pytest.mark.parametrize("guard", ["conv", "dense"])
def test_presets_have_the_published_epsilons(guard):
  """Seen through tiny inputs, where the epsilons decide: convolutions have 1e-6 under the root,
  dense maps add 1e-12, and B-cos LM's dense maps have 1e-6 under the root."""
  x, kernel = np.full((1, 4), 1e-4), np.ones((4, 1))
  response, norm = 4e-4, 2e-4
  inside, added = response**2 / np.sqrt(norm**2 + 1e-6), response**2 / (norm + 1e-12)
  for name, ops in {
    "bcosification": BcosOps(),
    "lm": BcosOps.lm(weights="plain"),
    "v2": BcosOps.v2(weights="plain"),
    "aloe": BcosOps.aloe(implementation=1),
  }.items():
    variables = {"params": {"kernel": np.float32(kernel)}}
    if guard == "dense":
      y = ops.dense(1, name="d").apply(variables, np.float32(x))
      expected = inside if name == "lm" else added
    else:
      y = ops.conv(1, 1, name="c").apply(
        {"params": {"kernel": np.float32(kernel).reshape(1, 1, 4, 1)}},
        np.float32(x).reshape(1, 1, 1, 4),
      )
      expected = inside
      # The head of a convolutional network is a 1x1 convolution.
      head = ops.classifier(1, name="h").apply(variables, np.float32(x))
      assert rel(head.reshape(-1), [inside]) <= 1e-5
    assert rel(y.reshape(-1), [expected]) <= 1e-5


# Explanations of single layers, in closed form (DESIGN, "A trap").

KINDS = ({}, {"weights": "unit"}, {"weights": "cosine"}, {"learn_b": True})
CLOSED = [(1.5, {}), *((b, kind) for b in (2, 2.5) for kind in KINDS)]


def _closed_form(x, kernel, layer, eps):
  """|cos|^(b-1) * w for each unit, [I, O]."""
  lengths = np.sqrt((kernel**2).sum(axis=0))
  w = kernel if layer.weights == "plain" else kernel / lengths
  norm = eps(x)
  general = layer.learn_b or layer.b != 2
  scale = (np.abs(x @ w) / norm + general * twins.BASE_EPS) ** (layer.b - 1)
  return w * scale * (lengths if layer.weights == "cosine" else 1)


def _jacobians(layer, params, x):
  """Returns the derivative in training and in explanation mode, and the value."""

  def value(x, detach):
    return layer.clone(detach=detach).apply({"params": params}, x[None])[0]

  return jax.jit(
    lambda x: (jax.jacrev(value)(x, False), jax.jacrev(value)(x, True), value(x, True))
  )(x)


@pytest.mark.parametrize("b, kind", CLOSED)
def test_explanation_of_dense_in_closed_form(b, kind):
  layer = layers.BcosDense(5, b=b, detach=True, **kind)
  x, kernel = _random(7), _random(7, 5, seed=1)
  params = {"kernel": np.float32(kernel)} | ({"b": np.float32(b)} if layer.learn_b else {})
  plain, ours, y = _jacobians(layer, params, np.float32(x))
  expected = _closed_form(x, kernel, layer, lambda x: np.linalg.norm(x) + twins.DENSE_EPS)
  assert rel(ours.T, expected) <= 2e-6
  assert rel(ours @ x, y) <= 2e-6
  # The plain gradient is complete as well, since the layer is homogeneous; yet it is another map.
  assert rel(plain @ x, y) <= 1e-5
  assert rel(plain, ours) > 0.1


@pytest.mark.parametrize(
  "b, kind, groups",
  [*((b, kind, 1) for b, kind in CLOSED), (2, {}, 2), (2.5, {"weights": "unit"}, 2)],
)
def test_explanation_of_conv_in_closed_form(b, kind, groups):
  """Every output position has its own |cos|^(b-1) * w, laid over its patch."""
  layer = layers.BcosConv(
    4, (3, 3), strides=2, padding=1, b=b, detach=True, feature_group_count=groups, **kind
  )
  x, kernel = _random(5, 5, 4), _random(3, 3, 4 // groups, 4, seed=1)
  params = {"kernel": np.float32(kernel)} | ({"b": np.float32(b)} if layer.learn_b else {})
  expected = np.zeros((3, 3, 4, 7, 7, 4))
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  for i, j, g in np.ndindex(3, 3, groups):
    rows, columns = slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 3)
    inputs, units = (slice(g * 4 // groups, (g + 1) * 4 // groups),) * 2
    patch = padded[rows, columns, inputs].reshape(-1)
    weights = _closed_form(
      patch,
      kernel[..., units].reshape(len(patch), -1),
      layer,
      lambda x: np.sqrt(x @ x + twins.CONV_EPS),
    )
    for k, unit in enumerate(range(4)[units]):
      expected[i, j, unit, rows, columns, inputs] = weights[:, k].reshape(3, 3, -1)
  expected = expected[..., 1:-1, 1:-1, :]
  plain, ours, y = _jacobians(layer, params, np.float32(x))
  assert rel(ours, expected) <= 2e-6
  assert rel(np.einsum("ijohwc,hwc->ijo", ours, x), y) <= 2e-6
  assert rel(np.einsum("ijohwc,hwc->ijo", plain, x), y) <= 1e-5
  assert rel(plain, ours) > 0.1


def test_explanation_of_max_out_is_the_winners_weight():
  layer = layers.BcosDense(3, max_out=2, weights="unit", detach=True)
  x, kernel = _random(6), _random(6, 6, seed=1)
  ours = _jacobians(layer, {"kernel": np.float32(kernel)}, np.float32(x))[1]
  unit = kernel / np.sqrt((kernel**2).sum(axis=0))
  for k, row in enumerate(np.asarray(ours)):
    winner = 2 * k + int(np.argmax(x @ unit[:, 2 * k : 2 * k + 2]))
    assert rel(row, unit[:, winner] * abs(x @ unit[:, winner]) / np.linalg.norm(x)) <= 2e-6


def test_explanation_is_linear_and_training_is_not():
  """Scaling the input scales the value but not W(x); W depends on the input's direction."""
  layer = layers.BcosDense(4, b=2.5, detach=True)
  params = {"params": {"kernel": np.float32(_random(6, 4, seed=1))}}
  x, z = np.float32(_random(6)), np.float32(_random(6, seed=2))
  w = jax.jit(jax.jacrev(lambda x: layer.apply(params, x)))
  assert rel(w(3 * x), w(x)) <= 1e-5
  assert rel(w(z), w(x)) > 0.1
  assert (
    rel(
      layer.apply(params, x + z),
      np.asarray(layer.apply(params, x)) + np.asarray(layer.apply(params, z)),
    )
    > 0.05
  )


# Training gradients, against central differences of the twins.

GRADIENTS = {
  "B=2": {},
  "B=2, unit norm": {"weights": "unit"},
  "B=2.5, bias": {"b": 2.5, "use_bias": True},
  "B=1.5, groups, MaxOut, strides": {
    "b": 1.5,
    "feature_group_count": 2,
    "max_out": 2,
    "strides": 2,
  },
  "B=2, groups, bias, unit norm": {"feature_group_count": 2, "use_bias": True, "weights": "unit"},
  "B=2, MaxOut": {"max_out": 2},
  "B=2, cosine of weights": {"weights": "cosine"},
  "B=2, 1x1": {"kernel_size": (1, 1), "padding": 0, "strides": 2},
  "learned B": {"learn_b": True, "weights": "unit"},
  "reflect": {"padding_mode": "reflect", "kernel_dilation": 2, "padding": 2},
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_training_gradient_of_conv(case):
  layer = layers.BcosConv(
    **({"features": 2, "kernel_size": (3, 3), "padding": 1} | GRADIENTS[case])
  )
  x = _random(1, 4, 4, 2)
  params = {
    "kernel": _random(*layer.kernel_size, 2 // layer.feature_group_count, 2 * layer.max_out, seed=1)
  }
  if layer.use_bias:
    params["bias"] = _random(params["kernel"].shape[-1], seed=2)
  if layer.learn_b:
    params["b"] = np.array(1.8)
  strides, pads, dilation = _pads(layer, (4, 4))

  def twin(x, params):
    return twins.conv(
      x,
      params["kernel"],
      strides=strides,
      pads=pads,
      dilation=dilation,
      groups=layer.feature_group_count,
      b=float(params.get("b", layer.b)),
      general=layer.learn_b,
      weights=layer.weights,
      max_out=layer.max_out,
      bias=params.get("bias"),
      padding_mode=layer.padding_mode,
    )

  weight = _random(*twin(x, params).shape, seed=3)

  def loss(x, params):
    return float((weight * twin(x, params)).sum())

  ours = jax.jit(
    jax.grad(lambda x, params: jnp.sum(weight * layer.apply({"params": params}, x)), argnums=(0, 1))
  )(np.float32(x), jax.tree.map(np.float32, params))
  assert rel(ours[0], twins.numeric_gradient(lambda a: loss(a, params), x)) <= 1e-5
  assert ours[1].keys() == params.keys()
  for name, value in params.items():
    expected = twins.numeric_gradient(lambda a, name=name: loss(x, {**params, name: a}), value)
    assert rel(ours[1][name], expected) <= 1e-5, name


@pytest.mark.parametrize("b, kind", [*CLOSED, (2, {"use_bias": True, "max_out": 2})])
def test_training_gradient_of_dense(b, kind):
  layer = layers.BcosDense(3, b=b, **kind)
  x = _random(4, 5)
  params = {"kernel": _random(5, 3 * layer.max_out, seed=1)}
  if layer.use_bias:
    params["bias"] = _random(params["kernel"].shape[-1], seed=2)
  if layer.learn_b:
    params["b"] = np.array(float(b))
  weight = _random(4, 3, seed=3)

  def twin(x, params):
    return float(
      (
        weight
        * twins.dense(
          x,
          params["kernel"],
          b=float(params.get("b", b)),
          general=layer.learn_b,
          weights=layer.weights,
          max_out=layer.max_out,
          bias=params.get("bias", 0.0),
        )
      ).sum()
    )

  ours = jax.jit(
    jax.grad(lambda x, params: jnp.sum(weight * layer.apply({"params": params}, x)), argnums=(0, 1))
  )(np.float32(x), jax.tree.map(np.float32, params))
  assert rel(ours[0], twins.numeric_gradient(lambda a: twin(a, params), x)) <= 1e-5
  for name, value in params.items():
    expected = twins.numeric_gradient(lambda a, name=name: twin(x, {**params, name: a}), value)
    assert rel(ours[1][name], expected) <= 1e-5, name


def test_learned_b_never_falls_below_one():
  layer = layers.BcosDense(3, learn_b=True, b=1.5)
  x, kernel = _random(4, 5), _random(5, 3, seed=1)
  y = layer.apply({"params": {"kernel": np.float32(kernel), "b": np.float32(0.3)}}, np.float32(x))
  assert rel(y, x @ kernel) <= 1e-5
  params = layer.init(jax.random.key(0), np.float32(x))["params"]
  assert params["b"] == 1.5 and params["b"].dtype == jnp.float32


# Zeros, and numbers at the ends of their range.

HOSTILE_MAPS = [
  ({"b": 1.5}, "float32"),
  ({}, "float32"),
  ({"b": 2.5, "use_bias": True}, "float32"),
  ({"weights": "unit"}, "float32"),
  ({"b": 1.5, "weights": "cosine"}, "float32"),
  ({"learn_b": True}, "float32"),
  ({"max_out": 2, "weights": "unit"}, "float32"),
  ({}, "bfloat16"),
  ({"b": 1.5, "weights": "unit"}, "bfloat16"),
  ({"weights": "cosine", "learn_b": True}, "bfloat16"),
]


@pytest.mark.parametrize("fields, dtype", HOSTILE_MAPS, ids=str)
def test_zero_patches_are_finite(fields, dtype):
  """Values and every gradient, in training and explanation mode; also with a dead unit."""
  x = np.zeros((2, 6, 6, 3), np.float32)
  x[1, :2] = 1e-20  # squares underflow to zero
  x[1, 4:] = 1.0
  maps = {
    layers.BcosConv(4, (3, 3), padding=1, dtype=dtype, **fields): (3, 3, 3),
    layers.BcosDense(4, dtype=dtype, **fields): (3,),
  }
  params = []
  for layer, shape in maps.items():
    kernel = np.float32(_random(*shape, 4 * layer.max_out))
    kernel[..., 0] = 0
    params.append(
      {"kernel": kernel}
      | ({"b": np.float32(1.2)} if layer.learn_b else {})
      | ({"bias": np.zeros(4, np.float32)} if layer.use_bias else {})
    )

  def loss(params, x, detach):
    ys = [
      layer.clone(detach=detach).apply({"params": p}, x)
      for layer, p in zip(maps, params, strict=True)
    ]
    return sum(jnp.sum(jnp.sin(y.astype(jnp.float32) + 1)) for y in ys)

  both = jax.jit(
    lambda params, x: [
      jax.value_and_grad(loss, argnums=(0, 1))(params, x, detach) for detach in (False, True)
    ]
  )
  for leaf in jax.tree.leaves(both(params, x)):
    assert np.isfinite(np.asarray(leaf, np.float32)).all()


NORMS = [
  layers.BatchNorm(),
  layers.BatchNorm(centered=False, joint=True),
  layers.GroupNorm(),
  layers.GroupNorm(num_groups=None, centered=False),
  layers.LayerNorm(),
  layers.LayerNorm(centered=False),
]


@pytest.mark.parametrize("index", range(len(NORMS)))
def test_norms_of_constants_are_finite(index):
  """A black or white image has no variance."""
  layer = NORMS[index]
  params = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
  variables = {"batch_stats": {"mean": np.zeros(3, np.float32), "var": np.zeros(3, np.float32)}}
  if getattr(layer, "joint", False):
    params, variables = jax.tree.map(lambda leaf: leaf[:1], (params, variables))

  def loss(params, x, detach, train):
    y, _ = layer.clone(detach=detach).apply(
      {**variables, "params": params}, x, train=train, mutable=["batch_stats"]
    )
    return jnp.sum(jnp.sin(y + 1))

  all_modes = jax.jit(
    lambda params, x: [
      jax.value_and_grad(loss, argnums=(0, 1))(params, x, detach, train)
      for detach, train in itertools.product((False, True), (False, True))
    ]
  )
  for value in (0.0, 1.0):
    out = all_modes(params, np.full((2, 4, 4, 3), value, np.float32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


# Norms.


def _torch_batch_norm(x, running, *, centered, joint, momentum, eps=1e-5, count=1):
  """One training step of the published modules, in float64."""
  axes = None if joint else tuple(range(x.ndim - 1))
  mean, var = x.mean(axes), x.var(axes)
  y = (x - mean if centered else x) / np.sqrt(var + eps)
  size = x.size / np.size(mean)
  share = 1 / count if momentum is None else 1 - momentum
  new_var = var * size / (size - 1) if centered else var
  running = {
    "mean": (1 - share) * running["mean"] + share * mean,
    "var": (1 - share) * running["var"] + share * new_var,
  }
  return y, running


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.99, None])
def test_batch_norm_over_several_steps(centered, joint, momentum):
  layer = layers.BatchNorm(centered=centered, joint=joint, momentum=momentum)
  features = 1 if joint else 3
  params = {"scale": np.ones(features, np.float32), "bias": np.zeros(features, np.float32)}
  variables = layer.init(jax.random.key(0), np.zeros((1, 2, 2, 3), np.float32))
  stats, running = variables["batch_stats"], {"mean": 0.0, "var": 1.0}
  for step in range(4):
    x = _random(4, 5, 5, 3, seed=step) * (1 + step) + 0.5 * step
    y, updated = layer.apply(
      {"params": params, "batch_stats": stats}, np.float32(x), train=True, mutable=["batch_stats"]
    )
    stats = updated["batch_stats"]
    expected, running = _torch_batch_norm(
      x, running, centered=centered, joint=joint, momentum=momentum, count=step + 1
    )
    assert rel(y, expected) <= 1e-5
    assert rel(stats["var"], np.reshape(running["var"], -1)) <= 1e-5
    if centered:
      # Measured in standard deviations: the mean itself may be arbitrarily near to zero.
      assert np.all(np.abs(stats["mean"] - running["mean"]) <= 1e-5 * np.sqrt(running["var"]))
    else:
      assert "mean" not in stats


@pytest.mark.parametrize(
  ("offset", "known"), [(0.0, 0.0), (1.0, 0.0), (10.0, 0.0), (100.0, 95.0), (1000.0, 990.0)]
)
def test_batch_statistics_survive_a_large_mean(offset, known):
  """PyTorch's variance is accurate there; E[x^2] - E[x]^2 in float32 would lose digits.

  Moments are taken around the running mean, `known`: where that is far off, as in the first steps
  from random weights, digits are lost as in Flax's own layer.
  """
  x = _random(8, 6, 6, 4) + offset
  layer = layers.BatchNorm(use_scale=False, use_bias=False)
  mean = np.full(4, known, np.float32)
  variables = {"batch_stats": {"mean": mean, "var": np.ones(4, np.float32)}}
  y, updated = layer.apply(variables, np.float32(x), train=True, mutable=["batch_stats"])
  wide = np.float32(x).astype(np.float64)
  expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
  assert rel(y, expected) <= 1e-4
  size = 8 * 6 * 6
  assert (
    rel(updated["batch_stats"]["var"], 0.9 + 0.1 * wide.var((0, 1, 2)) * size / (size - 1)) <= 1e-4
  )


def test_initialisation_does_not_count_as_a_step():
  for layer in (layers.BatchNorm(), layers.BatchNorm(momentum=None)):
    stats = layer.init(jax.random.key(0), np.float32(_random(4, 3)), train=True)["batch_stats"]
    assert np.all(stats["mean"] == 0) and np.all(stats["var"] == 1)
    assert stats.get("count", 0) == 0


def test_centered_norms_equal_their_definition():
  x = _random(2, 5, 5, 8) + 3
  over = {"layer": (-1,), "instance": (1, 2)}
  for kind, layer in {
    "layer": layers.LayerNorm(eps=1e-6),
    "instance": layers.GroupNorm(num_groups=None, eps=1e-6),
  }.items():
    params = {"scale": np.float32(_random(8)), "bias": np.float32(_random(8, seed=1))}
    mean, var = x.mean(over[kind], keepdims=True), x.var(over[kind], keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-6) * params["scale"] + params["bias"]
    assert rel(layer.apply({"params": params}, np.float32(x)), expected) <= 1e-6
    uncentered = layer.clone(centered=False).apply({"params": params}, np.float32(x))
    assert rel(uncentered, x / np.sqrt(var + 1e-6) * params["scale"] + params["bias"]) <= 1e-6


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("kind", ["batch", "all", "group", "instance", "layer", "position"])
def test_training_gradient_of_norms(kind, centered):
  """Against central differences: through the mean and through the variance."""
  layer = {
    "batch": layers.BatchNorm(),
    "all": layers.BatchNorm(joint=True),
    "group": layers.GroupNorm(num_groups=2),
    "instance": layers.GroupNorm(num_groups=None),
    "layer": layers.GroupNorm(),
    "position": layers.LayerNorm(),
  }[kind]
  layer = layer.clone(centered=centered)
  axes = {
    "batch": (0, 1, 2),
    "all": (0, 1, 2, 3, 4),
    "group": (1, 2, 4),
    "instance": (1, 2),
    "layer": (1, 2, 3, 4),
    "position": (3, 4),
  }[kind]
  x, weight = _random(2, 2, 3, 4) + 0.7, _random(2, 2, 3, 4, seed=1)
  features = 1 if kind == "all" else 4
  params = {"scale": _random(features, seed=2), "bias": _random(features, seed=3)}

  def twin(x, scale, bias):
    grouped = x.reshape(2, 2, 3, 2, 2) if kind == "group" else x.reshape(2, 2, 3, 1, 4)
    y = twins.norm(grouped, axes, centered).reshape(x.shape)
    return float((weight * (y * scale + bias)).sum())

  def ours(x, scale, bias):
    y, _ = layer.apply(
      {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": jnp.zeros(features), "var": jnp.ones(features)},
      },
      x,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.sum(weight * y)

  args = [x, params["scale"], params["bias"]]
  gradients = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(*map(np.float32, args))
  for k, gradient in enumerate(gradients):
    expected = twins.numeric_gradient(
      lambda a, k=k: twin(*(a if i == k else arg for i, arg in enumerate(args))), args[k]
    )
    assert rel(gradient, expected) <= 1e-5


@pytest.mark.parametrize(
  "layer",
  [
    layers.GroupNorm(num_groups=2, detach=True, use_bias=False),
    layers.LayerNorm(detach=True, use_bias=False),
    layers.LayerNorm(centered=False, detach=True, use_bias=False),
  ],
  ids=lambda layer: type(layer).__name__,
)
def test_explanation_of_norms_in_closed_form(layer):
  """The divisor is a constant, the mean (linear in the input) is not."""
  x = _random(1, 2, 2, 4) + 1
  params = {"params": {"scale": np.float32(_random(4, seed=1))}}
  jacobian = jax.jit(jax.jacrev(lambda x: layer.apply(params, x)))(np.float32(x))
  jacobian = np.asarray(jacobian).reshape(16, 16)
  y = np.asarray(layer.apply(params, np.float32(x))).reshape(-1)
  assert rel(jacobian @ x.reshape(-1), y) <= 1e-5
  groups = 2 if isinstance(layer, layers.GroupNorm) else 1
  over = (1, 2, 4) if groups == 2 else (4,)
  split = x.reshape(1, 2, 2, groups, -1)
  inverse = 1 / np.sqrt(split.var(over, keepdims=True) + 1e-5)
  inverse = np.broadcast_to(inverse, split.shape).reshape(16)
  scale = np.tile(params["params"]["scale"], 4)
  labels = np.arange(16).reshape(1, 2, 2, groups, -1)
  members = np.zeros_like(labels)  # positions that share a mean have one label
  for label, index in enumerate(
    np.ndindex(*[1 if a in over else n for a, n in enumerate(split.shape)])
  ):
    where = tuple(slice(None) if a in over else i for a, i in enumerate(index))
    members[where] = label
  members = members.reshape(16)
  same = members[:, None] == members[None]
  expected = np.eye(16) - (same / same.sum(1, keepdims=True) if layer.centered else 0)
  assert rel(jacobian, expected * (inverse * scale)[:, None]) <= 1e-5


def test_group_norm_refuses_groups_that_do_not_divide():
  with pytest.raises(InputError, match=r"6 channels.*4 groups"):
    layers.GroupNorm(num_groups=4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))


# Pooling, logits, attention.


@pytest.mark.parametrize("side", [4, 5, 8])
def test_pools_are_their_twins(side):
  x = _random(2, side, side + 1, 3)
  average = twins.pool(x, 3, 2, 1, np.mean, 0.0)
  largest = twins.pool(x, 3, 2, 1, np.max, -np.inf)
  assert rel(layers.avg_pool(np.float32(x)), average) <= 1e-6
  assert rel(layers.max_pool(np.float32(x)), largest) <= 1e-6
  assert rel(layers.global_avg_pool(np.float32(x)), x.mean((1, 2))) <= 1e-6
  binomial = np.outer([1, 2, 1], [1, 2, 1]) / 16
  reflected = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
  blurred = twins.pool(reflected, 3, 2, 0, lambda patch: float((binomial * patch).sum()), 0.0)
  assert rel(layers.blur_pool(np.float32(x)), blurred) <= 1e-6
  assert average.shape == largest.shape == blurred.shape


def test_max_pool_of_negative_values_does_not_see_its_padding():
  x = np.full((1, 4, 4, 1), -5.0, np.float32)
  assert np.all(layers.max_pool(x) == -5)


def test_blur_pool_removes_a_checkerboard():
  board = np.indices((8, 8)).sum(0) % 2
  assert np.allclose(layers.blur_pool(np.float32(board)[None, ..., None]), 0.5)


def test_logit_layer():
  x = jnp.array([[1.0, -2.0]])
  layer = layers.LogitLayer(bias=-3.0, temperature=0.5)
  assert layer.apply({}, x).tolist() == [[-1.0, -7.0]]
  assert layers.LogitLayer().apply({}, x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_attention_layer_parameters_and_heads():
  layer = blocks.Attention(BcosOps(), num_heads=3, fused=True)
  params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 5, 12)))["params"]
  assert {k: v["kernel"].shape for k, v in params.items()} == {"qkv": (12, 36), "out": (12, 12)}
  with pytest.raises(InputError, match="Width 12 is not divisible by 5 heads"):
    blocks.Attention(BcosOps(), num_heads=5).init(jax.random.key(0), jnp.zeros((1, 5, 12)))
  with pytest.raises(InputError, match="num_heads is 0"):
    blocks.Attention(BcosOps(), num_heads=0).init(jax.random.key(0), jnp.zeros((1, 5, 12)))


# Compute dtype.


@pytest.mark.parametrize("fields", [{}, {"weights": "unit"}, {"b": 2.5}, {"b": 1}])
def test_bfloat16_stays_close_and_parameters_stay_float32(fields):
  x, kernel = np.float32(_random(2, 6, 6, 16)), np.float32(_random(3, 3, 16, 8, seed=1))
  layer = layers.BcosConv(8, (3, 3), padding=1, **fields)
  low = layer.clone(dtype="bfloat16")
  ones = np.ones((2, 6, 6, 8), np.float32)

  def run(layer, dtype):
    return pulled_back(
      lambda x: layer.apply({"params": {"kernel": kernel}}, x), x, ones.astype(dtype)
    )

  (exact, gradient), (half, low_gradient) = run(layer, np.float32), run(low, jnp.bfloat16)
  assert half.dtype == jnp.bfloat16
  assert rel(np.float32(half), exact) <= 1e-2
  assert rel(low_gradient, gradient) <= 2e-2
  params = jax.eval_shape(low.init, jax.random.key(0), x)["params"]
  assert params["kernel"].dtype == jnp.float32


# Bad input.


@pytest.mark.parametrize("b", [0.99, 0, -1, float("nan"), float("inf"), "2", None])
def test_b_below_one_is_refused(b):
  for make in (
    lambda: layers.BcosDense(3, b=b).init(jax.random.key(0), jnp.ones((1, 2))),
    lambda: layers.BcosConv(3, (1,), b=b).init(jax.random.key(0), jnp.ones((1, 4, 2))),
    lambda: BcosOps(b=b),
    lambda: F.bcos_scale(jnp.ones((1, 3)), jnp.ones((1, 1)), b=b),
  ):
    with pytest.raises(InputError, match="at least 1") as caught:
      make()
    assert repr(b) in str(caught.value) and caught.value.fix


@pytest.mark.parametrize(
  "fields, shape, message",
  [
    ({}, (2, 8, 3), r"shape \(2, 8, 3\)"),
    ({"kernel_size": (3,)}, (2, 8, 8, 3), r"shape \(2, 8, 8, 3\)"),
    ({"kernel_size": (3,) * 4}, (1, 4, 4, 4, 4, 3), "kernel_size"),
    ({"feature_group_count": 2}, (1, 4, 4, 3), "3 inputs.*2"),
    ({"feature_group_count": 3}, (1, 4, 4, 3), "4 features.*3"),
    ({"strides": (1, 2, 3)}, (1, 4, 4, 3), r"\(1, 2, 3\)"),
    ({"kernel_dilation": (1,)}, (1, 4, 4, 3), r"\(1,\)"),
    ({"padding": (1, 1, 1)}, (1, 4, 4, 3), r"\(1, 1, 1\)"),
    ({"padding": "SAEM"}, (1, 4, 4, 3), suggestion("SAME")),
    ({"padding_mode": "reflct"}, (1, 4, 4, 3), suggestion("reflect")),
    ({"kernel_size": 3}, (1, 4, 4, 3), r"kernel_size is 3.*Give kernel_size=\(3, 3\)"),
    ({"kernel_size": (3, 0)}, (1, 4, 4, 3), r"kernel_size is \(3, 0\)"),
    ({"features": 0}, (1, 4, 4, 3), "features is 0"),
    ({"features": 2.5}, (1, 4, 4, 3), "features is 2.5"),
    ({"max_out": 0}, (1, 4, 4, 3), "max_out is 0"),
    ({"feature_group_count": 0}, (1, 4, 4, 3), "feature_group_count is 0"),
  ],
)
def test_conv_refuses(fields, shape, message):
  layer = layers.BcosConv(**{"features": 4, "kernel_size": (3, 3), **fields})
  with pytest.raises(InputError, match=message):
    layer.init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"features": 0}, "features is 0"),
    ({"max_out": -1}, "max_out is -1"),
    ({"gate": "rleu"}, suggestion("relu")),
    ({"gate": "rleu", "b": 1.5}, suggestion("relu")),
  ],
)
def test_dense_refuses(fields, message):
  layer = layers.BcosDense(**{"features": 4, **fields})
  with pytest.raises(InputError, match=message):
    layer.init(jax.random.key(0), jnp.zeros((2, 3)))


@pytest.mark.parametrize(
  "layer",
  [
    layers.BcosDense(3),
    layers.BcosDense(3, b=1.5, detach=True),
    layers.BcosConv(3, (2, 1)),
    layers.LayerNorm(),
    layers.GroupNorm(1),
  ],
  ids=lambda layer: type(layer).__name__,
)
def test_derivatives_are_reverse_mode_only(layer):
  """What the README says: no jvp, yet second derivatives either way."""
  x = np.float32(_random(1, 2, 1, 5))
  variables = layer.init(jax.random.key(0), x)

  def value(x):
    return (layer.apply(variables, x) ** 3).sum()

  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(value, (x,), (x,))
  twice = jax.jit(jax.jacrev(jax.jacrev(value)))(x)
  assert np.abs(twice).max() > 0
  assert rel(jax.jit(jax.hessian(value))(x), twice) <= 1e-5


def test_numbers_of_numpy_are_numbers():
  x, params = _random(2, 3), {"params": {"kernel": _random(3, 4)}}
  plain, other = (
    layers.BcosDense(features, b=b).apply(params, x)
    for features, b in ((4, 2), (np.int64(4), np.float32(2)))
  )
  assert np.array_equal(plain, other)


def test_unknown_weights_name_the_nearest():
  for layer in (layers.BcosDense(3, weights="units"), layers.BcosConv(3, (1, 1), weights="units")):
    with pytest.raises(InputError, match=r"Unknown weights 'units'\. " + suggestion("unit")):
      layer.init(jax.random.key(0), jnp.ones((4, 5, 5, 5)))


def test_cosine_of_weights_with_max_out_is_refused():
  """No published variant has both, and the length of which unit should count is open."""
  layer = layers.BcosDense(3, weights="cosine", max_out=2)
  with pytest.raises(InputError, match="max_out"):
    layer.init(jax.random.key(0), jnp.ones((4, 5)))


def test_v1_head_has_the_fan_in_gain_and_the_published_logit_bias():
  x = jax.random.normal(jax.random.key(0), (2, 3, 3, 16))
  ops = BcosOps.v1(logit_temperature=50.0)
  head, plain = (o.classifier(4, name="fc") for o in (ops, BcosOps.v2(max_out=2)))
  variables = head.init(jax.random.key(1), x)
  np.testing.assert_allclose(
    head.apply(variables, x), plain.apply(variables, x) * 25.0, rtol=1e-5, atol=1e-6
  )
  assert ops.logit_bias == pytest.approx(math.log(0.01 / 0.99))
  assert ops.logit_temperature == 50.0
