"""Explanations: completeness by source, independence of batching, use inside a loss."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps
from bcos_jax import functional as F
from bcos_jax.errors import InputError
from bcos_jax.variables import abstract_variables

from ..common import (
  CLASSES,
  PRESETS,
  SIDE,
  applied,
  filled,
  flat,
  photos,
  rel,
  tiny,
  unflat,
)

IMAGES = photos(3)
LOGIT_BIAS = -math.log(CLASSES - 1)


@functools.cache
def _explained(model):
  variables = filled(model)
  return variables, bcos_jax.explain(model, variables, IMAGES)


def _unexplained(ex) -> float:
  """The unexplained rest of the worst image, relative to what contributes to it."""
  parts = np.abs(ex.contributions).sum(axis=(-2, -1)) + sum(
    np.abs(share) for source, share in ex.residuals.items() if source != "unexplained"
  )
  return float(np.max(np.abs(ex.residuals["unexplained"]) / parts))


def _share_by_parameters(model, variables, ex, kind: str) -> float:
  """What the leaves called `kind` add to all values: <leaf, d value / d leaf>, by another path."""

  def value(leaves):
    logits = model.clone(ops=model.ops.detached()).apply(
      unflat({**flat(variables), **leaves}), ex.inputs
    )
    return jnp.take_along_axis(logits, ex.target[:, None], axis=1).sum()

  leaves = {path: leaf for path, leaf in flat(variables).items() if path.endswith(f"/{kind}")}
  gradients = jax.jit(jax.grad(value))(leaves)
  return sum(float(np.vdot(gradients[path], leaf)) for path, leaf in leaves.items())


def _check(model, sources: set[str]):
  """Everything that holds for every explanation of every network."""
  _, ex = _explained(model)
  assert np.array_equal(ex.target, np.argmax(ex.logits, axis=1))
  assert np.array_equal(ex.value, np.max(ex.logits, axis=1))
  channels = model.ops.encoding.channels
  assert ex.inputs.shape == ex.weights.shape == (3, SIDE, SIDE, channels)
  assert rel(ex.contributions, (ex.inputs * ex.weights).sum(-1)) <= 1e-5
  # Complete, source by source.
  assert set(ex.residuals) == sources | {"unexplained"}
  assert rel(sum(ex.residuals.values()), ex.residual) <= 1e-5
  # NumPy sums in another order: rounding goes by what is summed, not by what comes out.
  total = ex.contributions.sum((1, 2)) + ex.residual
  summed = np.abs(ex.contributions).sum((1, 2)) + np.abs(ex.value)
  assert np.all(np.abs(total - ex.value) <= 2e-6 * summed)
  assert _unexplained(ex) <= 2e-6
  assert ex.completeness_error.shape == (3,) and ex.completeness_error.max() <= 1e-5
  # Something was explained: pixels matter.
  assert np.all(np.abs(ex.contributions).sum((1, 2)) > 1e-3 * np.abs(ex.value))
  return ex


RESNET = {
  "standard": {"bias", "running_mean"},
  "equivalent": {"bias"},
  "lm": set(),
  "bcosification": {"logit_bias"},
  "v1": {"logit_bias"},
  "v2": {"logit_bias"},
  "aloe2": {"logit_bias"},
}
VIT = {
  preset: RESNET[preset] - {"running_mean"} | {"position"}
  for preset in ("standard", "equivalent", "lm", "v2", "aloe2")
}


@pytest.mark.parametrize(
  "name, preset",
  [
    *(("resnet_tiny", preset) for preset in RESNET),
    *(("vitc_tiny", preset) for preset in VIT),
    pytest.param("resnet_tiny_bottleneck", "bcosification", marks=pytest.mark.user_compiler),
    ("resnet_tiny_bottleneck", "standard"),
    pytest.param("resnet8", "v2", marks=pytest.mark.user_compiler),
    pytest.param("simple_vit_tiny", "v2", marks=pytest.mark.user_compiler),
  ],
)
def test_complete_by_source(name, preset):
  transformer = "vit" in name
  # Every kind of layer is in the smallest network of its kind.
  smaller = {"stages": (1,)} if preset in ("bcosification", "lm", "v1", "aloe2") else {}
  if name == "resnet_tiny_bottleneck":
    smaller = {}
  model = tiny(name, PRESETS[preset], **({"depth": 1} if transformer else smaller))
  ex = _check(model, (VIT if transformer else RESNET)[preset])
  # Explanation mode changes no value.
  assert rel(ex.logits, applied(model)(filled(model), IMAGES)) <= 1e-6
  if "logit_bias" in ex.residuals:
    # B-cos v1 publishes one bias for any number of classes.
    expected = math.log(0.01 / 0.99) if preset == "v1" else LOGIT_BIAS
    assert np.allclose(ex.residuals["logit_bias"], expected, rtol=1e-6)
  assert all(
    np.all(np.abs(share) > 1e-4)
    for source, share in ex.residuals.items()
    if source != "unexplained"
  )


OPTIONS = (
  {"norm": "all", "pool": "max"},
  {"norm": "batch", "norm_bias": True, "pool": "blur"},
  {"norm": "none", "logit_temperature": 4.0, "logit_bias": 0.75},
  {"norm": "group", "norm_groups": 4, "head_order": "pool_first"},
  {"norm": "instance", "b": 1.25},
  {"norm": "layer", "keep_activations": False},
  {"norm": "position", "norm_scale": False},
  {"norm": "all_uncentered", "encoding": Encoding(pairing="complement")},
  {"norm": "group_uncentered", "norm_groups": 2, "use_bias": True, "b": 2.5},
  {"norm": "instance_uncentered", "use_bias": True, "norm_bias": False, "learn_b": True},
  {"norm": "layer_uncentered", "max_out": 2, "weights": "unit"},
  {"norm": "position_uncentered", "weights": "cosine", "b": 1.5},
  {"b": 1.0, "norm_scale": False},
)
"""Every option of the study, and every norm."""


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: " ".join(map(str, option.values())))
def test_complete_with_every_option(option):
  model = tiny("resnet_tiny", BcosOps(**option), stages=(1,))
  sources = {"logit_bias"}
  if option.get("use_bias") or option.get("norm_bias"):
    sources.add("bias")
  if option.get("norm") in ("batch", "all"):
    sources.add("running_mean")
  ex = _check(model, sources)
  assert np.allclose(ex.residuals["logit_bias"], option.get("logit_bias", LOGIT_BIAS))


@pytest.mark.parametrize(
  "option",
  [
    {"norm": "layer", "centered_stem": False, "token_head_order": "pool_first"},
    {"use_bias": True, "learn_b": True},
  ],
)
def test_complete_with_options_of_transformers(option):
  model = tiny("vitc_tiny", BcosOps(**option), depth=1)
  bias = {"bias"} if "use_bias" in option else set()
  _check(model, {"logit_bias", "position"} | bias)


@pytest.mark.parametrize(
  "name, preset",
  [("resnet_tiny", "standard"), ("resnet_tiny", "equivalent"), ("vitc_tiny", "equivalent")],
)
def test_shares_of_sources_agree_with_the_gradients_of_parameters(name, preset):
  model = tiny(name, PRESETS[preset], **({"depth": 1} if name == "vitc_tiny" else {}))
  variables, ex = _explained(model)
  for source, kind in (("bias", "bias"), ("running_mean", "mean")):
    if source in ex.residuals:
      share = _share_by_parameters(model, variables, ex, kind)
      assert abs(float(ex.residuals[source].sum()) - share) <= 1e-4 * abs(share) + 1e-5


# The check can fail.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(BcosOps):
  """A family with one mistake."""

  mistake: str = ""

  def act(self, x, kind):
    if self.mistake == "undeclared constant":
      return x + 0.05
    return F.gated(x, kind, detach=self.detach and self.mistake != "gate")

  def layer_norm(self, *, name, eps=1e-5):
    return BcosOps.layer_norm(self._with("norm"), name=name, eps=eps)

  def attend(self, q, k, v, **fields):
    return BcosOps.attend(self._with("attention"), q, k, v, **fields)

  def conv(self, features, kernel_size, strides=1, **fields):
    return BcosOps.conv(self._with("scale"), features, kernel_size, strides, **fields)

  def _with(self, mistake: str) -> BcosOps:
    return dataclasses.replace(self, detach=False) if self.mistake == mistake else self


@pytest.mark.parametrize("mistake", ["gate", "norm", "attention", "undeclared constant"])
def test_unexplained_finds_broken_layers(mistake):
  model = tiny("vitc_tiny", Broken(mistake=mistake), depth=1)
  variables, ex = _explained(model)
  sound = bcos_jax.explain(model.clone(ops=Broken()), variables, IMAGES)
  assert _unexplained(sound) <= 2e-6
  assert _unexplained(ex) > 1e-3
  assert ex.completeness_error.max() > 100 * sound.completeness_error.max()


@pytest.mark.parametrize("fields", [{}, {"b": 2.5, "use_bias": True}])
def test_unexplained_cannot_find_a_scale_that_is_not_stopped(fields):
  """The trap of DESIGN, section 4: a B-cos network in inference is homogeneous in its input and
  constants together, so its plain gradient is complete as well. That is why the weights of single
  layers are tested in closed form, and those of networks against golden numbers."""
  model = tiny("resnet_tiny", Broken(mistake="scale", **fields), stages=(1,))
  variables, ex = _explained(model)
  sound = bcos_jax.explain(model.clone(ops=Broken(**fields)), variables, IMAGES)
  assert _unexplained(ex) <= 1e-4
  assert rel(ex.weights, sound.weights) > 0.1


def test_weights_are_not_the_gradient():
  model = tiny("resnet_tiny", BcosOps.v2())
  variables, ex = _explained(model)

  def value(inputs):
    logits = model.apply(variables, inputs)
    return jnp.take_along_axis(logits, ex.target[:, None], axis=1).sum()

  gradient = np.asarray(jax.jit(jax.grad(value))(ex.inputs))
  assert rel((gradient * ex.inputs).sum((1, 2, 3)), ex.contributions.sum((1, 2))) <= 2e-5
  assert rel(gradient, ex.weights) > 0.5


def test_weights_of_a_rectifier_network_are_its_gradient():
  """Without B-cos scales and batch statistics, the gates alone make the dynamic linear map."""
  model = tiny("resnet_tiny", StandardOps())
  variables, ex = _explained(model)
  gradient = jax.jit(
    jax.grad(
      lambda x: jnp.take_along_axis(model.apply(variables, x), ex.target[:, None], axis=1).sum()
    )
  )(ex.inputs)
  assert rel(ex.weights, gradient) <= 1e-5


# Batches and targets.

MODEL = tiny("resnet_tiny", BcosOps.v2())
MANY = photos(5, seed=1)


@functools.cache
def _whole():
  return bcos_jax.explain(MODEL, filled(MODEL), MANY, target=np.array([4, 0, 3, 1, 2]))


def _assert_equal(ex, expected, tolerance=1e-5):
  assert jax.tree.structure(ex) == jax.tree.structure(expected)
  for (path, leaf), wanted in zip(
    jax.tree.leaves_with_path(ex), jax.tree.leaves(expected), strict=True
  ):
    if "unexplained" in jax.tree_util.keystr(path):
      continue  # rounding error
    assert leaf.dtype == wanted.dtype
    assert rel(leaf, wanted) <= tolerance, path


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_micro_batches_equal_the_whole(batch_size):
  """With a last batch that is not full, and with more room than images."""
  ex = bcos_jax.explain(
    MODEL, filled(MODEL), MANY, target=np.array([4, 0, 3, 1, 2]), batch_size=batch_size
  )
  _assert_equal(ex, _whole())


def test_batch_equals_one_by_one():
  whole, variables = _whole(), filled(MODEL)
  for i, target in enumerate(whole.target):
    one = bcos_jax.explain(MODEL, variables, MANY[i : i + 1], target=int(target))
    _assert_equal(one, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], whole))


def test_default_target_is_the_predicted_class():
  _, ex = _explained(MODEL)
  again = bcos_jax.explain(MODEL, filled(MODEL), IMAGES, target=ex.target)
  _assert_equal(again, ex)


def test_forms_of_one_target_agree():
  variables = filled(MODEL)
  ones = bcos_jax.explain(MODEL, variables, IMAGES, target=np.array([1, 1, 1]))
  for target in (1, np.int32(1), [1, 1, 1], jnp.array([1, 1, 1])):
    _assert_equal(bcos_jax.explain(MODEL, variables, IMAGES, target=target), ones, 1e-6)
  by_function = bcos_jax.explain(MODEL, variables, IMAGES, target=lambda logits: logits[:, 1])
  assert by_function.target is None
  for field in ("value", "weights", "contributions", "residual"):
    assert rel(getattr(by_function, field), getattr(ones, field)) <= 1e-6


def test_several_targets_equal_single_ones():
  variables = filled(MODEL)
  classes = np.array([[0, 3], [4, 1], [2, 2]])
  both = bcos_jax.explain(MODEL, variables, IMAGES, target=classes)
  assert both.value.shape == both.target.shape == both.residual.shape == (3, 2)
  assert both.weights.shape == (3, 2, SIDE, SIDE, 6)
  assert both.contributions.shape == (3, 2, SIDE, SIDE)
  assert both.inputs.shape == (3, SIDE, SIDE, 6) and both.logits.shape == (3, CLASSES)
  assert both.completeness_error.shape == (3, 2) and both.completeness_error.max() <= 1e-5
  for k in range(2):
    single = bcos_jax.explain(MODEL, variables, IMAGES, target=classes[:, k])
    for field in ("value", "target", "weights", "contributions", "residual"):
      assert rel(getattr(both, field)[:, k], getattr(single, field)) <= 1e-5
    assert both.residuals.keys() == single.residuals.keys()
    assert np.allclose(both.residuals["logit_bias"][:, k], single.residuals["logit_bias"])


def test_several_targets_in_micro_batches():
  variables = filled(MODEL)
  classes = np.array([[0, 3], [4, 1], [2, 2]])
  ex = bcos_jax.explain(MODEL, variables, IMAGES, target=classes)
  _assert_equal(bcos_jax.explain(MODEL, variables, IMAGES, target=classes, batch_size=2), ex)


def test_function_of_the_outputs():
  """A margin is a target as well; explanations are linear in the scalar that they explain."""
  variables = filled(MODEL)
  margin = bcos_jax.explain(MODEL, variables, IMAGES, target=lambda y: y[:, 2] - y[:, 0])
  both = bcos_jax.explain(MODEL, variables, IMAGES, target=lambda y: y[:, jnp.array([2, 0])])
  assert rel(margin.value, both.value[:, 0] - both.value[:, 1]) <= 1e-5
  assert rel(margin.weights, both.weights[:, 0] - both.weights[:, 1]) <= 1e-5
  # The logit bias cancels in a margin.
  assert np.abs(margin.residuals["logit_bias"]).max() <= 1e-6


# Purity.


def test_nothing_is_toggled():
  model = tiny("resnet_tiny", BcosOps.v2())
  variables = filled(model)
  before = jax.tree.map(np.copy, variables)
  gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x).sum()))
  x = model.ops.encoding(IMAGES)
  first = gradient(x)
  bcos_jax.explain(model, variables, IMAGES)
  assert not model.ops.detach
  assert np.array_equal(gradient(x), first)
  assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


def test_equal_networks_share_one_compilation():
  traces = []

  def target(outputs):
    traces.append(1)
    return outputs[:, 0]

  for b in (2, 2.0):
    model = tiny("resnet_tiny", BcosOps.v2(b=b), stages=(1,))
    for seed in (0, 1):
      bcos_jax.explain(model, filled(model, seed), IMAGES, target=target)
      bcos_jax.explain(model, filled(model, seed), photos(8), target=target, batch_size=3)
  assert len(traces) == 1


@pytest.mark.parametrize("name", ["resnet_tiny", "vitc_tiny"])
def test_inside_a_jitted_loss(name):
  """Explanations can be trained, on black and white images as well.

  The derivative sees how W(x) depends on the parameters: at B=2, contributions are homogeneous of
  degree 2 in each kernel that every path runs through (Euler's theorem).
  """
  smallest = {"depth": 1} if name == "vitc_tiny" else {"stages": (1,), "width": 4}
  model = tiny(name, BcosOps(), **smallest)
  variables = filled(model)
  images = np.stack([np.zeros_like(IMAGES[0]), np.ones_like(IMAGES[0]), IMAGES[0]])
  pattern = np.float32(np.random.RandomState(0).standard_normal((3, SIDE, SIDE)))

  def loss(params):
    ex = bcos_jax.dynamic_linear(model, {**variables, "params": params}, images, target=2)
    return jnp.sum(pattern * ex.contributions)

  value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
  assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(gradient))
  for path in ("conv1", "head") if name == "resnet_tiny" else ("head",):
    dot = np.vdot(gradient[path]["kernel"], variables["params"][path]["kernel"])
    assert rel(dot, 2 * value) <= 1e-5


def test_explanation_is_a_frozen_tree_of_arrays():
  _, ex = _explained(MODEL)
  with pytest.raises(dataclasses.FrozenInstanceError):
    ex.value = 0
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(ex))
  halves = jax.tree.map(lambda leaf: leaf[:1], ex)
  assert isinstance(halves, bcos_jax.Explanation) and len(halves.value) == 1
  assert np.array_equal(ex.images, IMAGES)
  assert rel(ex.inputs, np.concatenate([IMAGES, 1 - IMAGES], -1)) <= 1e-6


# Hostile images.


@pytest.mark.parametrize(
  "name, preset", [("resnet_tiny", "v2"), ("resnet_tiny", "standard"), ("vitc_tiny", "v2")]
)
def test_black_and_white_images_are_explained(name, preset):
  model = tiny(name, PRESETS[preset], **({"depth": 1} if name == "vitc_tiny" else {}))
  images = np.stack([np.zeros_like(IMAGES[0]), np.ones_like(IMAGES[0]), IMAGES[0]])
  ex = bcos_jax.explain(model, filled(model), images)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ex))
  assert ex.completeness_error.max() <= 1e-5


def test_a_network_without_signal_is_explained_by_its_bias():
  """Complement encoding of colours 0 and nothing else: all inputs zero, all weights finite."""
  gray = Encoding((0.0,), (1.0,), "none")
  model = tiny("resnet_tiny", BcosOps(encoding=gray), stages=(1,))
  ex = bcos_jax.explain(model, filled(model), np.zeros((2, SIDE, SIDE, 1), np.float32))
  assert not ex.contributions.any() and np.isfinite(ex.weights).all()
  assert np.allclose(ex.value, LOGIT_BIAS) and np.allclose(ex.residual, LOGIT_BIAS)
  assert np.all(np.isfinite(ex.completeness_error))


def test_bfloat16_is_explained_in_float32():
  model = tiny("resnet_tiny", BcosOps.v2(dtype="bfloat16"))
  _, ex = _explained(model)
  assert all(leaf.dtype in (np.float32, np.int32) for leaf in jax.tree.leaves(ex))
  _, exact = _explained(MODEL)
  assert np.array_equal(ex.weights, exact.weights)
  assert _unexplained(ex) <= 2e-6


# Bad input.


def _bad_images():
  nan = IMAGES.copy()
  nan[1, 2, 3, 0] = np.nan
  infinite = IMAGES.copy()
  infinite[0, 0, 0, 0] = np.inf
  return {
    "normalised": ((IMAGES - 0.45) / 0.225, r"\[-1.*\[0, 1\]"),
    "8-bit values": (IMAGES * 255, r"span .*249\]"),
    "uint8": (np.uint8(IMAGES * 255), "uint8.*255"),
    "integers": (np.zeros((1, SIDE, SIDE, 3), int), "int64"),
    "NaN": (nan, "NaN"),
    "infinite": (infinite, "infinite"),
    "encoded": (np.concatenate([IMAGES, 1 - IMAGES], -1), r"\(3, 16, 16, 6\).*\[N, H, W, 3\]"),
    "one image": (IMAGES[0], r"shape \(16, 16, 3\).*images\[None\]"),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), r"\(3, 3, 16, 16\).*\[N, H, W, 3\]"),
    "no images": (IMAGES[:0], r"\(0, 16, 16, 3\)"),
    "slightly negative": (IMAGES - IMAGES.min() - 1e-3, r"span \[-0.00"),
  }


@pytest.mark.parametrize("case", _bad_images())
def test_bad_images_are_refused(case):
  images, message = _bad_images()[case]
  with pytest.raises(InputError, match=message) as caught:
    bcos_jax.explain(MODEL, filled(MODEL), images)
  assert "\n" not in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_other_floats_are_accepted(dtype):
  images = np.asarray(IMAGES, dtype)
  ex = bcos_jax.explain(MODEL, filled(MODEL), images)
  assert ex.images.dtype == ex.inputs.dtype == np.float32
  # The images are rounded by their dtype, and nothing else is.
  rounded = bcos_jax.explain(MODEL, filled(MODEL), np.asarray(images, np.float32))
  for field in ("images", "logits", "contributions"):
    assert np.array_equal(getattr(ex, field), getattr(rounded, field)), field


def test_ends_of_the_range_are_accepted():
  for end in (0.0, 1.0):
    bcos_jax.explain(MODEL, filled(MODEL), np.full((3, SIDE, SIDE, 3), end, np.float32))


@pytest.mark.parametrize(
  "target, message",
  [
    (CLASSES, "5 to 5.*0 to 4"),
    (-1, "-1"),
    (np.array([0, 1, 99]), "0 to 99"),
    (np.array([0, 1]), r"\(2,\).*\(3,\)"),
    (np.zeros((3, 2, 2), int), r"\(3, 2, 2\)"),
    (np.zeros((2, 3), int), r"\(2, 3\).*\(3,\)"),
    (1.0, "float64.*integers"),
    (np.array([0.0, 1.0, 2.0]), "float64"),
    (True, "bool"),
    ("cat", "integers"),
    (np.zeros((3, 0), int), r"\(3, 0\)"),
    (lambda y: y, None),
    (lambda y: y.sum(), r"function.*\(\).*\(3,\)"),
    (lambda y: y[:2, 0], r"function.*\(2,\)"),
    (lambda y: y[:, :, None], r"function.*\(3, 5, 1\)"),
  ],
)
def test_bad_targets_are_refused(target, message):
  if message is None:  # every class at once is a fine target
    ex = bcos_jax.explain(MODEL, filled(MODEL), IMAGES, target=target)
    assert ex.weights.shape == (3, CLASSES, SIDE, SIDE, 6)
    return
  with pytest.raises(InputError, match=message) as caught:
    bcos_jax.explain(MODEL, filled(MODEL), IMAGES, target=target)
  assert caught.value.fix


def test_variables_of_another_network_are_refused():
  others = filled(tiny("resnet_tiny", BcosOps.v2(), width=16))
  with pytest.raises(InputError, match=r"ResNet.*params/bn1/scale.*\(16,\).*\(8,\)") as caught:
    bcos_jax.explain(MODEL, others, IMAGES)
  assert len(str(caught.value)) < 1000
  for variables in ({}, filled(tiny("vitc_tiny", BcosOps.v2()))):
    with pytest.raises(InputError, match="params/conv1/kernel"):
      bcos_jax.explain(MODEL, variables, IMAGES)
  others = flat(filled(MODEL))
  others["params/conv9/kernel"] = others.pop("params/conv1/kernel")
  with pytest.raises(InputError, match="params/conv9/kernel"):
    bcos_jax.explain(MODEL, unflat(others), IMAGES)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2"])
def test_bad_batch_sizes_are_refused(batch_size):
  with pytest.raises(InputError, match=f"batch_size is {batch_size!r}"):
    bcos_jax.explain(MODEL, filled(MODEL), IMAGES, batch_size=batch_size)


def test_images_that_do_not_divide_into_patches():
  model = tiny("simple_vit_tiny", BcosOps())
  for target in (None, 1):
    with pytest.raises(InputError, match=r"12x12 pixels.*8x8"):
      bcos_jax.explain(model, filled(model), photos(1, side=12), target=target)


def test_losses_on_explanations_see_how_the_weights_depend_on_parameters():
  """The derivative of a loss on W(x), against finite differences along a random direction."""
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), image_size=16)
  images = np.random.RandomState(0).rand(2, 16, 16, 3).astype(np.float32)
  shapes = abstract_variables(model)
  rng = np.random.RandomState(1)
  variables = jax.tree.map(lambda s: np.float32(0.3 * rng.randn(*s.shape) + (s.ndim < 2)), shapes)
  direction = jax.tree.map(lambda p: np.float32(rng.randn(*p.shape)), variables["params"])

  @jax.jit
  def loss(params):
    with jax.default_matmul_precision("highest"):
      ex = bcos_jax.dynamic_linear(model, {**variables, "params": params}, images, 1)
    return 1e3 * (ex.weights**2).mean()

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  along = sum(map(lambda g, d: float((g * d).sum()), *map(jax.tree.leaves, (gradient, direction))))
  step = 1e-3
  ahead, behind = (
    float(loss(jax.tree.map(lambda p, d, s=s: p + s * d, variables["params"], direction)))
    for s in (step, -step)
  )
  np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=5e-3)  # of the differences
