"""Text towers of Hugging Face: every layer, and files both ways."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from bcos_jax import convert  # noqa: E402
from bcos_jax.convert.architectures import text_tower  # noqa: E402

from ..common import flat  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
LENGTH, END = 12, 19


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)
  torch.manual_seed(0)


SMALL = {
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
  "vocab_size": 24,
  "max_position_embeddings": LENGTH,
  "bos_token_id": 1,
  "eos_token_id": END,
}
CLIP = {**SMALL, "projection_dim": 20}
IMAGE = {**SMALL, "image_size": 16, "patch_size": 8}
CASES = {
  "clip": ("CLIPTextModelWithProjection", "CLIPTextConfig", CLIP),
  "clip_legacy_end": ("CLIPTextModel", "CLIPTextConfig", {**CLIP, "eos_token_id": 2}),
  "clip_gelu": ("CLIPTextModel", "CLIPTextConfig", {**CLIP, "hidden_act": "gelu"}),
  "siglip": ("SiglipTextModel", "SiglipTextConfig", {**SMALL, "projection_size": 20}),
  "siglip2": ("Siglip2TextModel", "Siglip2TextConfig", SMALL),
}
WHOLE = {
  "clip": ("CLIPModel", "CLIPConfig", {"text_config": CLIP, "projection_dim": 20}),
  "siglip": ("SiglipModel", "SiglipConfig", {"text_config": SMALL}),
}


def _tokens():
  """Texts of two lengths; the end stands in the middle, more than once, and last."""
  seeded = np.random.RandomState(0)
  batches = []
  for length in (LENGTH, LENGTH - 5):
    tokens = seeded.randint(3, END, (3, length)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[0, -1] = tokens[1, 3] = tokens[1, -2] = tokens[2, 1] = END
    tokens[2, 4] = END + 2  # a token that was added behind the end
    batches.append(tokens)
  return batches


def _written_back(bundle, state):
  written = convert.to_state_dict(bundle)
  assert written.keys() == state.keys()
  for key, tensor in state.items():
    assert written[key].dtype == tensor.dtype and written[key].shape == tensor.shape, key
    assert written[key].tobytes() == np.ascontiguousarray(tensor).tobytes(), key


def _network(cls, config, fields):
  live.torchvision()
  import transformers

  config = getattr(transformers, config)(**fields)
  return live.stirred(getattr(transformers, cls)(config))


def _saved(network, folder):
  from safetensors.numpy import load_file

  network.save_pretrained(folder)
  return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_hugging_face(name, tmp_path):
  network = _network(*CASES[name])
  state = _saved(network, tmp_path)
  attributes = {**network.config.to_dict(), "architectures": [type(network).__name__]}
  reader = text_tower.READERS[network.config.model_type]
  fields = reader.read(attributes, network.config.to_diff_dict())
  pools = {"clip": "eos", "clip_gelu": "eos", "clip_legacy_end": "highest"}
  assert fields.get("pool") == pools.get(name)
  bundle = convert.from_state_dict(state, reader.architecture, "huggingface", fields=fields)
  live.assert_computes_the_same(network, bundle, _tokens())
  _written_back(bundle, state)


@pytest.mark.parametrize("name", WHOLE)
def test_tower_of_a_whole_network(name, tmp_path):
  cls, config, fields = WHOLE[name]
  network = _network(cls, config, {**fields, "vision_config": IMAGE})
  state = _saved(network, tmp_path)
  fields = {
    "vocab_size": 24,
    "context_length": LENGTH,
    "width": 32,
    "mlp_dim": 48,
    "eos_token": END,
    "projection": 20 if name == "clip" else 32,
    **({"pool": "eos"} if name == "clip" else {}),
  }
  bundle = convert.from_state_dict(state, f"{name}_text_test", "huggingface", fields=fields)
  network.forward = network.get_text_features
  live.assert_computes_the_same(network, bundle, _tokens())
  _written_back(bundle, state)


@pytest.mark.parametrize("source, layout", [("openai_clip", "clip"), ("open_clip", "clip")])
def test_names_of_openai(source, layout, tmp_path):
  """Written under OpenAI's names and read again: the same leaves, beside an image tower's."""
  network = _network(*CASES["clip"])
  fields = {"vocab_size": 24, "context_length": LENGTH, "width": 32, "mlp_dim": 48}
  fields |= {"eos_token": END, "pool": "eos", "projection": 20}
  bundle = convert.from_state_dict(_saved(network, tmp_path), "clip_text_test", fields=fields)
  state = convert.to_state_dict(bundle, source)
  assert np.array_equal(state["text_projection"], network.text_projection.weight.detach().numpy().T)
  attention = network.state_dict()
  prefix = next(key for key in attention if "layers.1.self_attn.q_proj.weight" in key)
  assert np.array_equal(
    state["transformer.resblocks.1.attn.in_proj_weight"],
    np.concatenate([attention[prefix.replace("q_proj", f"{part}_proj")].numpy() for part in "qkv"]),
  )
  whole = {**state, "visual.conv1.weight": np.ones((4, 3, 3, 3), np.float32)}
  again = convert.from_state_dict(whole, "clip_text_test", source, fields=fields)
  expected, leaves = flat(bundle.variables), flat(again.variables)
  assert leaves.keys() == expected.keys()
  assert all(np.array_equal(leaves[path], leaf) for path, leaf in expected.items())
  assert again.config["provenance"] == {"source": source, "layout": layout}
  _written_back(again, whole)
