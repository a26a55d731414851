"""Zero-shot classification and retrieval, on small random towers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import StandardOps, TextTower, zero_shot
from bcos_jax.errors import InputError
from bcos_jax.io import bundles

from .. import tokenizers
from ..common import ROOT, applied, filled, photos, rel, suggestion

SIDE = 32
IMAGES = photos(3, side=SIDE)
NAMES = ["dog", "cat", "red car"]


def image_bundle(name="clip_test", **fields):
  model = bcos_jax.create(name, ops=StandardOps(), num_classes=0, **fields)
  return bundles.make_bundle(model, filled(model))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  model = bcos_jax.create("siglip_text_test", ops=StandardOps())
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8), np.int32))
  folder = tokenizers.words(tmp_path_factory.mktemp("tokenizer"))
  return TextTower.load(bundles.make_bundle(model, variables), folder)


@pytest.fixture(scope="module")
def image():
  return image_bundle()


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_clip_classifies_by_scaled_cosines(image, text):
  classifier = zero_shot.Towers.of(image, text).classifier(NAMES, ["a photo of a {}.", "the {}"])
  assert classifier.labels == tuple(NAMES) and classifier.text_features.shape == (3, 16)
  found = classifier.classify(IMAGES, batch_size=2)
  features = unit(np.asarray(applied(image.model)(image.variables, IMAGES)))
  logits = 100 * features @ classifier.text_features.T
  assert rel(found.logits, logits) <= 1e-5
  assert rel(found.probabilities, jax.nn.softmax(logits)) <= 1e-5
  assert np.array_equal(found.classes[:, 0], logits.argmax(axis=1))
  assert (np.take_along_axis(found.logits, found.classes, 1)[:, :-1] >= found.logits.min()).all()


def test_siglip_has_its_own_scale_and_bias_and_sigmoids(image, text):
  extras = {"logit_scale": np.full((1,), 2.0, np.float32), "logit_bias": np.array(-10.0)}
  beside = bundles.make_bundle(image.model, image.variables, extras=extras)
  towers = zero_shot.Towers.of(beside, text)
  assert towers.sigmoid and towers.bias == -10
  assert np.isclose(towers.scale, np.exp(2))
  found = towers.classifier(NAMES).classify(IMAGES)
  assert rel(found.probabilities, 1 / (1 + np.exp(-found.logits))) <= 1e-5
  features = towers.image_features(IMAGES)
  directions = towers.text_features([f"a photo of a {name}." for name in NAMES])
  expected = np.exp(2) * unit(features) @ directions.T - 10
  assert rel(found.logits, expected) <= 1e-5
  assert rel(towers.logits(features, directions), expected) <= 1e-5
  assert zero_shot.Towers.of(beside, text, scale=3.0, sigmoid=False).scale == 3


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_maps_count_powers_of_cosines(reduce, text):
  unpooled = image_bundle("clip_resnet_test", features=16, pooling="none")
  similarity = zero_shot.Similarity(power=3, reduce=reduce)
  towers = zero_shot.Towers.of(unpooled, text, similarity=similarity)
  found = towers.classifier(NAMES).classify(IMAGES[:1])
  maps = towers.image_features(IMAGES[:1])
  assert maps.shape == (1, 4, 4, 16)
  cosines = maps @ towers.text_features([f"a photo of a {name}." for name in NAMES]).T
  powers = cosines * np.abs(cosines) ** 2
  assert rel(found.logits, 100 * getattr(powers, reduce)(axis=(1, 2))) <= 1e-5


def test_holding_changes_the_gradient_only():
  seeded = np.random.RandomState(0)
  texts, maps = unit(seeded.standard_normal((2, 5))), seeded.standard_normal((1, 2, 2, 5))
  plain, held = (zero_shot.Similarity(2, "sum", hold=hold) for hold in (False, True))
  assert rel(held(texts, maps), plain(texts, maps)) <= 1e-6
  gradient = jax.grad(lambda x: held(texts, x)[0, 0])(jnp.asarray(maps))
  directions = unit(maps)
  cosines = np.abs(directions @ texts[0])[..., None]
  expected = texts[0] * cosines / np.linalg.norm(maps, axis=-1, keepdims=True)
  assert rel(gradient, expected) <= 1e-5
  assert abs((gradient * maps).sum() / held(texts, maps)[0, 0] - 1) <= 1e-5


def test_retrieval():
  scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.3]])
  columns, best = zero_shot.retrieve(scores, k=2)
  assert columns.tolist() == [[0, 2], [1, 2]] and best.tolist() == [[0.9, 0.5], [0.3, 0.3]]
  rows, _ = zero_shot.retrieve(scores.T, k=1)
  assert rows.tolist() == [[0], [1], [0]]
  found = zero_shot.recall(scores, [0, 1, 1], ks=(1, 2))
  assert found == {
    "image_to_text@1": 1.0,  # one of the second image's two texts is enough
    "image_to_text@2": 1.0,
    "text_to_image@1": 2 / 3,
    "text_to_image@2": 1.0,
  }
  # Where all scores are equal, nothing is found.
  assert set(zero_shot.recall(np.ones((3, 3)), [0, 1, 2], ks=(1, 2)).values()) == {0.0}
  # An image without a text is not asked for one.
  assert zero_shot.recall(scores, [0, 0, 0], ks=(1,))["image_to_text@1"] == 1


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda s: zero_shot.retrieve(s, 4), "k is 4, expected 1 to 3"),
    (lambda s: zero_shot.retrieve(s[0]), r"\(3,\).*\[N, P\]"),
    (lambda s: zero_shot.retrieve(s * np.nan, 1), r"\(2, 3\).*finite.*\[N, P\]"),
    (lambda s: zero_shot.recall(s, [0, 1]), r"expected integers \(3,\)"),
    (lambda s: zero_shot.recall(s, [0, 1, 2], ks=(1,)), "spans 0 to 2, expected 0 to 1"),
    (lambda s: zero_shot.recall(s, [0, 1, 1]), "k is 5"),
  ],
)
def test_retrieval_names_what_is_wrong(call, message):
  with pytest.raises(InputError, match=message):
    call(np.ones((2, 3)))


def test_towers_that_do_not_fit(image, text):
  with pytest.raises(InputError, match=r"width 24.* 16"):
    zero_shot.Towers.of(image_bundle(projection=24), text)
  classes = bcos_jax.create("clip_test", ops=StandardOps())
  with pytest.raises(InputError, match="10 classes"):
    zero_shot.Towers.of(bundles.make_bundle(classes, filled(classes)), text)
  towers = zero_shot.Towers.of(image, text)
  with pytest.raises(InputError, match="scale is -1"):
    zero_shot.Towers.of(image, text, scale=-1)
  with pytest.raises(InputError, match=r"width 16.* 4"):
    towers.logits(np.ones((1, 16)), np.ones((2, 4)))
  both = {"model": image.model, "variables": image.variables}
  with pytest.raises(InputError, match=r"1 labels.*2 rows"):
    zero_shot.ZeroShot(**both, text_features=np.ones((2, 16)), labels=("dog",))
  narrow = zero_shot.ZeroShot(**both, text_features=np.ones((1, 4)), labels=("dog",))
  with pytest.raises(InputError, match=r"width 16.* 4"):
    narrow.classify(IMAGES)
  with pytest.raises(InputError, match=r"TextTransformer.*images"):
    zero_shot.image_features(text.model, text.variables, IMAGES)


@pytest.mark.parametrize(
  "fields, message", [({"power": 0.5}, "power is 0.5"), ({"reduce": "meen"}, suggestion("mean"))]
)
def test_similarities_that_do_not_exist(fields, message):
  with pytest.raises(InputError, match=message):
    zero_shot.Similarity(**fields)


def test_the_page_runs(image, tmp_path, monkeypatch, capsys):
  model = bcos_jax.create("siglip_text_test", ops=StandardOps(), context_length=24)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 24), np.int32))
  bcos_jax.save(tmp_path / "bundles" / "clip_text", model, variables)
  bcos_jax.save(tmp_path / "bundles" / "clip_image", image.model, image.variables)
  tokenizers.words(tmp_path / "tokenizers" / "clip")
  page = (ROOT / "docs" / "zero_shot.md").read_text(encoding="utf-8")
  blocks = re.findall(r"```python\n(.*?)```", page, re.S)
  assert len(blocks) == 3
  monkeypatch.chdir(tmp_path)
  exec(compile("\n".join(blocks), "zero_shot.md", "exec"), {"images": IMAGES[:2]})
  assert (tmp_path / "texts.png").exists()
  assert "(2, 2, 32, 32)" in capsys.readouterr().out
