"""Every rule of the ONNX writer against onnxruntime, on random numbers."""

import jax
from jax import export as jax_export
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax.errors import InputError
from bcos_jax.export import onnx

A, B = (2, 3, 4), (2, 1, 4)
UNARY = {
  name: getattr(lax, name)
  for name in (
    *("abs", "ceil", "cos", "erf", "erfc", "exp", "exp2", "expm1", "floor", "is_finite"),
    *("logistic", "neg", "sign", "sin", "square", "tan", "tanh"),
  )
}
BINARY = {
  name: getattr(lax, name)
  for name in ("add", "sub", "mul", "div", "max", "min", "eq", "ne", "ge", "gt", "le", "lt", "rem")
}
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(strides, pads, *, spread=1, dilation=1, groups=1, rank=2):
  """Returns a convolution [N, ..., 4] -> [N, ..., 6], and its kernel."""
  kernel = np.random.default_rng(1).standard_normal((*(3,) * rank, 4 // groups, 6), np.float32)
  letters = "DHW"[-rank:]

  def function(x):
    return lax.conv_general_dilated(
      x,
      kernel,
      (strides,) * rank,
      (pads,) * rank,
      (spread,) * rank,
      (dilation,) * rank,
      (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
      groups,
    )

  return function


def gradient(function):
  """Returns x -> the gradient of half the squares of a function."""
  return lambda x: jax.vjp(function, x)[1](function(x))[0]


def window(kind, dims, strides, pads, **more):
  initial = 0.0 if kind is lax.add else -jnp.inf if kind is lax.max else jnp.inf
  return lambda x: lax.reduce_window(x, initial, kind, dims, strides, pads, **more)


IMAGE = (2, 7, 6, 4)
PADS = ((0, 0), (1, 1), (1, 1), (0, 0))
CASES = {
  **{name: (function, A) for name, function in UNARY.items()},
  **{name: (function, A, A) for name, function in BINARY.items()},
  "log": (lambda x: jnp.log(jnp.abs(x)), A),
  "log1p": (lambda x: lax.log1p(jnp.abs(x)), A),
  "sqrt, rsqrt": (lambda x: lax.sqrt(jnp.abs(x)) + lax.rsqrt(jnp.abs(x)), A),
  "pow": (lambda x: jnp.abs(x) ** 1.7, A),
  **{f"power {p}": (lambda x, p=p: lax.integer_pow(x, p), A) for p in (-2, -1, 1, 3)},
  "round": (lambda x: lax.round(4 * x, lax.RoundingMethod.TO_NEAREST_EVEN), A),
  "clamp": (lambda x: lax.clamp(-0.5, x, 0.5), A),
  "select": (lambda x, y: jnp.where(x > y, x, y * 2), A, A),
  "logic": (lambda x: ((x > 0) & ~(x > 1)) | (x < -1), A),
  "xor": (lambda x: (x > 0) ^ (x > 1), A),
  "casts": (lambda x: (4 * x).astype(jnp.int32).astype(jnp.float32), A),
  "a broadcast that stays open": (lambda x, y: x + y * 2, A, B),
  "a broadcast of another rank": (lambda x, y: x * y, A, (4,)),
  "a result that is a broadcast": (lambda x: jnp.broadcast_to(x[:, None], (2, 5, 3)), (2, 3)),
  "zeros": (lambda x: x + jnp.zeros_like(x) * jnp.exp(x), A),
  "iota": (lambda x: x * jnp.arange(4, dtype=jnp.float32), A),
  "transpose": (lambda x: jnp.transpose(x, (2, 0, 1)) + jnp.ones((4, 2, 1)), A),
  "transposes of transposes": (lambda x: jnp.exp(x.swapaxes(0, 2)).swapaxes(0, 2), A),
  "reshape": (lambda x: x.reshape(6, 4), A),
  "reshape, turned before": (lambda x: x.swapaxes(0, 1).reshape(3, 8), A),
  "reshape of ones": (lambda x: x.reshape(2, 1, 3, 1, 4), A),
  "reshape of dimensions": (lambda x: lax.reshape(x, (8, 3), dimensions=(2, 0, 1)), A),
  "squeeze": (lambda x: lax.squeeze(x, (1,)), B),
  "slices": (lambda x: x[:, 1:, ::2] + x[:, :2, 1::2], A),
  "rev": (lambda x: lax.rev(x, (0, 2)), A),
  "concatenate": (lambda x, y: jnp.concatenate([x.swapaxes(0, 1), y.swapaxes(0, 1)]), A, B),
  "stack": (lambda x, y: jnp.stack([x.swapaxes(0, 1), y.swapaxes(0, 1)], axis=1), A, A),
  "gradient of a stack": (gradient(lambda x: jnp.stack([x, x[::-1]], axis=-1)), A),
  "tile": (lambda x: jnp.tile(x.swapaxes(0, 2), (1, 2, 3)), A),
  "repeat": (lambda x: jnp.repeat(x, 3, axis=-1), A),
  "split": (lambda x: jnp.concatenate(jnp.split(x, [1, 2], axis=1)[::-1], axis=1), A),
  "pad": (lambda x: lax.pad(x, 0.5, ((1, 2, 0), (0, -1, 0), (-1, 1, 2))), A),
  "reduce": (lambda x: x.sum(1) + x.max((0, 1)) - x.min(0)[:2] + x.prod(1), A),
  "reduce what is broadcast": (lambda x: jnp.broadcast_to(x, (5, 4)).sum(0), (1, 4)),
  "reduce logic": (lambda x: (x > 0).any(1) & ~(x > 0).all(1), A),
  "arg": (lambda x: jnp.argmax(x, 1) + jnp.argmin(x, 1), A),
  "cumsum": (lambda x: lax.cumsum(x, 1) + lax.cumsum(x, 1, reverse=True), A),
  "sort": (lambda x: jnp.sort(x, axis=1), A),
  "top_k": (lambda x: lax.top_k(x, 2)[0] * lax.top_k(x, 2)[1], A),
  "percentile": (lambda x: jnp.percentile(x, 70.0, axis=(1, 2)), A),
  "dot": (lambda x, y: x @ y, (3, 4), (4, 5)),
  "dot of vectors": (lambda x, y: x @ y, (4,), (4,)),
  "dot of many axes": (lambda x, y: jnp.einsum("nij,jkl->nikl", x, y), A, (4, 5, 3)),
  "dot over two axes": (lambda x, y: jnp.einsum("nij,ijl->nl", x, y), A, (3, 4, 5)),
  "dot of batches": (lambda x, y: jnp.einsum("nqhd,nkhd->nhqk", x, y), IMAGE, IMAGE),
  "dot of rows of batches": (lambda x, y: jnp.einsum("nabc,nc->nab", x, y), IMAGE, (2, 4)),
  "conv": (conv(1, (1, 1)), IMAGE),
  "conv, strides": (conv(2, (1, 2)), IMAGE),
  "conv, dilation": (conv(1, (2, 2), dilation=2), IMAGE),
  "conv, groups": (conv(2, (1, 1), groups=2), IMAGE),
  "conv, spread": (conv(1, (3, 1), spread=3, groups=2), IMAGE),
  "conv, 1-D": (conv(2, (1, 1), rank=1), (2, 7, 4)),
  "conv, 3-D": (conv(2, (1, 1), rank=3), (2, 5, 6, 7, 4)),
  "conv of two signals": (
    lambda x, y: lax.conv_general_dilated(x, y, (1, 1), "SAME", dimension_numbers=NHWC),
    IMAGE,
    (3, 3, 4, 2),
  ),
  **{
    f"gradient of conv {each}": (gradient(conv(**each)), IMAGE)
    for each in (
      {"strides": 1, "pads": (1, 1)},
      {"strides": 1, "pads": (2, 0), "dilation": 2},
      {"strides": 2, "pads": (1, 1)},
      {"strides": 3, "pads": (0, 0)},
      {"strides": 2, "pads": (1, 1), "groups": 2},
      {"strides": 2, "pads": (-1, 2)},
    )
  },
  "window sums": (window(lax.add, (1, 3, 3, 1), (1, 2, 2, 1), PADS), IMAGE),
  "window sums, dilation": (
    window(lax.add, (1, 3, 2, 1), (1, 1, 1, 1), PADS, window_dilation=(1, 2, 1, 1)),
    IMAGE,
  ),
  "window sums of channels": (
    window(lax.add, (1, 1, 1, 3), (1,) * 4, ((0, 0),) * 3 + ((1, 1),)),
    IMAGE,
  ),
  "gradient of window sums": (
    gradient(window(lax.add, (1, 3, 3, 1), (1, 2, 2, 1), PADS)),
    IMAGE,
  ),
  "window maxima": (window(lax.max, (1, 3, 3, 1), (1, 2, 2, 1), PADS), IMAGE),
  "window minima": (window(lax.min, (1, 2, 2, 1), (1, 2, 2, 1), ((0, 0),) * 4), IMAGE),
  "gradient of window maxima": (
    gradient(window(lax.max, (1, 3, 3, 1), (1, 2, 2, 1), PADS)),
    IMAGE,
  ),
  "gather a slice": (lambda x: x[:, 1] + lax.dynamic_slice_in_dim(x, 0, 1, 1)[:, 0], A),
  "gather rows": (lambda x: x[:, jnp.argmax(x.max(0)[:, :2], axis=0)], A),
  "gather rows, some beyond": (
    lambda x: (
      jnp.arange(6.0)
      .reshape(3, 2)
      .at[(2 * x).astype(jnp.int32).swapaxes(0, 2)]
      .get(mode="fill", fill_value=7.0)
    ),
    A,
  ),
  "gradient of what is constant": (lambda x: x + jax.grad(lambda y: y[1, :2].sum())(x * 0), A),
  "gather one each": (
    lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=1, keepdims=True), axis=1),
    A,
  ),
  "gradient of one each": (
    gradient(lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None, :1], axis=1)[:, 0]),
    A,
  ),
  "gradient of a slice": (gradient(lambda x: x[:, 1] * x[:, 2]), A),
  "calls": (lambda x: jax.checkpoint(jax.nn.relu)(x) + jax.nn.silu(x), A),
}


