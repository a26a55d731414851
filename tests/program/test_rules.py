"""The rules: what is passed on, held or refused, and that values never change."""

import functools
import gc
import weakref

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax import InputError, program
from bcos_jax.program.rules import RULES

from ..common import rel

KEY = jax.random.key(0)
W = jax.random.normal(KEY, (6, 6)) / 2


def scanned(w, x):
  def step(carry, each):
    state, count = carry
    state = jnp.tanh(state @ w + each + w[0])
    return (state, count + 1), state * jax.nn.sigmoid(each)

  first = jnp.broadcast_to(w[:1], (len(x), 6))
  (last, _), every = jax.lax.scan(step, (first, 0), jnp.moveaxis(x, 1, 0))
  return last + every.sum(0)


def branched(w, x):
  y = (x @ w).sum(1)
  return jax.lax.cond(w[0, 0] > 0, lambda y: y @ w + w[1], lambda y: jnp.maximum(y, w[2]), y)


def attention(w, x):
  weights = jax.nn.softmax(jnp.einsum("nqd,nkd->nqk", x @ w, x @ w.T))
  return (weights @ (x @ w)).mean(1)


def linear_attention(w, x):
  q, k = (jax.nn.elu(x @ w) + 1 for _ in range(2))
  return jnp.einsum("nqd,ned->nqe", q, jnp.einsum("nkd,nke->ned", k, x @ w)).mean(1)


def cropped(w, x):
  padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)), constant_values=0.5)
  placed = jax.lax.dynamic_update_slice(padded, jnp.broadcast_to(w[0], (len(x), 1, 6)), (0, 2, 0))
  return jnp.concatenate([placed, jnp.broadcast_to(w[1], (len(x), 1, 6))], 1).sum(1) @ w


def state_space(w, x):
  step = jax.nn.softplus(x @ w)

  def joined(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]

  _, state = jax.lax.associative_scan(joined, (jnp.exp(-step), step * x), axis=1)
  return (state * jax.nn.silu(x @ w)).sum(1)


def experts(w, x):
  weights, chosen = jax.lax.top_k(jax.nn.softmax(x @ w), 2)
  gates = jax.nn.one_hot(chosen, 6) * weights[..., None]
  return jnp.einsum("ntke,nte->ne", gates, jnp.einsum("ntd,de->nte", x, w))


FUNCTIONS = {
  "relu": lambda w, x: jax.nn.relu(x @ w + w[0]).sum(1),
  "gelu": lambda w, x: (jax.nn.gelu(x @ w) @ w).sum(1),
  "gelu_tanh": lambda w, x: jax.nn.gelu(x @ w, approximate=True).sum(1),
  "silu": lambda w, x: jax.nn.silu(x @ w).sum(1),
  "softplus": lambda w, x: jax.nn.softplus(x @ w).sum(1),
  "mish": lambda w, x: jax.nn.mish(x @ w).sum(1),
  "elu": lambda w, x: jax.nn.elu(x @ w + w[0]).sum(1),
  "leaky_relu": lambda w, x: jax.nn.leaky_relu(x @ w).sum(1),
  "hard_swish": lambda w, x: jax.nn.hard_swish(3 * x @ w).sum(1),
  "squared_relu": lambda w, x: jnp.square(jax.nn.relu(x @ w)).sum(1),
  "power": lambda w, x: ((jnp.abs(x @ w) + 0.1) ** 1.5).sum(1),
  "swiglu": lambda w, x: (jax.nn.silu(x @ w) * (x @ w.T)).sum(1),
  "squeeze": lambda w, x: (x * jax.nn.hard_sigmoid(x.mean(1, keepdims=True) @ w)).sum(1),
  "layer_norm": lambda w, x: jax.nn.standardize(x @ w, axis=-1).sum(1) + w[0],
  "unit_length": lambda w, x: (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).sum(1) @ w,
  "attention": attention,
  "linear_attention": linear_attention,
  "largest": lambda w, x: jnp.max(x @ w, axis=1),
  "sorted": lambda w, x: jnp.sort(x @ w, axis=1)[:, 1],
  "best": lambda w, x: jax.lax.top_k(jnp.swapaxes(x @ w, 1, 2), 2)[0].sum(2),
  "clipped": lambda w, x: jnp.clip(x @ w, -0.5, w[0]).sum(1),
  "where": lambda w, x: jnp.where(x > 0, x @ w, w[0]).sum(1),
  "remat": lambda w, x: jax.checkpoint(lambda y: jax.nn.relu(y @ w + w[0]))(x).sum(1),
  "scan": scanned,
  "cond": branched,
  "fori": lambda w, x: jax.lax.fori_loop(0, 3, lambda _, y: jax.nn.relu(y @ w + w[0]), x).sum(1),
  "cropped": cropped,
  "vmapped": lambda w, x: jax.vmap(lambda y: jax.nn.relu(y @ w).sum(0))(x),
  "state_space": state_space,
  "experts": experts,
  "maxout": lambda w, x: jnp.maximum(x @ w, x @ w.T).sum(1),
  "spread": lambda w, x: jnp.var(x @ w, axis=1),
  "median": lambda w, x: jnp.median(x @ w, axis=1),
  "padded": lambda w, x: jnp.max(
    jnp.pad(x @ w, ((0, 0), (1, 1), (0, 0)), constant_values=-np.inf), 1
  ),
  "spectrum": lambda w, x: jax.nn.relu(jnp.abs(jnp.fft.rfft(x @ w, axis=1)).sum(1) + w[0]),
  "fft": lambda w, x: jnp.fft.rfft(x @ w, axis=1).real.sum(1),
}


