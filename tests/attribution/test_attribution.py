"""Post-hoc attributions: closed forms on small networks, what their theory promises, bad input."""

import functools
import itertools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, attribution
from bcos_jax.attribution.perturbation import draw_grids
from bcos_jax.errors import InputError
from bcos_jax.models.blocks import Attention

from ..common import CLASSES, SIDE, applied, filled, photos, rel, suggestion, tiny

IMAGES = photos(3)
TARGETS = np.array([[0, 4], [1, 1], [3, 2]])
PATCH = 8
# Small settings: what they are about is tested below.
SETTINGS = {
  "integrated_gradients": {"steps": 5},
  "smooth_grad": {"samples": 3},
  "occlusion": {"window": 8, "stride": 5},
  "rise": {"masks": 7, "grid": 3, "keep": 0.5},
  "lime": {"samples": 7, "segments": PATCH},
  "kernel_shap": {"samples": 9, "segments": PATCH},
  "grad_cam": {"layer": "conv2"},
}
TRANSFORMERS = ("attention_rollout", "chefer", "legrad", "attn_lrp")


class Linear(nn.Module):
  """One map of all pixels: whatever a method does, its result is known."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    return self.ops.dense(CLASSES, name="map")(x.reshape(len(x), -1))


class Gated(nn.Module):
  """Two maps with a ReLU between them, which belongs to the second."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    y = self.ops.dense(6, name="first")(x.reshape(len(x), -1))
    return self.ops.dense(CLASSES, gate="relu", name="second")(y)


class Small(nn.Module):
  """A small network of every kind of layer that a rule replaces."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    ops = self.ops
    x = ops.act(ops.batch_norm(name="norm")(ops.conv(4, 3, 2, name="conv1")(x)), "relu")
    x = ops.act(ops.conv(4, 3, use_bias=True, name="conv2")(ops.spatial_pool(x)), "gelu")
    return ops.readout(ops.classifier(CLASSES, name="head"), x)


class Attending(nn.Module):
  """Attention alone, read out by the mean."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    x = self.ops.linear(8, use_bias=False, name="embed")(x.reshape(len(x), -1, x.shape[-1]))
    x = Attention(self.ops, 2, fused=True, use_bias=False, out_bias=False, name="attn")(x)
    return self.ops.linear(CLASSES, use_bias=False, name="head")(x.mean(1))


@functools.cache
def network(cls, ops=None):
  """Returns a network and variables for images of `SIDE` pixels."""
  model = cls(ops or StandardOps())
  image = np.zeros((1, SIDE, SIDE, model.ops.encoding.channels), np.float32)
  leaves = jax.eval_shape(model.init, jax.random.key(0), image)
  random = np.random.RandomState(0)
  variables = jax.tree.map(lambda leaf: random.randn(*leaf.shape).astype("f"), leaves)
  if "batch_stats" in variables:
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  return model, variables


@functools.cache
def transformer(name="vit_test"):
  model = tiny(name, StandardOps(), depth=2)
  return model, filled(model)


def linear_parts(baseline=0.0):
  """Returns gradients and contributions of the linear network, each [N, K, H, W, channels]."""
  model, variables = network(Linear)
  kernel = variables["params"]["map"]["kernel"]
  weights = kernel.T[TARGETS].reshape(3, 2, SIDE, SIDE, 3)
  inputs = np.asarray(model.ops.encoding(IMAGES))
  return weights, (inputs - baseline)[:, None] * weights


def ask(name, cls=Linear, targets=TARGETS, images=IMAGES, **settings):
  model, variables = cls if isinstance(cls, tuple) else network(cls)
  return attribution.METHODS[name](model, variables, images, targets, **settings)


def change(network, baseline=0.0, targets=TARGETS):
  """Returns by how much the targets change from the baseline, [N, K]."""
  model, variables = network
  inputs = model.ops.encoding(IMAGES)
  apply = jax.jit(model.apply)
  values = apply(variables, inputs) - apply(variables, jnp.full_like(inputs, baseline))
  return np.take_along_axis(np.asarray(values), targets, axis=1)


