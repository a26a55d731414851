"""Networks in the layout of transformers: their configuration reads back as the network."""

import json

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, cli, convert
from bcos_jax.convert import targets
from bcos_jax.convert.readers import writing
from bcos_jax.inputs import Preprocess
from bcos_jax.io.bundles import make_bundle

from ..common import filled, flat

NETWORKS = {
  "resnet18": {"num_classes": 3, "image_size": 64},
  "resnet50": {"num_classes": 3, "image_size": 64, "stages": (1, 1, 1, 1)},
  "vit_tiny_patch16_224": {"num_classes": 3, "image_size": 32, "depth": 2},
  "convnext_tiny": {"num_classes": 0, "image_size": 64, "stages": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("labels", [(), ("ant", "bee", "cat")])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_for_transformers_reads_back_as_the_network(name, labels, tmp_path):
  model = bcos_jax.create(name, ops=StandardOps(), **NETWORKS[name])
  read = Preprocess((model.image_size,) * 2, 80, "bicubic", center="floor")
  labels = labels if model.num_classes else ()
  bundle = make_bundle(model, filled(model), preprocess=read, labels=labels)
  folder = targets.write(bundle, tmp_path / "folder", "huggingface")
  again = convert.from_pretrained(folder)
  assert again.preprocess == read and again.labels == labels
  assert again.model.ops.encoding == model.ops.encoding
  leaves = flat(again.variables)
  assert all(np.array_equal(leaf, leaves[path]) for path, leaf in flat(bundle.variables).items())


def test_what_transformers_lacks_has_no_configuration(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  for fields in ({"global_pool": "max"}, {"average_shortcut": True}, {"groups": 2}):
    model = bcos_jax.create("resnet50", ops=StandardOps(), num_classes=3, **fields)
    assert writing.config_of(make_bundle(model, filled(model))) is None, fields
  model = bcos_jax.create("resnet18", ops=BcosOps(), num_classes=3, image_size=64)
  bundle = make_bundle(model, filled(model))
  assert writing.config_of(bundle) is None and writing.preprocessor_of(bundle) is None
  # The keys are those of transformers, and no configuration of its own computes the same.
  model = bcos_jax.create("resnet18", ops=StandardOps(), num_classes=3, global_pool="max")
  bcos_jax.save(tmp_path / "net", model, filled(model))
  done = cli.main(["convert", str(tmp_path / "net"), str(tmp_path / "out"), "--to=huggingface"])
  assert done == 0 and "without config.json" in capsys.readouterr().out
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_source_is_known_from_its_commit_on(tmp_path):
  """What a fine-tuning started from describes the result, as far as it is the same network."""
  model = bcos_jax.create("resnet18", ops=StandardOps(), num_classes=3, image_size=64)
  stated = {"model_type": "resnet", "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512]}
  stated |= {"depths": [2, 2, 2, 2], "layer_type": "basic", "architectures": ["ResNetModel"]}
  init = {"source": "huggingface", "source_config": {**stated, "_name_or_path": "theirs"}}
  bundle = make_bundle(model, filled(model), labels="abc", provenance={"init": init})
  found = writing.config_of(bundle)
  assert found is not None and found["_name_or_path"] == "theirs"
  assert found["architectures"] == ["ResNetForImageClassification"]
  assert json.loads(json.dumps(found["id2label"])) == {"0": "a", "1": "b", "2": "c"}
  init["source_config"]["depths"] = [3, 4, 6, 3]  # another network's
  other = writing.config_of(make_bundle(model, filled(model), provenance={"init": init}))
  assert other is not None and other["depths"] == [2, 2, 2, 2] and "_name_or_path" not in other
