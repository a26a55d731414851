"""Tokenizers and text towers: return values and refusals."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import StandardOps, TextTower
from bcos_jax.errors import InputError
from bcos_jax.io import bundles
from bcos_jax.text import towers
from bcos_jax.text.tokenizer import load_tokenizer
from bcos_jax.zero_shot import templates

from .. import tokenizers
from ..common import rel

LENGTH = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizers")
  return {"clip": tokenizers.clip(folder / "clip"), "siglip": tokenizers.words(folder / "siglip")}


def network(family, **fields):
  return bcos_jax.create(
    f"{family}_text_test", ops=StandardOps(), **{"context_length": LENGTH, **fields}
  )


def tower(family, folder, **fields):
  model = network(family, **fields)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, LENGTH), np.int32))
  bundle = bundles.make_bundle(model, variables)
  return TextTower.load(bundle, folder)


def test_clip_ends_texts_with_its_end_token_and_pads(folders):
  ids = load_tokenizer(folders["clip"], network("clip"))(["A dog", "cat"])
  assert ids.dtype == np.int32 and ids.shape == (2, LENGTH)
  start, end = 48, tokenizers.CLIP_END
  # One token per letter of this vocabulary.
  assert ids[:, 0].tolist() == [start] * 2
  assert (ids == end).argmax(axis=1).tolist() == [5, 4]
  assert (ids[0, 5:] == end).all()


def test_siglip_pads_to_its_context_and_writes_in_lower_case(folders):
  model = network("siglip")
  tokenizer = load_tokenizer(folders["siglip"], model)
  dog, stop = (3 + tokenizers.WORDS.split().index(word) for word in ("dog", "."))
  assert tokenizer(["  DOG. "]).tolist() == [[dog, stop, 1, *[0] * (LENGTH - 3)]]
  bare = load_tokenizer(folders["siglip"], model, casing="bare")
  assert bare(["Dog."]).tolist() == [[dog, 1, *[0] * (LENGTH - 2)]]
  given = load_tokenizer(folders["siglip"], model, casing="given")
  assert given(["Dog"])[0, 0] == 2  # an unknown word
  assert load_tokenizer(folders["siglip"], model, length=4)(["dog"]).shape == (1, 4)


def test_long_texts_are_cut_only_where_asked_for(folders):
  tokenizer = load_tokenizer(folders["siglip"], network("siglip"))
  long = " ".join(["a"] * 20)
  with pytest.raises(InputError, match=rf"Text 1 .* has 21 tokens, expected at most {LENGTH}"):
    tokenizer(["dog", long])
  cut = dataclasses.replace(tokenizer, truncate=True)(["dog", long])
  assert cut.shape == (2, LENGTH) and cut[1, -1] == tokenizers.SIGLIP_END


@pytest.mark.parametrize(
  "given, message",
  [
    (["dog", " "], "Text 1 .* is empty"),
    ([""], "Text 0 .* is empty"),
    (["dog", "..."], "Text 1 .* is empty"),
    ("dog", "at least one"),
    ([], "at least one"),
    (["dog", 3], "at least one"),
  ],
)
def test_texts_that_are_none(given, message, folders):
  tokenizer = load_tokenizer(folders["siglip"], network("siglip"), casing="bare")
  with pytest.raises(InputError, match=message):
    tokenizer(given)


@pytest.mark.parametrize(
  "family, source, fields, message",
  [
    ("clip", "clip", {"vocab_size": 40}, "has 50 ids, the text tower 40"),
    ("clip", "clip", {"vocab_size": 100}, "has 50 ids, the text tower 100"),
    ("clip", "clip", {"pool": "eos", "eos_token": 7}, "id 49 .*, the text tower expects 7"),
    ("clip", "siglip", {}, "id 1 .*, the text tower expects 49"),
  ],
)
def test_tokenizers_that_do_not_fit(family, source, fields, message, folders):
  with pytest.raises(InputError, match=message):
    load_tokenizer(folders[source], network(family, **fields))


def test_a_padded_table_fits(folders):
  load_tokenizer(folders["clip"], network("clip", vocab_size=52, pool="eos"))


def test_what_is_no_tokenizer(folders, tmp_path):
  model = network("siglip")
  with pytest.raises(InputError, match="No folder at"):
    load_tokenizer(tmp_path / "none", model)
  with pytest.raises(InputError, match="no tokenizer"):
    load_tokenizer(tmp_path, model)
  damaged = pathlib.Path(tmp_path / "damaged")
  damaged.mkdir()
  (damaged / "tokenizer.json").write_text("{")
  with pytest.raises(InputError, match="no tokenizer"):
    load_tokenizer(damaged, model)
  with pytest.raises(InputError, match="pad_token"):
    load_tokenizer(tokenizers.words(tmp_path / "unpadded", pad=None), model)
  with pytest.raises(InputError, match="Unknown casing 'upper'"):
    load_tokenizer(folders["siglip"], model, casing="upper")
  with pytest.raises(InputError, match="length is 17, expected 1 to 16"):
    load_tokenizer(folders["siglip"], model, length=17)
  image = bcos_jax.create("clip_test", ops=StandardOps(), num_classes=0)
  with pytest.raises(InputError, match=r"VisionTransformer.*text"):
    load_tokenizer(folders["clip"], image)


def test_features_are_directions_and_do_not_depend_on_the_batch(folders):
  reader = tower("clip", folders["clip"])
  prompts = ["a dog", "a cat", "sky"]
  features = reader.features(prompts)
  assert features.shape == (3, 16) and features.dtype == np.float32
  assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
  assert rel(reader.features(prompts, batch_size=2), features) <= 1e-6
  raw = np.asarray(reader.model.apply(reader.variables, reader.tokenizer(prompts)))
  assert rel(raw / np.linalg.norm(raw, axis=1, keepdims=True), features) <= 1e-6
  with pytest.raises(InputError, match="batch_size is 0"):
    reader.features(prompts, batch_size=0)


def test_class_features_are_means_of_directions(folders):
  reader = tower("siglip", folders["siglip"])
  names, forms = ["dog", "cat", "car"], ["a photo of a {}.", "the {}"]
  found = reader.class_features(names, forms)
  single = np.stack([reader.features([form.replace("{}", n) for n in names]) for form in forms])
  mean = single.mean(axis=0)
  assert rel(found, mean / np.linalg.norm(mean, axis=1, keepdims=True)) <= 1e-6
  for given, message in (
    ((names, ["a dog"]), r"'a dog'.*\{\}"),
    (([], forms), "class names are"),
    (("dog", forms), "class names are"),
    ((names, []), "templates are"),
  ):
    with pytest.raises(InputError, match=message):
      reader.class_features(*given)


def test_features_that_are_none(folders):
  for given, message in (
    (np.ones(4), "expected floats"),
    (np.ones((2, 4), int), "expected floats"),
    (np.ones((0, 4)), "expected floats"),
    (np.array([[1.0, 2.0], [np.nan, 1.0]]), "first in row 1"),
    (np.array([[1.0, 2.0], [0.0, 0.0]]), "all zero in row 1"),
  ):
    with pytest.raises(InputError, match=message):
      towers.check_features(given)
  reader = tower("siglip", folders["siglip"])
  broken = jax.tree.map(lambda leaf: leaf * np.nan, reader.variables)
  with pytest.raises(InputError, match=r"NaN.*row 0"):
    dataclasses.replace(reader, variables=broken).features(["dog"])


def test_templates_are_the_published_ones():
  assert len(set(templates.IMAGENET)) == len(templates.IMAGENET) == 80
  assert len(set(templates.IMAGENET_SUBSET)) == 7
  assert set(templates.IMAGENET_SUBSET) <= set(templates.IMAGENET)
  assert all(form.count("{}") == 1 for form in templates.IMAGENET)