def patches(maps):
  """Returns sums over square patches, [..., rows, columns]."""
  split = (SIDE // PATCH, PATCH, SIDE // PATCH, PATCH)
  return maps.reshape(*maps.shape[:-2], *split).sum((-3, -1))


def enlarged(sums):
  return np.kron(sums, np.ones((PATCH, PATCH)))


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_methods_that_sum_agree_on_a_linear_network(baseline):
  _, parts = linear_parts(baseline)
  expected = parts.sum(-1)
  # float32 sums of some terms; nothing is approximated.
  assert rel(ask("integrated_gradients", baseline=baseline, steps=3), expected) < 1e-5
  assert rel(ask("deep_lift", baseline=baseline), expected) < 1e-5
  sums = enlarged(patches(expected))
  settings = {"baseline": baseline, "batch_size": 7}
  shap = ask("kernel_shap", samples=14, segments=PATCH, **settings)
  assert rel(shap, sums / PATCH**2) < 1e-5
  lime = ask("lime", samples=60, segments=PATCH, ridge=1e-9, score="logit", **settings)
  assert rel(lime, sums) < 1e-5
  tiles = {"window": PATCH, "stride": PATCH, **settings}
  assert rel(ask("occlusion", **tiles), sums) < 1e-5
  assert rel(ask("occlusion", overlap="share", **tiles), sums / PATCH**2) < 1e-5


def test_gradients_of_a_linear_network():
  weights, parts = linear_parts()
  assert rel(ask("input_x_gradient"), parts.sum(-1)) < 1e-6
  assert rel(ask("saliency"), np.abs(weights).max(-1)) < 1e-6
  assert rel(ask("saliency", signed=True), weights.sum(-1)) < 1e-6
  assert rel(ask("smooth_grad", samples=3), np.abs(weights).max(-1)) < 1e-5
  assert rel(ask("smooth_grad", samples=3, signed=True), weights.sum(-1)) < 1e-5


def test_occlusion_by_overlapping_windows():
  _, parts = linear_parts()
  parts, window, stride = parts.sum(-1), 6, 4
  mean, share = np.zeros((2, *parts.shape))
  covered = np.zeros((SIDE, SIDE))
  for y, x in itertools.product(range(0, SIDE, stride), repeat=2):  # the last windows are cut
    place = (..., slice(y, y + window), slice(x, x + window))
    drop = parts[place].sum((-2, -1), keepdims=True)
    mean[place] += drop
    share[place] += drop / parts[place][0, 0].size
    covered[place] += 1
  settings = {"window": window, "stride": stride}
  assert rel(ask("occlusion", **settings), mean / covered) < 1e-5
  found = ask("occlusion", overlap="share", **settings)
  assert rel(found, share) < 1e-5


def test_guided_backprop_by_hand():
  model, variables = network(Gated)
  first, second = (variables["params"][name] for name in ("first", "second"))
  x = np.asarray(model.ops.encoding(IMAGES)).reshape(3, -1)
  on = x @ first["kernel"] + first["bias"] > 0
  passed = on[:, None] * np.maximum(second["kernel"].T[TARGETS], 0)
  expected = (passed @ first["kernel"].T).reshape(3, 2, SIDE, SIDE, 3).sum(-1)
  assert rel(ask("guided_backprop", Gated), expected) < 1e-5
  assert rel(ask("saliency", Gated, signed=True), expected) > 0.1


def test_deep_lift_by_hand():
  model, variables = network(Gated)
  first, second = (variables["params"][name] for name in ("first", "second"))
  x = np.asarray(model.ops.encoding(IMAGES)).reshape(3, -1)
  y, reference = x @ first["kernel"] + first["bias"], first["bias"]
  slope = (np.maximum(y, 0) - np.maximum(reference, 0)) / (y - reference)
  passed = slope[:, None] * second["kernel"].T[TARGETS]
  expected = x[:, None] * (passed @ first["kernel"].T)
  expected = expected.reshape(3, 2, SIDE, SIDE, 3).sum(-1)
  assert rel(ask("deep_lift", Gated), expected) < 1e-5


@pytest.mark.parametrize("made", ["small", "resnet_tiny", "vgg_tiny"])
def test_deep_lift_sums_to_the_change(made):
  own = network(Small)
  if made != "small":
    model = tiny(made, StandardOps())
    own = model, filled(model)
  maps, expected = ask("deep_lift", own, baseline=0.3), change(own, 0.3)
  # Only rounding is left, relative to the mass that cancels.
  error = np.abs(maps.sum((-2, -1)) - expected) / np.abs(maps).sum((-2, -1))
  assert error.max() < 1e-5


def test_integrated_gradients_sum_to_the_change():
  own = network(Attending)
  expected = change(own, 0.3)
  errors = [
    rel(ask("integrated_gradients", own, baseline=0.3, steps=n).sum((-2, -1)), expected)
    for n in (2, 64)
  ]
  assert errors[0] > 1e-2 and errors[1] < 1e-4, errors


def shapley_by_definition(values, parts):
  """values: function of a tuple of present parts -> [K]."""
  found = []
  for part in range(parts):
    rest = [p for p in range(parts) if p != part]
    share = 0
    for size in range(parts):
      for group in itertools.combinations(rest, size):
        gain = values(tuple(sorted((*group, part)))) - values(group)
        share = share + gain / (parts * math.comb(parts - 1, size))
    found.append(share)
  return np.array(found)


def test_kernel_shap_is_exact_if_all_coalitions_are_seen():
  own = model, variables = network(Small)
  apply = jax.jit(model.apply)
  maps = ask("kernel_shap", own, segments=PATCH, samples=14)
  x = np.asarray(model.ops.encoding(IMAGES[:1]))

  @functools.cache
  def values(present):
    mask = enlarged(np.isin(np.arange(4), present).reshape(2, 2))[..., None]
    return np.asarray(apply(variables, x * mask.astype("f")), np.float64)[0, TARGETS[0]]

  expected = shapley_by_definition(values, 4)
  assert rel(patches(maps[0]).reshape(2, 4).T, expected) < 1e-5
  # Sampled, the values still sum to the change.
  sampled = ask("kernel_shap", own, segments=4, samples=20)
  np.testing.assert_allclose(sampled.sum((-2, -1)), change(own), rtol=1e-5, atol=1e-5)


def test_sampled_coalitions_come_near_the_shapley_values():
  # 16 parts: far fewer samples than coalitions. A linear network has no interactions to miss.
  _, parts = linear_parts()
  sums = parts.sum(-1).reshape(3, 2, 4, 4, 4, 4).sum((3, 5))
  maps = ask("kernel_shap", segments=4, samples=60)
  assert rel(maps[..., ::4, ::4] * 16, sums) < 1e-5


def test_parts_may_have_any_form():
  segments = np.zeros((3, SIDE, SIDE), int)
  segments[0, :5] = 7
  segments[1, :, 3:] = -1
  segments[1, 2:4, 2:9] = 3
  _, parts = linear_parts()
  for name, size in (("kernel_shap", True), ("lime", False)):
    settings = {"ridge": 1e-9, "score": "logit"} if name == "lime" else {}
    maps = ask(name, segments=segments, samples=40, **settings)
    for own, found, part in zip(segments, maps, parts.sum(-1), strict=True):
      for number in np.unique(own)[: None if size else 3]:
        if not size and len(np.unique(own)) == 1:
          continue  # a part that is always present says nothing to a regression
        inside = own == number
        expected = part[:, inside].sum(-1) / (inside.sum() if size else 1)
        np.testing.assert_allclose(found[:, inside].T, [expected] * inside.sum(), rtol=1e-4)


def test_lime_marks_the_parts_of_the_largest_positive_coefficients():
  settings = {"segments": 4, "samples": 50, "score": "logit"}
  weights, marked = ask("lime", **settings), ask("lime", top=3, **settings)
  for row, mark in zip(weights[..., ::4, ::4].reshape(6, 16), marked.reshape(6, -1), strict=True):
    assert set(np.unique(mark)) == {0.0, 1.0}
    third = np.sort(row)[-3]
    np.testing.assert_array_equal(
      mark.reshape(SIDE, SIDE)[::4, ::4].ravel() > 0, row >= max(third, 1e-9)
    )


def test_rise_by_its_definition():
  own = model, variables = network(Small)
  settings = {"masks": 9, "grid": 3, "keep": 0.4}
  grids, rows, columns = draw_grids((SIDE, SIDE), *settings.values(), seed=5)
  masks = np.einsum("mhi,mij,mwj->mhw", rows, grids, columns)
  assert 0 <= masks.min() and masks.max() <= 1 and 0.2 < masks.mean() < 0.6
  x = np.asarray(model.ops.encoding(IMAGES))
  logits = jax.vmap(lambda mask: model.apply(variables, x * mask[..., None]))(masks)
  seen = np.take_along_axis(np.asarray(logits), TARGETS[None], axis=2)
  expected = np.einsum("mnk,mhw->nkhw", 1 / (1 + np.exp(-seen)), masks) / (9 * 0.4)
  assert rel(ask("rise", own, seed=5, **settings), expected) < 1e-5


def test_grad_cam_of_a_mean_pooled_network_is_its_class_activation_map():
  model = tiny("resnet_tiny", StandardOps())
  variables = filled(model)
  capture = functools.partial(
    model.apply,
    capture_intermediates=lambda module, _: module.name == "layer2_0",
    mutable="intermediates",
  )
  _, seen = jax.jit(capture)(variables, model.ops.encoding(IMAGES))
  (features,) = seen["intermediates"]["layer2_0"]["__call__"]
  weights = variables["params"]["head"]["kernel"].T[TARGETS]
  signed = np.einsum("nhwd,nkd->nkhw", features, weights) / np.prod(features.shape[1:3])
  scale = SIDE // signed.shape[-1]
  expected = np.kron(signed, np.ones((scale, scale)))
  own = model, variables
  assert rel(ask("grad_cam", own, relu=False), expected) < 1e-5
  assert rel(ask("grad_cam", own, layer="layer2_0"), np.maximum(expected, 0)) < 1e-5
  # Another layer has another resolution.
  assert rel(ask("grad_cam", own, layer="layer1_0", relu=False), expected) > 0.1


@pytest.mark.parametrize("name", ["vit_test", "siglip_test"])
def test_rollout_of_attention_that_sees_all_alike_is_flat(name):
  model = tiny(name, StandardOps())
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      np.zeros_like(leaf) if any(k.key in ("query", "key", "qkv") for k in path) else leaf
    ),
    filled(model),
  )
  maps = ask("attention_rollout", (model, variables))
  np.testing.assert_allclose(maps, maps[0, 0, 0, 0], rtol=1e-5)
  assert maps[0, 0, 0, 0] > 0


