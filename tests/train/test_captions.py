"""Captions of scenes, towers trained on captions, and students of these towers."""

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, TextTower, zero_shot
from bcos_jax.text.tokenizer import word_tokenizer
from bcos_jax.train import config as configs
from bcos_jax.train import loop, objectives
from bcos_jax.train.data import captions, open_dataset
from bcos_jax.train.main import main
from bcos_jax.train.objectives import losses, teacher

from ..common import rel, tiny

SMALL = [
  "--config.model.name=resnet_tiny",
  "--config.data.train_split=train[:32]",
  "--config.data.test_split=test[:20]",
  "--config.data.batch_size=16",
  "--config.data.eval_batch_size=16",
  "--config.text.projection=16",
  "--config.text.width=16",
  "--config.text.depth=1",
  "--config.objective.captions=2",
  "--config.optimizer.warmup_steps=0",
]


def test_captions_tell_what_a_scene_shows():
  dataset = open_dataset("shape_scenes", "test[:24]")
  full = captions.captions(dataset, 1, share=1.0)
  known = set(captions.words())
  for index, (text,) in enumerate(full):
    names = [name.decode() for name in dataset.source[index]["objects"]["name"]]
    assert all(name in text for name in names) and text.endswith("ground")
    assert set(text.split()) <= known
  plain = captions.captions(dataset, 2, share=0.0)
  classes = [dataset.label_names[dataset.source[i]["label"]] for i in range(24)]
  assert plain == [[captions.noun(name)] * 2 for name in classes]
  assert captions.noun("arrow") == "an arrow" and captions.noun("letter A") == "a letter A"
  assert captions.captions(dataset, 3) == captions.captions(dataset, 3)
  with pytest.raises(InputError, match="no named objects"):
    captions.captions(open_dataset("digits", "test[:2]"), 1)


def test_the_loss_is_clips_and_equal_texts_share():
  rng = np.random.default_rng(0)
  image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 4, 8)))
  logits = 5 * image @ text.T

  def entropy(rows):
    return np.log(np.exp(rows).sum(1)) - np.diag(rows)

  expected = (entropy(logits) + entropy(logits.T)) / 2
  found = losses.clip(image, text, 5.0, np.eye(4, dtype=bool))
  assert rel(found, expected) <= 1e-5
  # A fourth pair that only fills the batch changes nothing for the others.
  few = losses.clip(image[:3], text[:3], 5.0, np.eye(3, dtype=bool))
  present = np.array([True, True, True, False])
  assert rel(losses.clip(image, text, 5.0, np.eye(4, dtype=bool), present)[:3], few) <= 1e-5
  # Of two equal texts neither is wrong: with equal logits, the loss is log 2.
  ones = np.ones((2, 3)) / 3**0.5
  found = losses.clip(ones, ones, 5.0, np.ones((2, 2), bool))
  np.testing.assert_allclose(found, np.log(2), rtol=1e-6)


def test_words_have_ids_and_texts_an_end():
  ids = word_tokenizer(["a", "red", "star"], 5)(["a star", "a red ring"])
  assert ids.tolist() == [[3, 5, 1, 0, 0], [3, 4, 2, 1, 0]]
  with pytest.raises(InputError, match="different single words"):
    word_tokenizer(["a", "a"], 5)


@pytest.mark.slow
def test_a_pair_learns_and_its_text_tower_can_be_read(tmp_path):
  main("shape_captions", [*SMALL, "--config.init=", "--config.steps=2"], tmp_path, progress=False)
  text = TextTower.load(tmp_path / "text", tmp_path / "tokenizer")
  towers = zero_shot.Towers.of(bcos_jax.load(tmp_path / "bundle"), text)
  assert 10 < towers.scale < 20 and not towers.sigmoid  # CLIP's first is 14.3.
  images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
  found = towers.classifier(["a star", "a red ring"], ("{}",)).classify(images)
  assert found.probabilities.shape == (2, 2)


@pytest.mark.parametrize(
  ("override", "part"),
  [
    ("text.projection=8", "text.projection=16"),
    ("text.name=resnet_tiny", "reads no text"),
    ("objective.captions=0", "at least 1"),
    ("data.augment.mixup=0.2", "objective.name=supervised"),
  ],
)
def test_pairs_that_cannot_be_are_refused(override, part, tmp_path):
  overrides = [*SMALL, "--config.init=", "--config.steps=1", f"--config.{override}"]
  with pytest.raises(InputError) as error:
    config = configs.load_config("shape_captions", overrides)
    loop.train(config, workdir=tmp_path, progress=False)
  assert part in f"{error.value.cause} {error.value.fix}"


def test_positions_of_maps_are_tokens():
  model = tiny("resnet_tiny", bcos_jax.StandardOps(), num_classes=0)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
  assert teacher.blocks_of(model) == ("layer1_0", "layer2_0")

  def states(images):
    variables = model.init(jax.random.key(0), model.ops.encoding(images))
    return objectives.Teacher(model).states(variables, images, (1, 2))

  _, tokens = jax.eval_shape(states, images)
  assert [t.ndim for t in tokens] == [3, 3]
  assert tokens[0].shape[1] == 4 * tokens[1].shape[1]
