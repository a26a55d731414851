"""The B-cos equations on arrays, against the papers' formulas in NumPy and float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax import functional as F
from bcos_jax.functional import attention

from .. import twins
from ..common import pulled_back, rel


def _random(*shape, seed=0):
  return np.random.RandomState(seed).standard_normal(shape)


@pytest.mark.parametrize("b", [1, 1.5, 2, 2.0, 2.5, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_scale_is_the_published_formula(b, groups):
  y, sq_norm = _random(4, 5, 6), np.abs(_random(4, 5, groups, seed=1)) + 0.1
  norm = np.repeat(np.sqrt(sq_norm + twins.CONV_EPS), 6 // groups, axis=-1)
  expected = twins.scaled(y, norm, b)
  for detach in (False, True):
    out = F.bcos_scale(jnp.float32(y), jnp.float32(sq_norm), b=b, detach=detach)
    assert rel(out, expected) <= 1e-6


def test_exponent_as_array_is_the_general_formula():
  """Learned exponents keep the epsilon under the power at B=2 and B=1 too (B-cosification)."""
  y, sq_norm = _random(3, 4), np.abs(_random(3, 1, seed=1)) * 1e-3
  norm = np.sqrt(sq_norm + twins.CONV_EPS)
  for b in (1.0, 1.7, 2.0):
    out = F.bcos_scale(jnp.float32(y), jnp.float32(sq_norm), b=jnp.float32(b))
    assert rel(out, twins.scaled(y, norm, b, general=True)) <= 2e-6


@pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
def test_detached_scale_is_linear_in_the_response(b):
  """d out / d y is the scale itself, and nothing flows through the norm."""
  y, sq_norm = jnp.float32(_random(4, 6)), jnp.float32(np.abs(_random(4, 1, seed=1)) + 0.1)
  out, scale = pulled_back(
    lambda y: F.bcos_scale(y, sq_norm, b=b, detach=True), y, jnp.ones_like(y)
  )
  assert rel(y * scale, out) <= 1e-6
  through_norm = jax.grad(lambda s: F.bcos_scale(y, s, b=b, detach=True).sum())(sq_norm)
  assert not np.any(through_norm)


@pytest.mark.parametrize("b", [1.5, 2, 2.5, "learned"])
@pytest.mark.parametrize("guard, eps_inside", [(F.CONV_GUARD, True), (F.DENSE_GUARD, False)])
def test_training_gradient_is_the_derivative(b, guard, eps_inside):
  """Against central differences in float64: also what a hand-written backward pass returns."""
  y, sq_norm, weight = _random(3, 4), np.abs(_random(3, 2, seed=1)) + 0.2, _random(3, 4, seed=2)

  def twin(y, sq_norm, b):
    norm = np.sqrt(sq_norm + twins.CONV_EPS) if eps_inside else np.sqrt(sq_norm) + twins.DENSE_EPS
    return float((weight * twins.scaled(y, np.repeat(norm, 2, axis=-1), float(b), learned)).sum())

  learned = b == "learned"
  value = 1.8 if learned else b

  def ours(y, sq_norm, b):
    return jnp.sum(weight * F.bcos_scale(y, sq_norm, b=b if learned else value, guard=guard))

  args = jnp.float32(y), jnp.float32(sq_norm), jnp.float32(value)
  d_y, d_sq, d_b = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(*args)
  assert rel(d_y, twins.numeric_gradient(lambda a: twin(a, sq_norm, value), y)) <= 1e-5
  assert rel(d_sq, twins.numeric_gradient(lambda a: twin(y, a, value), sq_norm)) <= 1e-5
  if learned:
    expected = twins.numeric_gradient(lambda a: twin(y, sq_norm, a), np.array(value))
    assert rel(d_b, expected) <= 1e-5


@pytest.mark.parametrize("b", [1, 1.2, 2, 2.5, "learned"])
@pytest.mark.parametrize("guard", [F.CONV_GUARD, F.DENSE_GUARD])
def test_zero_input_is_finite(b, guard):
  """A zero patch has response 0 and norm 0; tiny ones lie where squares underflow."""
  exponent = jnp.float32(1.5) if b == "learned" else b

  def scale(x, detach):
    return F.bcos_scale(x, F.sq_norm(x), b=exponent, guard=guard, detach=detach)

  def both(x):
    pairs = []
    for detach in (False, True):
      y, pullback = jax.vjp(lambda x, detach=detach: scale(x, detach), x)
      pairs.append((y, pullback(jnp.ones_like(y))[0]))
    return pairs

  x = np.array([0, 1e-38, 1e-25, 1e-19, 1e-15, 1e-8, 1e18])[:, None] * np.ones(3)
  compiled = jax.jit(both)
  for dtype in (jnp.float32, jnp.bfloat16):
    for y, gradient in compiled(x.astype(dtype)):
      assert np.isfinite(np.float32(y)).all() and np.isfinite(np.float32(gradient)).all()
      assert not np.any(np.float32(y)[0])


def test_scale_of_bfloat16_is_computed_in_float32():
  y = jnp.bfloat16(_random(4, 8))
  sq_norm = F.sq_norm(y)
  assert sq_norm.dtype == jnp.float32
  for b, detach in itertools.product((1.5, 2, 2.5), (False, True)):
    out = F.bcos_scale(y, sq_norm, b=b, detach=detach)
    exact = twins.scaled(
      np.asarray(y, np.float64), np.sqrt(np.asarray(sq_norm, np.float64) + twins.CONV_EPS), b
    )
    assert out.dtype == jnp.bfloat16
    # One rounding to 8 bits at the end, none before.
    assert np.max(np.abs(np.asarray(out, np.float64) / exact - 1)) <= 2**-8


def test_squares_are_summed_in_float32():
  """In bfloat16, a sum of ones would stop at 256."""
  assert float(F.sq_norm(jnp.ones((1, 4096), jnp.bfloat16))[0, 0]) == 4096
  sums = F.patch_sq_norm(
    jnp.ones((1, 5, 5, 1024), jnp.bfloat16), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)
  )
  assert sums.dtype == jnp.float32
  assert float(sums[0, 2, 2, 0]) == 9 * 1024 and float(sums[0, 0, 0, 0]) == 4 * 1024


@pytest.mark.parametrize(
  "window, strides, padding, dilation, groups",
  [
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((3, 2), (2, 1), ((0, 1), (2, 0)), (1, 2), 2),
    ((1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 3),
    ((1, 1), (2, 1), ((1, 0), (0, 1)), (1, 1), 1),
    ((7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 6),
  ],
)
def test_patch_norm_is_a_sum_over_each_patch(window, strides, padding, dilation, groups):
  x = _random(2, 9, 8, 6)
  # With B=1, a kernel of ones over the squares is the same sum.
  ones = np.ones((*window, 6 // groups, groups))
  expected = twins.conv(
    x**2, ones, strides=strides, pads=padding, dilation=dilation, groups=groups, b=1
  )
  ours = F.patch_sq_norm(jnp.float32(x), window, strides, padding, dilation, groups)
  assert rel(ours, expected) <= 1e-6


def test_patch_norm_has_a_gradient():
  x = _random(1, 5, 5, 2)
  weight = _random(1, 3, 3, 1, seed=1)
  ours = jax.grad(
    lambda x: jnp.sum(weight * F.patch_sq_norm(x, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)))
  )(jnp.float32(x))
  ones = np.ones((3, 3, 2, 1))

  def twin(x):
    return float(
      (
        weight * twins.conv(x**2, ones, strides=(2, 2), pads=((1, 1), (1, 1)), dilation=(1, 1), b=1)
      ).sum()
    )

  assert rel(ours, twins.numeric_gradient(twin, x)) <= 1e-6


def test_unit_kernel():
  kernel = _random(3, 3, 4, 5)
  kernel[..., 2] = 0
  unit, norm = jax.jit(F.unit_kernel)(jnp.float32(kernel))
  expected = np.sqrt((kernel.reshape(-1, 5) ** 2).sum(axis=0))
  assert rel(norm, expected) <= 1e-6
  assert rel(jnp.sum(unit**2, axis=(0, 1, 2)), [1, 1, 0, 1, 1]) <= 1e-6
  gradient = jax.jit(
    jax.grad(lambda k: jnp.sum(jnp.sin(F.unit_kernel(k)[0]) + F.unit_kernel(k)[1]))
  )(jnp.float32(kernel))
  assert np.isfinite(gradient).all()


def test_max_out_takes_neighbours():
  y = jnp.array([[1.0, 5.0, -3.0, -2.0, 0.0, -1.0]])
  assert F.max_out(y, 1) is y
  assert F.max_out(y, 2).tolist() == [[5, -2, 0]]
  assert F.max_out(y, 3).tolist() == [[5, 0]]


GATED = {
  "relu": lambda x: max(x, 0.0),
  "relu6": lambda x: min(max(x, 0.0), 6.0),
  "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
  "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
  "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
  "silu": lambda x: x / (1 + math.exp(-x)),
  "hard_swish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
  "tanh": math.tanh,
  "identity": lambda x: x,
}


@pytest.mark.parametrize("kind", GATED)
def test_gated_activations(kind):
  assert GATED.keys() == F.GATES.keys()
  x = np.linspace(-4, 4, 41)  # contains 0
  x = 2.03 * x if kind in ("relu6", "hard_swish") else x  # past their corners, and not on them
  expected = [GATED[kind](v) for v in x]
  ones = jnp.ones(len(x))
  out, gradient = pulled_back(lambda x: F.gated(x, kind), jnp.float32(x), ones)
  assert rel(out, expected) <= 1e-6
  away = np.abs(x) > 1e-3  # ReLU has no derivative at 0
  numeric = np.array([(GATED[kind](v + 1e-6) - GATED[kind](v - 1e-6)) / 2e-6 for v in x])
  assert rel(np.asarray(gradient)[away], numeric[away]) <= 1e-5
  detached, gate = pulled_back(lambda x: F.gated(x, kind, detach=True), jnp.float32(x), ones)
  assert rel(detached, expected) <= 1e-6
  # The gate is value / input, a constant of the explanation.
  assert rel(np.asarray(gate)[away], np.array(expected)[away] / x[away]) <= 1e-6
  assert np.isfinite(np.asarray(gate)).all() and np.isfinite(np.asarray(gradient)).all()


def test_relu_gradient_at_zero_is_pytorchs():
  """PyTorch takes 0 there, in both modes."""
  for detach in (False, True):
    assert jax.grad(lambda x, d=detach: F.gated(x, "relu", detach=d))(0.0) == 0


def _attention(q, k, v):
  out = np.zeros_like(v)
  for n, h in np.ndindex(q.shape[0], q.shape[2]):
    scores = np.exp(q[n, :, h] @ k[n, :, h].T / math.sqrt(q.shape[-1]))
    out[n, :, h] = scores / scores.sum(axis=1, keepdims=True) @ v[n, :, h]
  return out


def test_attention_and_its_explanation():
  q, k, v = (_random(2, 5, 3, 4, seed=s) for s in range(3))
  args = [jnp.float32(a) for a in (q, k, v)]

  def loss(q, k, v, detach):
    return jnp.sum(jnp.sin(F.attend(q, k, v, detach=detach)))

  plain, (d_q, d_k, d_v) = jax.jit(
    lambda *args: [
      jax.grad(lambda *a, d=detach: loss(*a, d), argnums=(0, 1, 2))(*args)
      for detach in (False, True)
    ]
  )(*args)
  for detach in (False, True):
    assert rel(F.attend(*args, detach=detach), _attention(q, k, v)) <= 1e-6
  assert not np.any(d_q) and not np.any(d_k)
  assert np.any(plain[0]) and np.any(plain[1])
  assert rel(d_v, plain[2]) <= 1e-6


@pytest.mark.parametrize("bias", [None, (3, 10, 7), (10, 7), (2, 1, 1, 7), (7,)])
@pytest.mark.parametrize("most", [2**22, 21])
def test_attention_gradients_whole_and_in_parts(monkeypatch, bias, most):
  """Of every operand, and of gradients, as automatic differentiation finds them."""
  monkeypatch.setattr(attention, "MOST_WEIGHTS", most)
  q, k, v = (jnp.float32(_random(2, n, 3, 4, seed=n + i)) for i, n in enumerate((10, 7, 7)))
  operands = (q, k, v) if bias is None else (q, k, v, jnp.float32(_random(*bias, seed=9)))

  def ours(q, k, v, bias=None):
    return F.attend(q, k, v, bias=bias)

  def plain(q, k, v, bias=None):
    return F.mix(F.attention_weights(q, k, bias=bias), v)

  def derivatives(function):
    def loss(*operands):
      return jnp.sum(jnp.sin(function(*operands)))

    def outer(*operands):
      return jnp.sum(jax.grad(loss, 2)(*operands) ** 2)

    places = tuple(range(len(operands)))
    return function(*operands), jax.grad(loss, places)(*operands), jax.grad(outer)(*operands)

  got, expected = jax.jit(lambda: (derivatives(ours), derivatives(plain)))()
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert rel(a, b) <= 2e-6


@pytest.mark.parametrize("detach", [False, True])
def test_memory_of_attention_grows_no_faster_than_the_tokens(detach):
  def temporaries(tokens):
    shape = jax.ShapeDtypeStruct((1, tokens, 2, 16), jnp.float32)
    loss = jax.grad(lambda q, k, v: jnp.sum(jnp.sin(F.attend(q, k, v, detach=detach))), (0, 1, 2))
    return jax.jit(loss).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes

  assert temporaries(16_384) <= 4 * temporaries(4_096) < 4 * 4_096**2 * 4 * 2


def test_attention_of_bfloat16_keeps_its_softmax_in_float32():
  """Large logits that differ by less than bfloat16 resolves must still be told apart."""
  q = jnp.full((1, 1, 1, 4), 16.0, jnp.bfloat16)
  k = jnp.stack([jnp.full(4, 16.0), jnp.array([16.0, 16.0, 16.0, 15.9375])])[None, :, None]
  v = jnp.array([1.0, 0.0], jnp.bfloat16).reshape(1, 2, 1, 1) * jnp.ones((1, 1, 1, 4), jnp.bfloat16)
  out = F.attend(q, jnp.bfloat16(k), v)
  assert out.dtype == jnp.bfloat16
  assert rel(np.float32(out), np.full((1, 1, 1, 4), 1 / (1 + math.exp(-0.5)))) <= 4e-3