def test_rollout_with_nothing_but_the_residual_sees_no_patch_from_a_class_token():
  assert not ask("attention_rollout", transformer(), residual=1.0).any()


def test_a_network_that_ignores_attention_has_no_gradient_at_it():
  model, variables = transformer()
  silent = jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.zeros_like(leaf) if any(k.key == "value" for k in path) else leaf,
    variables,
  )
  # No values: the weights of attention change nothing. LeGrad sees a bias of values alone.
  for name in ("chefer", "legrad"):
    assert not np.any(ask(name, (model, silent))), name
    assert np.any(ask(name, (model, variables))), name


def test_maps_of_patches_leave_pixels_that_fill_no_patch_empty():
  model = tiny("vit_test", StandardOps())
  maps = ask("chefer", (model, filled(model)), images=photos(3, 20)[:, :18, :19], resize="nearest")
  assert maps.shape == (3, 2, 18, 19)
  assert not maps[..., 16:, :].any() and not maps[..., 16:].any()
  blocks = maps[..., :16, :16].reshape(3, 2, 4, 4, 4, 4)
  np.testing.assert_array_equal(blocks, blocks[:, :, :, :1, :, :1] * np.ones((4, 1, 4)))


def test_cp_lrp_is_the_explanation_of_the_conventional_network():
  model, variables = network(Attending)
  expected = bcos_jax.explain(model, variables, IMAGES, TARGETS).contributions
  assert rel(ask("attn_lrp", (model, variables), rule="cp_lrp"), expected) < 1e-5
  assert rel(ask("attn_lrp", (model, variables)), expected) > 0.1


