"""Explanations of image-text similarity: completeness, closed forms, number of passes."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import StandardOps, TextTower, zero_shot
from bcos_jax.errors import InputError
from bcos_jax.io import bundles
from bcos_jax.models import ImageModel

from .. import tokenizers
from ..common import applied, filled, photos, rel

SIDE = 32
IMAGES = photos(3, side=SIDE)
NETWORKS = {
  "clip_test": {"projection": 16},
  "siglip_test": {},
  "clip_resnet_test": {"features": 16},
  "unpooled": {"features": 16, "pooling": "none"},
}


def bcosified(name):
  fields, name = NETWORKS[name], "clip_resnet_test" if name == "unpooled" else name
  model = bcos_jax.create(name, ops=StandardOps(), num_classes=0, **fields)
  return bcos_jax.bcosify(model, filled(model))


def directions(count, width, seed=0):
  x = np.random.RandomState(seed).standard_normal((count, width))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_contributions_and_residuals_sum_to_the_similarity(name):
  model, variables = bcosified(name)
  texts = directions(4, 32 if name == "siglip_test" else 16)
  # The length of a text's features does not matter.
  ex = bcos_jax.explain_text(model, variables, IMAGES, 3 * texts, batch_size=2)
  features = np.asarray(applied(model)(variables, IMAGES), np.float64)
  cosines = features / np.linalg.norm(features, axis=-1, keepdims=True) @ texts.T
  expected = cosines if cosines.ndim == 2 else cosines.mean(axis=(1, 2))
  assert ex.contributions.shape == (3, 4, SIDE, SIDE)
  assert rel(ex.value, expected) <= 1e-5
  total = ex.contributions.sum(axis=(-2, -1)) + sum(ex.residuals.values())
  assert rel(total, ex.value) <= 1e-5
  assert ex.completeness_error.max() <= 1e-5
  if name in ("clip_resnet_test", "unpooled"):  # no tokens and no positions: pixels are all
    assert rel(ex.contributions.sum(axis=(-2, -1)), ex.value) <= 1e-5


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_powers_of_cosines_are_explained_completely(reduce):
  model, variables = bcosified("unpooled")
  texts = directions(2, 16)
  ex = bcos_jax.explain_text(model, variables, IMAGES[:1], texts, power=3, reduce=reduce)
  cosines = np.asarray(applied(model)(variables, IMAGES[:1])) @ texts.T
  powers = cosines * np.abs(cosines) ** 2
  assert rel(ex.value, getattr(powers, reduce)(axis=(1, 2))) <= 1e-5
  assert rel(ex.contributions.sum(axis=(-2, -1)), ex.value) <= 1e-5


class Small(ImageModel):
  """One B-cos map of all pixels: its dynamic weights are known in closed form."""

  ops: bcos_jax.Ops
  image_size: int = 4
  num_classes = 0

  @nn.compact
  def __call__(self, x, train=False):
    return self.ops.dense(5, name="map")(x.reshape(len(x), -1))


def test_weights_are_those_of_the_closed_form():
  """Those of a text t are the sum of t_k s_k w_k / |f|, where s = |w.x| / |x| scales the map."""
  model = Small(ops=bcos_jax.BcosOps())
  variables, images, texts = filled(model), photos(2, side=4), directions(3, 5)
  ex = bcos_jax.explain_text(model, variables, images, texts)
  kernel = np.asarray(variables["params"]["map"]["kernel"], np.float64)
  x = np.asarray(model.ops.encoding(images), np.float64).reshape(2, -1)
  scale = np.abs(x @ kernel) / np.linalg.norm(x, axis=1, keepdims=True)
  length = np.linalg.norm(x @ kernel * scale, axis=1, keepdims=True)
  held = (scale / length)[:, None, :] * texts
  expected = np.einsum("npk,ik->npi", held, kernel).reshape(ex.weights.shape)
  assert rel(ex.weights, expected) <= 1e-5

  # The plain gradient of the cosine explains nothing.
  def cosine(x):
    y = model.clone(ops=model.ops.detached()).apply(variables, x)[0]
    return y @ jnp.asarray(texts[0], jnp.float32) / jnp.linalg.norm(y)

  encoded = model.ops.encoding(jnp.asarray(images[:1]))
  assert abs((jax.grad(cosine)(encoded) * encoded).sum()) <= 1e-5 * abs(ex.value[0, 0])


def test_other_texts_change_nothing_and_compile_nothing(monkeypatch):
  traced, similarity = [], zero_shot.Similarity.__call__
  monkeypatch.setattr(
    zero_shot.Similarity, "__call__", lambda *args: traced.append(1) or similarity(*args)
  )
  model, variables = bcosified("clip_resnet_test")
  # Five texts: a shape that no other test compiles.
  texts, others = directions(5, 16), directions(5, 16, seed=1)
  ex = bcos_jax.explain_text(model, variables, IMAGES[:2], texts)
  assert len(traced) == 1
  mixed = bcos_jax.explain_text(model, variables, IMAGES[:2], np.stack([*others[:2], *texts[2:]]))
  assert len(traced) == 1
  assert rel(mixed.contributions[:, 2:], ex.contributions[:, 2:]) <= 1e-6


def test_texts_are_read_by_their_tower(tmp_path):
  text = bcos_jax.create("siglip_text_test", ops=StandardOps())
  text_variables = jax.jit(text.init)(jax.random.key(0), np.zeros((1, 8), np.int32))
  bundle = bundles.make_bundle(text, text_variables)
  reader = TextTower.load(bundle, tokenizers.words(tmp_path))
  model, variables = bcosified("clip_resnet_test")
  prompts = ["a dog", "a cat"]
  ex = bcos_jax.explain_text(model, variables, IMAGES[:1], prompts, reader=reader)
  same = bcos_jax.explain_text(model, variables, IMAGES[:1], reader.features(prompts))
  assert np.array_equal(ex.contributions, same.contributions)
  with pytest.raises(InputError, match="reader=TextTower"):
    bcos_jax.explain_text(model, variables, IMAGES, prompts)


@pytest.mark.parametrize(
  "texts, fields, message",
  [
    (np.ones((2, 8)), {}, "16.*8"),
    (np.full((2, 16), np.inf), {}, "NaN.*row 0"),
    (np.ones(16), {}, r"expected floats \[P, D\]"),
    (np.ones((1, 16)), {"power": 0}, "power is 0"),
    (np.ones((1, 16)), {"reduce": "median"}, "'median'.*'mean'"),
    (np.ones((1, 16)), {"batch_size": 0}, "batch_size is 0"),
  ],
)
def test_it_names_what_is_wrong(texts, fields, message):
  model, variables = bcosified("clip_resnet_test")
  with pytest.raises(InputError, match=message):
    bcos_jax.explain_text(model, variables, IMAGES, texts, **fields)


def test_networks_without_features():
  classes = bcos_jax.create("clip_test", ops=StandardOps())
  with pytest.raises(InputError, match="10 classes"):
    bcos_jax.explain_text(classes, {}, IMAGES, np.ones((1, 16)))


def test_texts_share_one_forward_pass():
  model, variables = bcosified("clip_resnet_test")
  target = jax.tree_util.Partial(zero_shot.Similarity(hold=True), directions(4, 16))

  def flops(function):
    return jax.jit(function).lower(variables, IMAGES).compile().cost_analysis()["flops"]

  forward = flops(lambda v, x: model.apply(v, model.ops.encoding(x)))
  explained = flops(lambda v, x: bcos_jax.dynamic_linear(model, v, x, target))
  assert explained <= 1.1 * (1 + 4) * forward