def written(function, shapes, free=False):
  """Returns (what the graph computes, what the function computes) on random numbers."""
  rng = np.random.default_rng(0)
  arrays = {f"x{i}": rng.standard_normal(s, np.float32) for i, s in enumerate(shapes)}
  first = jax_export.symbolic_shape("n")[0] if free else None
  specs = {
    name: jax.ShapeDtypeStruct((first or x.shape[0], *x.shape[1:]), x.dtype)
    for name, x in arrays.items()
  }
  with jax.default_matmul_precision("highest"):
    closed = jax.jit(function).trace(*specs.values()).jaxpr
    expected = np.asarray(function(*arrays.values()))
  graph, results = onnx.graph_of(closed, specs, ["result"])
  inputs = [
    onnx.Tensor(tuple(spec.shape), np.dtype(spec.dtype).name, name=name)
    for name, spec in specs.items()
  ]
  session = onnx.session(onnx.model_of(graph, inputs, results, {}))
  (result,) = session.run(["result"], arrays)
  return result, expected


def near(result, expected):
  """Sums round by their largest terms: what cancels is compared with these."""
  size = max(1.0, np.abs(expected).max())
  np.testing.assert_allclose(result, expected, rtol=2e-6, atol=2e-6 * size)


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_computes_what_jax_does(name):
  function, *shapes = CASES[name]
  result, expected = written(function, shapes)
  assert result.dtype == expected.dtype and result.shape == expected.shape
  near(result, expected)