@pytest.fixture(scope="module")
def explained():
  """The functions explained at one batch, and what they compute of each input; compiled at once."""
  x = jax.random.normal(jax.random.key(1), (3, 5, 6))
  traced = {name: program.trace(function, W, x) for name, function in FUNCTIONS.items()}

  @jax.jit
  def run(w, x):
    made = {name: program.dynamic_map(each, w, x, jnp.full(3, 2)) for name, each in traced.items()}
    rows = range(len(x))
    return made, {
      name: jnp.concatenate([function(w, x[i : i + 1]) for i in rows])
      for name, function in FUNCTIONS.items()
    }

  with jax.default_matmul_precision("highest"):
    return traced, run(W, x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_kept_and_nothing_is_unexplained(name, explained):
  traced, (explanations, expected) = explained
  ex = explanations[name]
  traced[name].check()
  assert rel(ex.logits, expected[name]) <= 2e-6
  mass = np.abs(ex.weights * ex.inputs).sum()  # before it cancels within a place
  assert np.abs(ex.residuals["unexplained"]).max() <= 3e-6 * mass, ex.residuals
  assert np.abs(ex.weights).max() > 0


@pytest.mark.parametrize("name", ["attention", "clipped", "cond", "largest", "remat", "scan"])
def test_jax_transposes_what_is_held(name):
  x = jax.random.normal(jax.random.key(1), (1, 5, 6))
  certificate = program.trace(FUNCTIONS[name], W, x).check(W, x)
  assert certificate.transposed <= 3e-6


def test_residuals_are_named_by_variables_and_places():
  def network(variables, x):
    with jax.named_scope("stem"):
      y = x @ variables["kernel"] + variables["norm"]["bias"]
    with jax.named_scope("end"):
      return y + jnp.arange(6.0) + jax.nn.sigmoid(y)

  variables = {"kernel": W, "norm": {"bias": W[0]}}
  x = jax.random.normal(KEY, (2, 6))
  ex = program.explain(network, variables, x, 3)
  line = network.__code__.co_firstlineno + 4
  assert set(ex.residuals) == {
    "norm/bias",
    f"constant at end (test_rules.py:{line})",
    f"weight at end (test_rules.py:{line})",
    "unexplained",
  }
  np.testing.assert_allclose(ex.residuals["norm/bias"], np.full(2, W[0, 3]), rtol=1e-6)
  y = x @ W + W[0]
  np.testing.assert_allclose(
    ex.residuals[f"weight at end (test_rules.py:{line})"], jax.nn.sigmoid(y)[:, 3], rtol=1e-5
  )


def test_places_are_those_of_the_user_inside_transformations():
  def each(x):
    with jax.named_scope("layer"):
      return jnp.exp(x)

  traced = program.trace(lambda w, x: jax.vmap(each)(x) @ w, W, jnp.ones((2, 6)))
  (place,) = {str(e.place) for e in traced.body.walk() if e.name == "exp"}
  assert place == f"layer (test_rules.py:{each.__code__.co_firstlineno + 2})"


def test_one_layer_has_the_map_in_closed_form():
  x = jax.random.normal(KEY, (2, 6))
  ex = program.explain(lambda w, x: jnp.tanh(x @ w), W, x, 1)
  y = (x @ W)[:, 1]
  np.testing.assert_allclose(ex.weights, (jnp.tanh(y) / y)[:, None] * W[:, 1], rtol=1e-5)


def test_gates_at_zero_are_limits_and_differentiable():
  for function in (jnp.tanh, jax.nn.relu, jnp.abs, jax.nn.gelu):
    traced = program.trace(lambda w, x, f=function: f(x) @ w, W, jnp.zeros((1, 6)))

    def size(w, x, traced=traced):
      return jnp.sum(program.dynamic_map(traced, w, x, 1).weights ** 2)

    for gradient in jax.grad(size, argnums=(0, 1))(W, jnp.zeros((1, 6))):
      assert np.isfinite(gradient).all()
  ex = program.explain(lambda w, x: jnp.tanh(x) @ w, W, np.zeros((1, 6), np.float32), 1)
  np.testing.assert_allclose(ex.weights[0], W[:, 1])


def test_explanations_inside_losses_see_how_weights_depend_on_variables():
  x = jax.random.normal(KEY, (2, 6))
  traced = program.trace(lambda w, x: jax.nn.silu(x @ w) @ w, W, x)

  def size(w, x):
    return jnp.sum(program.dynamic_map(traced, w, x, 1).weights[..., 0])

  def by_hand(w, x):
    return jnp.sum((jax.nn.sigmoid(x @ w) * w[0]) @ w[:, 1])

  both = (jax.jit(jax.grad(f, argnums=(0, 1)))(W, x) for f in (size, by_hand))
  for found, wanted in zip(*both, strict=True):
    assert rel(found, wanted) <= 1e-5


def bilinear(w, x):
  with jax.named_scope("unit"):
    return (x @ w) * (x @ w.T)


GATES = {
  "silu": jax.nn.silu,
  "gelu": jax.nn.gelu,
  "gelu by erf": lambda y: 0.5 * y * (1 + jax.lax.erf(y / np.sqrt(2))),
  "gelu by tanh": functools.partial(jax.nn.gelu, approximate=True),
  "gelu of a polynomial": lambda y: 0.5 * y * (1 + jnp.tanh(0.8 * y * (1 + 0.045 * y * y))),
  "tanh": jnp.tanh,
  "sigmoid": jax.nn.sigmoid,
}


@pytest.mark.parametrize("gate", GATES)
def test_gated_units_hold_the_gate_on_either_side(gate):
  x, other = jax.random.normal(KEY, (2, 6)), W[::-1]
  expected = GATES[gate](x @ W)[:, :1] * other[:, 0]
  for function in (
    lambda w, x: GATES[gate](x @ w) * (x @ w[::-1]),
    lambda w, x: (x @ w[::-1]) * GATES[gate](x @ w),
  ):
    assert rel(program.explain(function, W, x, 0).weights, expected) <= 1e-5


def test_what_is_made_of_the_other_factor_is_the_weight():
  """Squeeze and excitation of a single position, with a gate of fewer activations than it gates.

  What is made of it passes through a call.
  """
  clipped = jax.jit(lambda y: jnp.clip(y, 0, 1))

  def excited(w, x):
    x = jax.nn.hard_swish(x @ w)
    return clipped(jax.nn.relu(x) @ w.T + 0.5) * x

  x = jax.random.normal(KEY, (2, 6))
  y = jax.nn.hard_swish(x @ W)
  gate, swish = clipped(jax.nn.relu(y) @ W.T + 0.5), jax.nn.hard_sigmoid(x @ W)
  expected = (gate * swish)[:, :1] * W[:, 0]
  assert rel(program.explain(excited, W, x, 0).weights, expected) <= 1e-5


def test_scaled_products_of_a_signal_with_itself_stay_weights():
  """Attention without a softmax, whatever its scale: the products are logits, no signals."""
  x = jax.random.normal(KEY, (2, 4, 6))
  for scale in (1.0, 0.5, -1.0):

    def mixed(w, x, scale=scale):
      y = x @ w
      return (y + jnp.einsum("nld,nmd->nlm", scale * y, y * 1.5) @ y).mean(1)

    ex = program.explain(mixed, W, x, 0)
    assert max(np.abs(part).max() for part in ex.residuals.values()) <= 1e-4


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint])
def test_what_is_made_of_a_factor_is_known_through_calls(call):
  """Custom derivatives, such as that of ReLU, and rematerialised blocks are entered."""

  def gated(w, x, relu=lambda y: jnp.maximum(y, 0), call=lambda f: f):
    y = jax.nn.hard_swish(x @ w)
    return (call(lambda y: relu(y @ w.T) @ w + 0.5)(y)) * y

  x = jax.random.normal(KEY, (2, 6))
  expected = program.explain(gated, W, x, 0)
  found = program.explain(functools.partial(gated, relu=jax.nn.relu, call=call), W, x, 0)
  assert rel(found.weights, expected.weights) <= 1e-5
  assert max(np.abs(part).max() for part in expected.residuals.values()) <= 1e-5