def test_attn_lrp_halves_what_comes_through_values():
  own = model, variables = network(Attending)
  blind = jax.tree.map(np.copy, variables)
  blind["params"]["attn"]["qkv"]["kernel"][:, :16] = 0  # no queries, no keys: uniform attention
  own = model, blind
  assert rel(ask("attn_lrp", own), 0.5 * ask("input_x_gradient", own)) < 1e-5


@pytest.mark.parametrize("name", attribution.names())
def test_maps_depend_neither_on_batches_nor_on_other_targets(name):
  own = transformer() if name in TRANSFORMERS else network(Small)
  settings = SETTINGS.get(name, {})
  maps = ask(name, own, **settings)
  assert maps.shape == (3, 2, SIDE, SIDE) and maps.dtype == np.float32
  assert np.isfinite(maps).all() and maps.any()
  again = ask(name, own, targets=TARGETS[:, 1], batch_size=2, **settings)
  assert again.shape == (3, SIDE, SIDE)
  # The same sums in batches of another size, in another order.
  assert rel(again, maps[:, 1]) < 2e-5


@pytest.mark.parametrize("name", ["smooth_grad", "rise", "lime", "kernel_shap"])
def test_random_methods_follow_their_seed(name):
  settings = dict(SETTINGS[name], **({"segments": 4} if "segments" in SETTINGS[name] else {}))
  first, same, other = (ask(name, Small, seed=seed, **settings) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, same)
  assert rel(other, first) > 1e-3