def test_negative_padding_cuts_off():
  """XLA's CPU backend reads beyond the array there: compared with what is cut off beforehand."""
  x = np.random.default_rng(0).standard_normal(IMAGE, np.float32)
  (found,) = _session(conv(1, (-1, 1)), IMAGE).run(None, {"x": x})
  near(found, conv(1, (0, 1))(x[:, 1:, 1:]))


FREE = ("conv, strides", "dot of many axes", "dot of batches", "window sums", "pad", "percentile")


@pytest.mark.parametrize(
  "name", [*FREE, "gather a slice", "gather rows", "gradient of window maxima", "sort", "reshape"]
)
def test_the_batch_may_be_free(name):
  function, *shapes = CASES[name]
  if name == "reshape":
    function = lambda x: x.reshape(-1, 4) * 2  # noqa: E731
  if name == "dot of many axes":
    shapes, function = shapes[:1], lambda x: jnp.einsum("nij,jkl->nikl", x, jnp.ones((4, 5, 3)))
  if name == "pad":
    function = lambda x: lax.pad(x, 0.5, ((0, 0, 0), (0, -1, 0), (-1, 1, 2)))  # noqa: E731
  result, expected = written(function, shapes, free=True)
  near(result, expected)


def test_ids_beyond_a_table_are_not_a_number():
  table = np.arange(6, dtype=np.float32).reshape(3, 2)

  def rows(x):
    places = x.astype(jnp.int32)
    return jnp.asarray(table).at[places].get(mode="fill", fill_value=jnp.nan)

  session = _session(rows, (2,))
  (found,) = session.run(None, {"x": np.array([2, 3], np.float32)})
  np.testing.assert_array_equal(found, [[4, 5], [np.nan, np.nan]])


def _session(function, shape):
  spec = jax.ShapeDtypeStruct(shape, jnp.float32)
  graph, results = onnx.graph_of(jax.jit(function).trace(spec).jaxpr, {"x": spec}, ["y"])
  return onnx.session(onnx.model_of(graph, [onnx.Tensor(shape, "float32", name="x")], results, {}))


def test_kernels_of_backward_passes_are_stored_once():
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((3, 3, 16, 32), np.float32)

  def there(x):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)

  spec = jax.ShapeDtypeStruct((1, 8, 8, 16), jnp.float32)
  closed = jax.jit(lambda x: jax.vjp(there, x)[1](jnp.tanh(there(x)))[0]).trace(spec).jaxpr
  graph, results = onnx.graph_of(closed, {"x": spec}, ["y"])
  content = onnx.model_of(graph, [onnx.Tensor(spec.shape, "float32", name="x")], results, {})
  assert len(content) < 1.1 * kernel.nbytes


@pytest.mark.parametrize(
  ("function", "named"),
  [
    (lambda x: lax.fori_loop(0, 3, lambda _, y: y * 2, x), "scan|while"),
    (lambda x: lax.digamma(x), "digamma"),
    (lambda x: x.astype(jnp.bfloat16), "bfloat16"),
    (lambda x: lax.sort((x, x), num_keys=1)[0], "sorts 2 arrays"),
  ],
)
def test_what_has_no_form_is_named_with_its_place(function, named):
  with pytest.raises(InputError, match=named) as refused:
    _session(function, (2, 3))
  assert "test_rules.py" in str(refused.value) and "stablehlo" in refused.value.fix
