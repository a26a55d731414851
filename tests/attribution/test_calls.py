"""One `attribute` for images and texts: what it takes, signs, settings, the table of the docs."""

import dataclasses
import inspect
import re

import numpy as np
import pytest

from bcos_jax import StandardOps, attribution
from bcos_jax.attribution import text
from bcos_jax.attribution.settings import Method, settings_of
from bcos_jax.errors import InputError
from bcos_jax.explain.text_reader import TextReader
from bcos_jax.io import bundles
from bcos_jax.train.data.text import vocabularies

from .. import text_tasks as toys
from ..common import CLASSES, ROOT, SIDE, photos, rel
from .test_attribution import SETTINGS, Linear, network
from .test_text_attribution import FEW, language

IMAGES = photos(3)
IDS, MASK = toys.texts()
# Never negative: sizes of gradients, weights of attention, and what is cut at zero.
UNSIGNED = {"saliency", "smooth_grad", "rise", "grad_cam", "attention_rollout", "chefer", "legrad"}
# Networks that are linear have no ReLU and no attention, which these need.
UNSIGNED |= {"guided_backprop", "attn_lrp"}
SIGNED_TEXTS = [n for n in text.names() if n != "saliency" and not n.startswith("attention")]


def test_functions_are_attribute_with_settings():
  own = model, variables = network(Linear)
  how = attribution.IntegratedGradients(steps=3, baseline=0.5)
  expected = attribution.integrated_gradients(model, variables, IMAGES, 1, steps=3, baseline=0.5)
  np.testing.assert_array_equal(attribution.attribute(own, IMAGES, how, 1), expected)
  bundle = bundles.Bundle(model=model, variables=variables, preprocess=None)
  np.testing.assert_array_equal(attribution.attribute(bundle, IMAGES, how, 1, 2), expected)
  named = attribution.method("integrated_gradients", steps=3, baseline=0.5)
  assert named == how and dataclasses.replace(how, steps=4) != how

  task = toys.attending()
  how = text.TokenLime(samples=20)
  expected = text.lime(task, IDS, MASK, 1, samples=20)
  np.testing.assert_array_equal(attribution.attribute(task, (IDS, MASK), how, 1), expected)


def test_readers_take_strings(tmp_path):
  model, variables, _, _ = language("llama_tiny", StandardOps())
  tokenizer = vocabularies.save_words(tmp_path, ["good", "bad", "film"], kind="decoder")
  reader = TextReader(model=model, variables=variables, tokenizer=tokenizer, length=8)
  texts = ["good film", "a bad bad film"]
  found = attribution.attribute(reader, texts, attribution.InputXGradient(), 4)
  batch = reader.read(texts)
  assert found.shape == batch.ids.shape and not found[batch.mask == 0].any()
  given = text.input_x_gradient(text.reader_task(reader), batch.ids, batch.mask, 4)
  np.testing.assert_array_equal(found, given)
  with pytest.raises(InputError, match="Pass a TextReader"):
    attribution.attribute((model, variables), texts, attribution.InputXGradient())


@pytest.mark.parametrize("name", [n for n in attribution.names() if n not in UNSIGNED])
def test_larger_values_support_the_target_in_images(name):
  """The class of the brightest pixel's weight: what raises the logit is positive, else negative."""
  model, variables = network(Linear)
  kernel = np.zeros((SIDE, SIDE, 3, CLASSES), np.float32)
  kernel[: SIDE // 2, ..., 1], kernel[SIDE // 2 :, ..., 1] = 1, -1
  variables = {
    "params": {"map": {"kernel": kernel.reshape(-1, CLASSES), "bias": np.zeros(CLASSES)}}
  }
  fields = SETTINGS.get(name, {}) | ({"score": "logit", "samples": 40} if name == "lime" else {})
  images = np.full((1, SIDE, SIDE, 3), 0.9, np.float32)  # encoded above 0, which is the baseline
  maps = attribution.METHODS[name](model, variables, images, 1, **fields)[0]
  assert maps[: SIDE // 2].mean() > 0 > maps[SIDE // 2 :].mean()


@pytest.mark.parametrize("name", SIGNED_TEXTS)
def test_larger_values_support_the_target_in_texts(name):
  task, table = toys.linear()
  fields = FEW.get(name, {}) | ({"score": "logit"} if name == "lime" else {})
  found = text.METHODS[name](task, IDS, MASK, 1, **fields)
  effect = np.where(np.isin(IDS, toys.SPECIAL), 0, table[IDS, 1])
  strong = np.abs(effect) > 0.5
  assert strong.any() and (np.sign(found) == np.sign(effect))[strong].all()


def test_contrasts_are_targets_of_images_too():
  own = network(Linear)
  first, second = (attribution.saliency(*own, IMAGES, c, signed=True) for c in (0, 3))
  pair = attribution.saliency(*own, IMAGES, attribution.Contrast(0, 3), signed=True)
  assert rel(pair, first - second) < 1e-5
  every = np.stack([attribution.saliency(*own, IMAGES, c, signed=True) for c in range(CLASSES)])
  mean = attribution.saliency(*own, IMAGES, attribution.Contrast(0), signed=True)
  assert rel(mean, first - every.mean(0)) < 1e-5
  with pytest.raises(InputError, match="expected classes"):
    attribution.saliency(*own, IMAGES, attribution.Contrast(lambda logits: logits[:, 0], 3))


def test_methods_are_for_what_they_say():
  with pytest.raises(InputError, match="Saliency is a method for images, got texts"):
    attribution.attribute(toys.attending(), (IDS, MASK), attribution.Saliency())
  with pytest.raises(InputError, match="TokenOcclusion is a method for texts, got images"):
    attribution.attribute(network(Linear), IMAGES, text.TokenOcclusion())


def test_settings_are_checked_where_they_are_given():
  with pytest.raises(InputError, match="steps is 0"):
    attribution.IntegratedGradients(steps=0)
  with pytest.raises(InputError, match="Did you mean 'masks'"):
    attribution.rise(*network(Linear), IMAGES, 0, mask=3)
  with pytest.raises(InputError, match="'attention_mean' has no settings, got 'residual'"):
    text.attention_mean(toys.attending(), IDS, MASK, residual=0.5)
  with pytest.raises(dataclasses.FrozenInstanceError):
    attribution.Rise().masks = 3


EVERY = [*attribution.METHODS.values(), *text.METHODS.values()]


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
def test_functions_show_their_settings(function):
  shown = inspect.signature(function).parameters
  fields = settings_of(function.method)
  assert issubclass(function.method, Method)
  assert tuple(shown)[len(shown) - len(fields) :] == fields
  assert function.__doc__ == function.method.__doc__
  for name in fields:
    assert re.search(rf"\b{name}\b.*:", function.__doc__), f"{name} is not documented"
    assert shown[name].default == getattr(function.method(), name)


@pytest.mark.parametrize(("page", "names"), [("metrics", attribution.names), ("texts", text.names)])
def test_the_docs_table_has_every_method(page, names):
  section = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8").split("## Post-hoc methods")[1]
  rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
  assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(names())
