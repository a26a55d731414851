"""Repositories of the Hugging Face hub: read from its cache, downloaded only on request."""

import json

from huggingface_hub import constants
import numpy as np
import pytest

from bcos_jax import StandardOps, convert
from bcos_jax.errors import InputError
from bcos_jax.io import hub
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import write_safetensors

from ..common import filled, flat, tiny

CONFIG = {
  "architectures": ["ResNetForImageClassification"],
  "model_type": "resnet",
  "embedding_size": 8,
  "hidden_sizes": [8, 16],
  "depths": [1, 1],
  "layer_type": "basic",
  "id2label": {str(i): f"class {i}" for i in range(5)},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """The hub's cache folder with one repository, and no way out."""
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  repository = tmp_path / "models--somebody--resnet"
  snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
  snapshot.mkdir(parents=True)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text(snapshot.name)
  (snapshot / "config.json").write_text(json.dumps(CONFIG))
  model = tiny("resnet_tiny", StandardOps(), image_size=224)
  bundle = make_bundle(model, filled(model), provenance={"source": "huggingface"})
  state = {key: np.array(t) for key, t in convert.to_state_dict(bundle, "huggingface").items()}
  write_safetensors(snapshot / "model.safetensors", state, {"format": "pt"})
  return snapshot, bundle


def test_a_cached_repository_converts_offline(cache):
  snapshot, expected = cache
  bundle = convert.from_pretrained("somebody/resnet", default_preprocess=True)
  about = bundle.config["provenance"]
  assert about["origin"] == "somebody/resnet"
  assert about["repository"] == f"somebody/resnet@{snapshot.name}"
  assert bundle.labels == tuple(CONFIG["id2label"].values())
  leaves = flat(expected.variables)
  assert all(np.array_equal(leaf, leaves[path]) for path, leaf in flat(bundle.variables).items())
  assert hub.snapshot(f"somebody/resnet@{snapshot.name}") == snapshot


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_what_is_not_in_the_cache_is_named(cache, missing):
  (cache[0] / missing).unlink()
  with pytest.raises(InputError, match=missing) as caught:
    convert.from_pretrained("somebody/resnet")
  assert "--download" in str(caught.value)


def test_an_unknown_repository_is_not_fetched(cache):
  with pytest.raises(InputError, match=r"nobody/nothing.*--download"):
    convert.from_pretrained("nobody/nothing")


def test_asked_to_fetch_but_offline(cache):
  with pytest.raises(InputError, match="nobody/nothing"):
    convert.from_pretrained("nobody/nothing", download=True)
