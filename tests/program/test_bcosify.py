"""B-cosification of traced networks: the declared one's values, decisions, and training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, InputError, StandardOps, program

from ..common import filled, photos, rel
from .networks import VARIANTS, besides, case

QUICK = ("mobile_net_tiny", "vit_test")


SAME = (
  *("convnext_test", "convnext_test_bnu", "convnextv2_test", "regnet_x_tiny", "resnet_d_test"),
  *("resnet_tiny", "resnet_tiny_bottleneck", "resnext_tiny"),
)
"""Networks whose declared family makes the same decisions. Others' families also remove biases of
queries, keys and gates, or leave values linear, and put other epsilons on some maps."""


@pytest.mark.parametrize("name", besides(QUICK, VARIANTS))
def test_with_everything_kept_the_function_is_unchanged(name):
  own = case(name, "standard")
  same = own.program.bcosify(b=1.0, biases="keep")
  learned = own.program.bcosify(b=1.0, biases="decay", learn_b=True)

  @jax.jit
  def outputs(variables, extended, x):
    return same(variables, x), learned(extended, x), own.model.apply(variables, x)

  kept, varied, expected = outputs(own.variables, learned.variables, own.inputs)
  assert rel(kept, expected) <= 1e-5
  assert rel(varied, expected) <= 1e-4
  assert set(learned.variables) == {"network", "b", "bias"}


@pytest.mark.parametrize("name", besides(("resnet_tiny",), SAME))
def test_the_declared_network_computes_the_same(name):
  encoding = Encoding(pairing="none")
  model = bcos_jax.create(name, ops=StandardOps(encoding=encoding))
  variables, x = filled(model), encoding(jnp.asarray(photos(2, max(model.image_sides))))
  orders = {"head_order": "pool_first", "token_head_order": "pool_first", "logit_bias": 0.0}
  declared = bcos_jax.bcosify(model, variables, ops=BcosOps(encoding=encoding, **orders))
  traced = program.trace(lambda variables, x: model.apply(variables, x), variables, x)
  made = traced.bcosify(pool="average")
  found = jax.jit(made)(made.variables, x)
  expected = jax.jit(declared[0].apply)(declared[1], x)
  assert rel(found, expected) <= 1e-4


@pytest.mark.parametrize("b", [1.7, 2.0])
def test_channels_first_is_the_same_network_as_channels_last(b):
  kernel, dense = jax.random.normal(jax.random.key(0), (3, 2, 2, 6)), jnp.ones((5, 6)) / 6
  x = jnp.asarray(photos(2, 16)).repeat(2, -1)[..., :4]

  def conv(x, kernel, layout):
    how = {"dimension_numbers": layout, "feature_group_count": 2, "rhs_dilation": (1, 2)}
    return jax.lax.conv_general_dilated(x, kernel, (2, 1), ((1, 0), (2, 1)), **how)

  def last(w, x):
    return jax.nn.relu(conv(x, w["kernel"], ("NHWC", "HWIO", "NHWC"))).mean((1, 2)) @ w["dense"].T

  def first(w, x):
    return jax.nn.relu(conv(x, w["kernel"], ("NCHW", "OIHW", "NCHW"))).mean((2, 3)) @ w["dense"].T

  of_last, of_first = {"kernel": kernel, "dense": dense}, {"dense": dense}
  of_first["kernel"] = kernel.transpose(3, 2, 0, 1)
  made = program.trace(last, of_last, x).bcosify(b=b)
  expected = made(of_last, x)
  made = program.trace(first, of_first, x.transpose(0, 3, 1, 2)).bcosify(b=b)
  assert rel(made(of_first, x.transpose(0, 3, 1, 2)), expected) <= 1e-6
  assert rel(first(of_first, x.transpose(0, 3, 1, 2)), expected) >= 0.1


class Network(nn.Module):
  """Grouped and dilated convolutions, max pooling, attention, a position table and a head."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.Conv(8, (3, 3), feature_group_count=2, kernel_dilation=2, name="grouped")(x)
    x = x.reshape(len(x), -1, 8)
    x = x + self.param("positions", nn.initializers.normal(1.0), x.shape[1:])
    x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x)
    return nn.Dense(5, name="head")(x.mean(1))


@pytest.fixture(scope="module")
def network():
  images = jnp.asarray(photos(4, 12))
  variables = Network().init(jax.random.key(0), images)
  variables = jax.tree.map(lambda leaf: leaf + 0.05, variables)
  return program.trace(Network().apply, variables, images), variables, images