def test_an_undecided_product_names_its_place_and_the_option():
  x = jnp.ones((2, 6))
  with pytest.raises(InputError, match=r"mul at unit \(test_rules\.py:\d+\).*products=.*'unit'"):
    program.trace(bilinear, W, x)
  first, second = (
    program.explain(bilinear, W, x, 0, products={"unit": factor}).weights
    for factor in ("first", "second")
  )
  np.testing.assert_allclose(first[0], (W.T * (x[0] @ W))[:, 0], rtol=1e-5)
  np.testing.assert_allclose(second[0], (W * (x[0] @ W.T))[:, 0], rtol=1e-5)
  with pytest.raises(InputError, match="'third', expected 'first' or 'second'"):
    program.trace(bilinear, W, x, products={"unit": "third"})


def until_small(w, x):
  return jax.lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: y / 2, x) @ w


REFUSED = {
  "a loop of unknown length": (until_small, r"while at .*test_rules.*no gradient.*weights="),
  "probabilities": (
    lambda w, x: jax.nn.softmax(x @ w),
    r"no signals: exp at .*test_rules.* logits",
  ),
  "no input": (lambda w, x: jnp.zeros((len(x), 2)) + w[0, :2], "do not depend on the input"),
  "no batch axis": (lambda w, x: jnp.sum(x @ w), r"shape \(\) for a batch of 1"),
  "a print": (lambda w, x: (jax.debug.print("{x}", x=x), x @ w)[1], "side effects"),
  "no rule": (lambda w, x: jnp.cumprod(x @ w, 1) + jax.lax.reduce(x, 0.0, jnp.hypot, (1,)), "rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_in_one_line(name):
  function, message = REFUSED[name]
  with pytest.raises(InputError, match=message) as error:
    program.trace(function, W, jnp.ones((2, 6))).check()
  assert "\n" not in str(error.value)


def test_examples_that_depend_on_each_other_are_refused():
  def network(w, x):
    y = x @ w
    return (y - y.mean(0)) / (y.std(0) + 1)

  with pytest.raises(InputError, match=r"reduce_sum at test_rules.*all examples of a batch.*evalu"):
    program.explain(network, W, jnp.ones((3, 6)), 1)


def test_residuals_are_of_each_example_wherever_its_axis_is():
  def network(w, x):
    heads = jnp.moveaxis(x.reshape(len(x), 2, 3), 0, 1)  # [heads, N, 3]
    y = heads + w[:2, None, :3]
    token = jnp.broadcast_to(w[2, :3], (2, len(x), 3))
    z = jnp.concatenate([y * jax.nn.sigmoid(y), token], axis=0)
    return jnp.moveaxis(z, 1, 0).reshape(len(x), -1) @ jnp.concatenate([w, w])

  x = jax.random.normal(KEY, (3, 6))
  whole = program.explain(network, W, x, 1)
  for i in range(3):
    alone = program.explain(network, W, x[i : i + 1], 1)
    for source, share in alone.residuals.items():
      np.testing.assert_allclose(whole.residuals[source][i : i + 1], share, atol=2e-6)
  assert np.abs(whole.residuals["unexplained"]).max() <= 2e-6


def test_shards_are_entered_and_their_maps_stay_linear():
  axes = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((2,), ("model",), axis_types=axes, devices=jax.devices()[:2])
  column, whole = jax.P(None, "model"), jax.P()

  def network(w, x):
    def shard(w, x):
      return jax.lax.psum(jax.nn.relu(x @ w) @ w.T, "model") + 0.1

    return jax.shard_map(shard, mesh=mesh, in_specs=(column, whole), out_specs=whole)(w, x)

  x = jax.random.normal(KEY, (3, 6))
  ex = program.explain(network, W, x, 1)
  np.testing.assert_allclose(ex.residual, np.full(3, 0.1), rtol=1e-4)
  alone = program.explain(lambda w, x: jax.nn.relu(x @ w) @ w.T, W, x, 1)
  assert rel(ex.weights, alone.weights) <= 1e-5
  with pytest.raises(InputError, match="inside of shard_map"):
    program.trace(network, W, x).bcosify()


def test_bad_inputs_and_variables():
  def function(w, x):
    return x @ w

  with pytest.raises(InputError, match=r"int32.*embeddings"):
    program.trace(function, W, jnp.ones((2, 6), jnp.int32))
  with pytest.raises(InputError, match="tree of 2 arrays"):
    program.trace(function, W, (jnp.ones((2, 6)), jnp.ones(2)))
  traced = program.trace(function, {"w": W}["w"], jnp.ones((2, 6)))
  with pytest.raises(InputError, match=r"shape \(6, 5\), expected \(6, 6\)"):
    program.explain(traced, W[:, :5], jnp.ones((2, 6)))
  with pytest.raises(InputError, match=r"shape \(2, 5\), expected \(N, 6\)"):
    program.explain(traced, W, jnp.ones((2, 5)))
  with pytest.raises(InputError, match="structure"):
    program.explain(traced, [W, W], jnp.ones((2, 6)))
  with pytest.raises(InputError, match="0 to 5"):
    program.explain(traced, W, jnp.ones((2, 6)), 6)
  with pytest.raises(InputError, match="dynamic_map"):
    jax.jit(lambda x: program.explain(traced, W, x))(jnp.ones((2, 6)))


def test_inputs_that_no_explanation_is_of():
  traced = program.trace(lambda w, x: x @ w, W, jnp.ones((2, 6)))
  x = np.ones((2, 6), np.float32)
  for bad, message in (
    (x.astype(np.complex64), "complex64.*real"),
    (x.astype(np.uint8), "uint8"),
    (x * [np.nan, *[1] * 5], "2 numbers of the inputs are not finite"),
    (x[:0], "batch is empty"),
  ):
    with pytest.raises(InputError, match=message):
      program.explain(traced, W, bad, 1)
  with pytest.raises(InputError, match="batch is empty"):
    traced.check(W, x[:0])
  ex = program.explain(lambda w, x: x @ w, W, x.tolist(), 1)
  np.testing.assert_allclose(ex.weights[0], W[:, 1])


def test_a_value_that_is_not_finite_is_told_of():
  with pytest.warns(UserWarning, match="nan% of an explanation"):
    program.explain(lambda w, x: x / jnp.linalg.norm(x) @ w, W, np.zeros((1, 6), np.float32), 1)


def test_places_and_arguments_that_nothing_is_at():
  def network(w, x):
    with jax.named_scope("unit"):
      return jnp.clip(x @ w, -0.1, 0.1)

  x = jnp.ones((2, 6))
  for options in ({"weights": ("units",)}, {"products": {"units": "first"}}):
    with pytest.raises(InputError, match=r"'units' of (weights|products).*for example, unit;"):
      program.trace(network, W, x, **options)
  with pytest.raises(InputError, match="expected a sequence of places"):
    program.trace(network, W, x, weights="unit")
  with pytest.raises(InputError, match="products is"):
    program.explain(network, W, x, 1, products=["unit"])
  traced = program.trace(network, W, x)
  with pytest.raises(InputError, match=r"already.*program\.trace"):
    program.explain(traced, W, x, 1, weights=("unit",))
  with pytest.raises(InputError, match="train are arguments"):
    program.explain(traced, W, x, 1, train=False)
  line = network.__code__.co_firstlineno + 2
  assert f"constant at unit (test_rules.py:{line})" in traced.sources


def test_what_makes_weights_can_be_said():
  x = jnp.ones((2, 6))

  def network(w, x):
    with jax.named_scope("steps"):
      scale = jax.lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: y / 2, jnp.abs(x))
    return x * scale @ w

  ex = program.explain(network, W, x, 1, weights=("steps",))
  assert ex.completeness_error.max() <= 1e-6


def test_rules_of_ones_own_primitives(monkeypatch):
  monkeypatch.setattr("bcos_jax.program.rules.RULES", dict(RULES))
  half = core.Primitive("half")
  half.def_impl(lambda x: x / 2)
  half.def_abstract_eval(lambda x: x)
  from jax.interpreters import ad, batching, mlir

  ad.deflinear(half, lambda ct: [half.bind(ct)])
  batching.defvectorized(half)
  mlir.register_lowering(half, mlir.lower_fun(lambda x: x / 2, multiple_results=False))
  x = jnp.ones((2, 6))
  with pytest.raises(InputError, match=r"'half' .*has no rule.*program\.rule\('half'\)"):
    program.trace(lambda w, x: half.bind(x @ w), W, x)
  program.rule("half")(program.affine())
  ex = program.explain(lambda w, x: half.bind(x @ w), W, x, 1)
  np.testing.assert_allclose(ex.weights[0], W[:, 1] / 2)


def test_a_rule_that_passes_on_too_much_is_told_on(monkeypatch):
  monkeypatch.setattr("bcos_jax.program.rules.RULES", {**RULES, "exp": program.affine()})
  x = jnp.ones((2, 6)) / 3
  traced = program.trace(lambda w, x: jnp.exp(x) @ w, W, x)
  with pytest.warns(UserWarning, match=r"unexplained.*program\.check"):
    traced.explain(W, x, 1)
  with pytest.raises(InputError, match="JAX does not transpose the held program"):
    traced.check(W, x)


def test_every_rule_is_of_a_primitive_of_jax():
  known = {each.name for each in gc.get_objects() if isinstance(each, core.Primitive)}
  assert set(RULES) <= known


def test_batches_targets_and_sizes_agree():
  x = jax.random.normal(KEY, (5, 4, 6))
  function = FUNCTIONS["swiglu"]
  traced = program.trace(function, W, x)
  whole = program.explain(traced, W, x, np.arange(5) % 6)
  parts = program.explain(traced, W, x, np.arange(5) % 6, batch_size=2)
  assert rel(parts.weights, whole.weights) <= 1e-6
  several = program.explain(traced, W, x, np.tile([1, 3], (5, 1)))
  assert several.contributions.shape == (5, 2, 4)
  one = program.explain(function, W, x[:2], lambda logits: logits[:, 3])
  assert rel(several.weights[:2, 1], one.weights) <= 1e-6
  assert "inputs [2, 4, 6]" in repr(one) and one._repr_png_() is None
  predicted = program.explain(traced, W, x)
  assert (predicted.target == predicted.logits.argmax(-1)).all()


def test_caches_keep_no_variables():
  class Array(np.ndarray):
    """One that can be watched."""

  w = np.ones((6, 6), np.float32).view(Array)
  alive = weakref.ref(w)
  x = jnp.ones((2, 6))
  traced = program.trace(lambda w, x: jnp.tanh(x @ w), w, x)
  traced.explain(w, x, 1)
  traced.bcosify()(w, x)
  del w, traced
  gc.collect()
  assert alive() is None