def test_targets_as_for_explain():
  own = model, variables = network(Small)
  classes = np.asarray(applied(model)(variables, IMAGES)).argmax(1)
  found = ask("input_x_gradient", own, targets=None)
  np.testing.assert_array_equal(found, ask("input_x_gradient", own, targets=classes))
  one = ask("input_x_gradient", own, targets=2)
  np.testing.assert_array_equal(one, ask("input_x_gradient", own, targets=[2, 2, 2]))
  both = ask("input_x_gradient", own, targets=np.array([[2, 0]] * 3))
  for name in ("input_x_gradient", "occlusion"):
    settings = SETTINGS.get(name, {})
    margin = ask(name, own, targets=_margin, **settings)
    both = ask(name, own, targets=np.array([[2, 0]] * 3), **settings)
    assert rel(margin, both[:, 0] - both[:, 1]) < 1e-5


def _margin(logits):
  return logits[:, 2] - logits[:, 0]


def test_probabilities_may_be_explained():
  own = model, variables = network(Small)
  maps = ask("occlusion", own, window=SIDE, stride=SIDE, score="softmax")
  values = [nn.softmax(model.apply(variables, x)) for x in (model.ops.encoding(IMAGES),)]
  empty = nn.softmax(model.apply(variables, np.zeros((3, SIDE, SIDE, 3), np.float32)))
  expected = np.take_along_axis(np.asarray(values[0] - empty), TARGETS, axis=1)
  np.testing.assert_allclose(maps[..., 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["guided_backprop", "deep_lift", "rise", "grad_cam"])
def test_bcos_networks_have_post_hoc_attributions_too(name):
  maps = ask(name, network(Small, BcosOps()), **SETTINGS.get(name, {}))
  assert maps.shape == (3, 2, SIDE, SIDE) and np.isfinite(maps).all() and maps.any()


def test_replaced_rules_change_no_output():
  for rules in (attribution.families.Guided, attribution.families.HalvedProducts):
    for model, variables in (network(Small), transformer()):
      other = model.clone(ops=attribution.families.replaced(model.ops, rules))
      assert other == model.clone(ops=attribution.families.replaced(model.ops, rules))
      np.testing.assert_array_equal(
        *(np.asarray(applied(m)(variables, IMAGES)) for m in (model, other))
      )


def test_progress_wraps_the_batches():
  seen = []
  ask("occlusion", batch_size=5, progress=lambda r: seen.extend(r) or r, window=8, stride=8)
  assert seen == [0, 5, 10]  # 3 images x (4 windows + the whole image)


def test_methods_are_found_by_name():
  model, variables = network(Linear)
  attribute = attribution.attribute_with("saliency", model, variables, signed=True)
  np.testing.assert_array_equal(attribute(IMAGES, TARGETS), ask("saliency", signed=True))
  with pytest.raises(InputError, match=suggestion("saliency")):
    attribution.attribute_with("salency", model, variables)
  with pytest.raises(InputError, match=suggestion("steps")):
    attribution.attribute_with("integrated_gradients", model, variables, step=3)


def test_quickshift_parts_are_connected_to_colour():
  image = np.zeros((1, 12, 20, 3), np.float32)
  image[:, :, 10:] = 1
  parts = attribution.quickshift(image, kernel_size=2, max_distance=8)
  assert parts.shape == (1, 12, 20) and parts.min() == 0
  assert not set(np.unique(parts[0, :, :10])) & set(np.unique(parts[0, :, 10:]))
  joined = attribution.quickshift(image, kernel_size=4, max_distance=200)
  assert joined.max() < parts.max()


BAD = [
  ("saliency", {"images": IMAGES * 255}, r"expected \[0, 1\]"),
  ("saliency", {"images": IMAGES[0]}, r"expected \[N, H, W, 3\]"),
  ("saliency", {"targets": 5}, "expected 0 to 4"),
  ("saliency", {"targets": [0, 1]}, "for 3 images"),
  ("saliency", {"batch_size": 0}, "batch_size is 0"),
  ("saliency", {"progress": True}, "progress is True"),
  ("integrated_gradients", {"steps": 0}, "steps is 0"),
  ("integrated_gradients", {"baseline": np.zeros(4)}, "baseline has shape"),
  ("integrated_gradients", {"baseline": np.nan}, "baseline contains NaN"),
  ("smooth_grad", {"noise": -1}, "noise is -1"),
  ("smooth_grad", {"seed": -1}, "seed is -1"),
  ("deep_lift", {"baseline": "black"}, "baseline"),
  ("occlusion", {"window": 4, "stride": 8}, "stride is 8.*4"),
  ("occlusion", {"overlap": "means"}, suggestion("mean")),
  ("occlusion", {"score": "logits"}, suggestion("logit")),
  ("rise", {"keep": 0}, "keep is 0"),
  ("rise", {"masks": 2.5}, "masks is 2.5"),
  ("lime", {"segments": np.zeros((3, 4, 4), int)}, "segments are int64 of shape"),
  ("lime", {"segments": np.zeros((SIDE, SIDE))}, "expected integers"),
  ("lime", {"kernel_width": 0}, "kernel_width is 0"),
  ("lime", {"top": 0}, "top is 0"),
  ("kernel_shap", {"samples": 0}, "samples is 0"),
  ("guided_backprop", {}, "ReLU.*Linear"),
  ("grad_cam", {}, "Grad-CAM.*Linear"),
  ("grad_cam", {"layer": "mapp"}, suggestion("map")),
  ("grad_cam", {"layer": "map"}, r"returns shape \(1, 5\)"),
  ("grad_cam", {"resize": "linear"}, suggestion("bilinear")),
  ("attention_rollout", {}, "rollout.*Linear"),
  ("attention_rollout", {"residual": 2}, "residual is 2"),
  ("chefer", {}, "got Linear"),
  ("legrad", {}, "Use grad_cam"),
  ("attn_lrp", {}, "AttnLRP.*Linear"),
  ("attn_lrp", {"rule": "attn"}, suggestion("attn_lrp")),
]


@pytest.mark.parametrize(("name", "given", "message"), BAD)
def test_bad_input(name, given, message):
  with pytest.raises(InputError, match=message):
    ask(name, **given)


def test_networks_that_a_method_does_not_fit():
  swin = tiny("swin_test", StandardOps())
  with pytest.raises(InputError, match="got Swin"):
    ask("legrad", (swin, filled(swin)))
  tower = tiny("resnet_tiny", StandardOps())
  with pytest.raises(InputError, match=r"ResNet.*params/conv1/kernel"):
    ask("saliency", (tower, network(Linear)[1]))
