"""open_clip's configuration files: stated fields and implied defaults."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import bcos_jax
from bcos_jax import StandardOps, convert
from bcos_jax.convert import targets
from bcos_jax.errors import InputError
from bcos_jax.inputs import CLIP_MEAN, CLIP_STD
from bcos_jax.io import bundles
from bcos_jax.io.tensor_files import write_safetensors
from bcos_jax.variables import abstract_variables

from ..common import filled, flat

VISION = {"layers": 2, "width": 32, "head_width": 16, "mlp_ratio": 1.5, "patch_size": 8}
CONFIG = {
  "model_cfg": {"embed_dim": 16, "vision_cfg": {**VISION, "image_size": 32}, "text_cfg": {}},
  "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}
FIELDS = {"width": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48, "patch_size": 8, "image_size": 32}


@pytest.fixture(scope="module")
def network():
  model = bcos_jax.create("clip_vit_base_patch32", ops=StandardOps(), projection=16, **FIELDS)
  return bundles.make_bundle(model, filled(model), provenance={"source": "open_clip"})


@pytest.fixture
def repository(network, tmp_path):
  """Writes a repository, with some settings replaced."""

  def write(model=None, vision=None, pictures=None):
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"] |= model or {}
    config["model_cfg"]["vision_cfg"] |= vision or {}
    config["preprocess_cfg"] |= pictures or {}
    write_safetensors(
      tmp_path / "open_clip_model.safetensors", convert.to_state_dict(network, "open_clip")
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    return tmp_path

  return write


@pytest.mark.parametrize("quick, activation", [(True, "quick_gelu"), (False, "gelu")])
def test_a_repository(network, repository, quick, activation):
  bundle = convert.from_pretrained(repository({"quick_gelu": quick}))
  assert bundle.model.activation == activation
  assert {name: getattr(bundle.model, name) for name in FIELDS} == FIELDS
  assert bundle.model.projection == 16 and bundle.model.num_classes == 0
  assert bundle.config["provenance"]["source"] == "open_clip"
  assert bundle.model.ops.encoding.mean == (0.5,) * 3
  assert bundle.model.ops.encoding.std == (0.25,) * 3
  expected = flat(network.variables)
  assert all((leaf == expected[path]).all() for path, leaf in flat(bundle.variables).items())


@pytest.mark.parametrize(
  "given, size, resize",
  [
    ({}, (32, 32), 32),
    ({"resize_mode": "squash"}, (32, 32), 0),
    ({"size": [24, 24]}, (24, 24), 24),
    ({"interpolation": "bilinear", "size": 16}, (16, 16), 16),
  ],
)
def test_how_pictures_are_read(repository, given, size, resize):
  preprocess = convert.from_pretrained(repository(pictures=given)).preprocess
  assert (preprocess.size, preprocess.resize) == (size, resize)
  assert preprocess.interpolation == given.get("interpolation", "bicubic")


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"vision": {"pool_type": "avg"}}, "pool_type is 'avg'"),
    ({"vision": {"no_ln_pre": True}}, "no_ln_pre is True"),
    ({"vision": {"timm_model_name": "vit_base_patch16_siglip_224"}}, "siglip_224"),
    ({"vision": {"layers": [3, 4, 6, 3]}}, "a ResNet"),
    ({"vision": {"new_thing": 1}}, "new_thing is 1"),
    ({"pictures": {"resize_mode": "longest"}}, "'longest'"),
    ({"pictures": {"new_thing": 1}}, "new_thing is 1"),
  ],
)
def test_what_is_not_understood_is_refused(repository, changes, word):
  with pytest.raises(InputError, match=word):
    convert.from_pretrained(repository(**changes))


def test_a_named_architecture_takes_activation_and_pictures(network, repository):
  folder = repository({"quick_gelu": False})
  with pytest.raises(InputError, match="expected"):  # its sizes are those of its name
    convert.from_pretrained(folder, "clip_vit_base_patch32")
  described = convert.readers.describe(
    convert.sources.open_checkpoint(folder), "clip_vit_base_patch32"
  )
  assert described.fields == {"activation": "gelu"}
  assert described.reading.mean == (0.5,) * 3


def test_a_file_without_configuration_is_read_as_openais(network, tmp_path):
  model = bcos_jax.create("clip_test", ops=StandardOps(), num_classes=0)
  bundle = bundles.make_bundle(model, filled(model))
  state = convert.to_state_dict(bundle, "openai_clip")
  write_safetensors(tmp_path / "clip.safetensors", state)
  made = convert.plan.plan(tmp_path / "clip.safetensors", "clip_test")
  assert "pictures are read as by OpenAI's CLIP" in made.notes
  bundle = made.bundle()
  assert (bundle.model.ops.encoding.mean, bundle.model.ops.encoding.std) == (CLIP_MEAN, CLIP_STD)
  side = model.image_size
  assert bundle.preprocess.resize == side and bundle.preprocess.interpolation == "bicubic"
  assert load_file(tmp_path / "clip.safetensors").keys() == state.keys()


def test_guesses_about_pictures_are_said(tmp_path):
  model = bcos_jax.create("resnet_tiny", ops=StandardOps())
  bundle = bundles.make_bundle(model, filled(model))
  write_safetensors(tmp_path / "a.safetensors", convert.to_state_dict(bundle, "torchvision"))
  made = convert.plan.plan(tmp_path / "a.safetensors", "resnet_tiny")
  assert any("does not say how pictures are read: mean 0.485" in note for note in made.notes)


TEXT = {
  "vocab_size": 24,
  "max_position_embeddings": 9,
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
  "bos_token_id": 22,
  "eos_token_id": 23,
}


def test_the_text_tower_of_a_network_of_two_is_read_by_its_configuration(tmp_path):
  fields = {"vocab_size": 24, "context_length": 9, "width": 32, "depth": 2, "num_heads": 2}
  fields |= {"mlp_dim": 48, "projection": 12, "pool": "eos", "eos_token": 23}
  model = bcos_jax.create("clip_text_vit_base", ops=StandardOps(), **fields)
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_variables(model))
  bundle = bundles.make_bundle(model, variables, provenance={"source": "huggingface"})
  write_safetensors(tmp_path / "model.safetensors", convert.to_state_dict(bundle))
  config = {"model_type": "clip", "projection_dim": 12, "text_config": TEXT}
  (tmp_path / "config.json").write_text(json.dumps(config))
  made = convert.from_pretrained(tmp_path, "clip_text_vit_base")
  assert made.model == model and made.preprocess is None
  with pytest.raises(InputError, match="no classes"):
    convert.from_pretrained(tmp_path, "clip_text_vit_base", num_classes=3)


def test_a_tower_without_classes_takes_no_number_of_them(tmp_path):
  model = bcos_jax.create("clip_resnet_test", ops=StandardOps())
  bundle = bundles.make_bundle(model, filled(model))
  file = targets.write(bundle, tmp_path / "clip.safetensors", "openai_clip")
  with pytest.raises(InputError, match="num_classes=3 would change nothing"):
    convert.from_pretrained(file, "clip_resnet_test", num_classes=3)