def test_a_table_says_what_becomes_of_each_part(network):
  traced, _, _ = network
  lines = traced.bcosify(2, rules={"*/head/*": {"b": 1.0, "biases": "keep"}}).table().split("\n")
  assert [" ".join(line.split()) for line in lines] == [
    "params/stem/kernel map B-cos, B=2",
    "params/stem/bias bias removed",
    "Network max pooling kept",
    "params/grouped/kernel map B-cos, B=2",
    "params/grouped/bias bias removed",
    "params/positions constant kept",
    "params/attention/query/kernel map of weights stays linear",
    "params/attention/key/kernel map of weights stays linear",
    "params/attention/value/kernel map B-cos, B=2",
    "params/attention/value/bias bias removed",
    "params/attention/out/kernel map B-cos, B=2",
    "params/attention/out/bias bias removed",
    "params/head/kernel map stays linear (B=1)",
    "params/head/bias bias kept",
  ]


def test_scales_are_cosines_of_patches_by_group():
  fields = {"kernel_dilation": (1, 2), "feature_group_count": 3}
  layer = nn.Conv(6, (3, 2), (2, 1), ((1, 0), (2, 1)), use_bias=False, **fields)
  x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 7, 8, 6)), jnp.float32)
  variables = layer.init(jax.random.key(0), x)
  own = bcos_jax.layers.BcosConv(6, (3, 2), (2, 1), ((1, 0), (2, 1)), b=1.7, **fields)
  made = program.trace(layer.apply, variables, x).bcosify(1.7)
  assert rel(made(variables, x), own.apply(variables, x)) <= 1e-5


DOTS = ("nij,jk->nik", "nij,jkl->nikl", "jk,nij->nki", "nij,ijk->nik", "nij,kji->nk", "nij,j->ni")


@pytest.mark.parametrize("spec", DOTS)
def test_scales_of_dots_are_cosines_whatever_their_axes(spec):
  operands, result = spec.split("->")
  first, second = operands.split(",")
  kernel, signal = (first, second) if second.startswith("n") else (second, first)
  sizes = {"n": 2, "i": 3, "j": 4, "k": 5, "l": 6}
  rng = np.random.RandomState(0)
  w, x = (
    jnp.asarray(rng.standard_normal([sizes[a] for a in axes]), jnp.float32)
    for axes in (kernel, signal)
  )

  def function(w, x):
    return jnp.einsum(spec, *((w, x) if first == kernel else (x, w)))

  made = program.trace(function, w, x).bcosify(2)(w, x)
  summed = [a for a in kernel if a in signal and a not in result]
  kept = "".join(a for a in signal if a not in summed)
  lengths = jnp.sqrt(jnp.einsum(f"{signal},{signal}->{kept}", x, x))
  y = function(w, x)
  expected = y * jnp.abs(y) / jnp.einsum(f"{kept},{result}->{result}", lengths, jnp.ones_like(y))
  assert rel(made, expected) <= 1e-5


def test_a_bcosified_network_is_explained_without_residuals_but_positions(network):
  traced, variables, images = network
  made = traced.bcosify(2, pool="average")
  ex = bcos_jax.explain(made, made.variables, images, 1)
  assert set(ex.residuals) == {"params/positions", "unexplained"}
  assert ex.completeness_error.max() <= 1e-5
  assert not ex.conventional
  assert program.trace(made, made.variables, images).check().maps > 0
  assert made.variables is variables


class Block(nn.Module):
  """A residual block for `nn.scan`."""

  @nn.compact
  def __call__(self, x, _):
    return x + nn.Dense(6, name="out")(nn.relu(nn.Dense(9, name="in")(nn.LayerNorm()(x)))), None


def test_blocks_that_are_scanned_and_recomputed():
  class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
      axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
      x, _ = nn.scan(nn.remat(Block), length=3, **axes)(name="blocks")(x, None)
      return nn.Dense(4, name="head")(x.mean(1))

  x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 5, 6)), jnp.float32)
  variables = Scanned().init(jax.random.key(0), x)
  made = program.trace(Scanned().apply, variables, x).bcosify()
  assert {d.name for d in made.decisions if d.part == "map" and d.changes} == {
    f"params/{name}/kernel" for name in ("blocks/in", "blocks/out", "head")
  }
  ex = bcos_jax.explain(made, variables, x, 1)
  assert set(ex.residuals) == {"unexplained"}
  assert ex.completeness_error.max() <= 1e-5


def test_any_optimizer_trains_it_exponents_included(network):
  traced, _, images = network
  made = traced.bcosify(1.5, learn_b=True, biases="decay", rules={"*stem*": {"learn_b": False}})
  assert made.variables["b"].keys() == {
    f"params/{name}/kernel" for name in ("grouped", "attention/value", "attention/out", "head")
  }
  labels = jnp.asarray([0, 1, 2, 3])
  optimizer = optax.adam(1e-2)

  @jax.jit
  def step(variables, state):
    def loss(variables):
      logits = made(variables, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradient = jax.value_and_grad(loss)(variables)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(variables, change), state, value

  variables, state, losses = made.variables, optimizer.init(made.variables), []
  for _ in range(15):
    variables, state, value = step(variables, state)
    losses.append(float(value))
  assert losses[-1] < 0.8 * losses[0]
  assert float(variables["b"]["params/head/kernel"]) != 1.5


def test_parts_of_a_batch_are_those_of_one_example(network):
  traced, variables, images = network
  made = traced.bcosify(biases="decay")
  whole = jax.jit(made)(made.variables, images)
  alone = jax.jit(made)(made.variables, images[:1])
  assert rel(whole[:1], alone) <= 1e-5

  def row(variables, x):
    return x @ variables["w"] + variables["rows"][0]

  variables = {"w": jnp.eye(4), "rows": jnp.ones((2, 4))}
  made = program.trace(row, variables, jnp.ones((1, 4))).bcosify(b=1.0, learn_b=True)
  assert "constant" in made.table()
  np.testing.assert_allclose(made(made.variables, jnp.ones((3, 4))), np.full((3, 4), 2.0))


def test_what_was_said_of_places_holds_for_the_b_cosified_function():
  def gated(variables, x):
    with jax.named_scope("gate"):
      gate = x @ variables["gate"]
    with jax.named_scope("unit"):
      y = gate * (x @ variables["w"])
      return jax.lax.scan(lambda c, _: (c * (c @ variables["w"]), None), y, None, length=1)[0]

  rng = np.random.RandomState(0)
  x, *kernels = (jnp.asarray(rng.standard_normal((4, 4)), jnp.float32) for _ in range(3))
  variables = dict(zip(("gate", "w"), kernels, strict=True))
  options = {"weights": ("gate",), "products": {"unit": "second"}}
  traced = program.trace(gated, variables, x, **options)
  same = traced.bcosify(b=1.0, learn_b=True)
  found = bcos_jax.explain(same, same.variables, x, 1)
  assert rel(found.weights, traced.explain(variables, x, 1).weights) <= 1e-4
  made = traced.bcosify()
  assert bcos_jax.explain(made, made.variables, x, 1).completeness_error.max() <= 1e-5


def test_recomputed_maps_of_weights_stay_linear():
  def attention(variables, x):
    each = jax.checkpoint(lambda x: [x @ variables[name] for name in ("query", "key", "value")])
    query, key, value = each(x)
    return (jax.nn.softmax(query @ jnp.swapaxes(key, 1, 2)) @ value).mean(1)

  variables = {name: jnp.eye(4) for name in ("query", "key", "value")}
  made = program.trace(attention, variables, jnp.ones((1, 3, 4))).bcosify()
  assert [d.name for d in made.decisions if d.part == "map"] == ["value"]


def test_kernels_that_are_no_variables_are_told_of():
  kernel = jnp.eye(4)
  with pytest.raises(InputError, match=r"whose kernel is a variable.*closes over"):
    program.trace(lambda _, x: x @ kernel, {}, jnp.ones((1, 4))).bcosify()


def test_arguments_are_those_that_were_traced(network):
  traced, variables, images = network
  made, learned = traced.bcosify(), traced.bcosify(learn_b=True)
  with pytest.raises(InputError, match="structure"):
    made([*jax.tree.leaves(variables)], images)
  with pytest.raises(InputError, match=r"shape \(4, 12, 12\)"):
    made(variables, images[..., 0])
  with pytest.raises(InputError, match="expected a dict of b, network"):
    learned(variables, images)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"b": 0.5}, "B is 0.5"),
    ({"biases": "removed"}, "biases 'removed'.*'remove'"),
    ({"pool": "max"}, "pool 'max'"),
    ({"rules": {"*nothing*": {"b": 1.0}}}, r"rules\['\*nothing\*'\] matches no part.*params/"),
    ({"rules": {"*/bias": {"b": 1.0}}}, r"rules\['\*/bias'\] matches no part.* that 'b' is about"),
    ({"rules": {"*head*": 1.0}}, "is 1.0, expected settings by name"),
    ({"rules": ["*head*"]}, "expected settings by the name of a part"),
    ({"rules": {"*head*": {"bb": 1.0}}}, "setting of .* 'bb'.*'b'"),
  ],
)
def test_settings_that_cannot_be(network, settings, message):
  with pytest.raises(InputError, match=message):
    network[0].bcosify(**settings)
