"""Language models of transformers: converted, verified, masked, and written back."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import cli, convert  # noqa: E402

from ..common import applied_to_texts, rel  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
LIMIT = 1e-5

SMALL = {
  "vocab_size": 60,
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "intermediate_size": 48,
  "max_position_embeddings": 20,
}
DISTILBERT = {
  "vocab_size": 60,
  "dim": 32,
  "n_layers": 2,
  "n_heads": 4,
  "hidden_dim": 48,
  "max_position_embeddings": 20,
}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 20}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
ROPE = {
  "rope_type": "llama3",
  "rope_theta": 10000.0,
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
THREE = {"num_labels": 3}
CASES = {
  "BertForSequenceClassification": {**SMALL, **THREE},
  "BertForMaskedLM": {**SMALL, "hidden_act": "gelu_new"},
  "BertForMaskedLM, untied": {**SMALL, "tie_word_embeddings": False},
  "BertModel": SMALL,
  "RobertaForSequenceClassification": {**SMALL, **THREE, "type_vocab_size": 1},
  "RobertaForMaskedLM": {**SMALL, "layer_norm_eps": 1e-5},
  "CamembertForSequenceClassification": {**SMALL, **THREE, "type_vocab_size": 1},
  "DistilBertForSequenceClassification": {**DISTILBERT, **THREE},
  "DistilBertForMaskedLM": DISTILBERT,
  "GPT2ForSequenceClassification": {**GPT2, **THREE, "pad_token_id": 0},
  "LlamaForSequenceClassification": {**SMALL, **THREE, "pad_token_id": 0},
  "Qwen2ForSequenceClassification": {
    **SMALL,
    **THREE,
    "pad_token_id": 0,
    "num_key_value_heads": 2,
  },
  "GPT2LMHeadModel": GPT2,
  "GPT2Model": GPT2,
  "LlamaForCausalLM": {**SMALL, "num_key_value_heads": 2},
  "MistralForCausalLM": {**SMALL, "num_key_value_heads": 2, "sliding_window": 16},
  "Qwen2ForCausalLM": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
  "LlamaForCausalLM, tied": {
    **SMALL,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "attention_bias": True,
    "tie_word_embeddings": True,
    "rope_parameters": ROPE,
  },
}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  torch.set_num_threads(2)
  torch.manual_seed(0)


def run(*arguments):
  return cli.main([str(argument) for argument in arguments])


def network(name, fields):
  live.torchvision()
  import transformers

  cls = getattr(transformers, name.partition(",")[0])
  return live.stirred(cls(cls.config_class(**fields)))


def texts(pad):
  """Two texts, the second of which is shorter."""
  ids = np.random.RandomState(0).randint(3, 60, (2, 11)).astype(np.int32)
  mask = np.ones_like(ids)
  ids[1, 7:], mask[1, 7:] = pad, 0
  return ids, mask


@torch.no_grad()
def of(original, ids, mask):
  result = original(
    input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()
  )
  return (result.logits if hasattr(result, "logits") else result.last_hidden_state).numpy()


@pytest.mark.parametrize("name", CASES)
def test_converted_verified_masked_and_back(name, tmp_path, capsys):
  original = network(name, CASES[name])
  # Several files, as large networks come.
  shards = {"max_shard_size": "20KB"} if name == "GPT2LMHeadModel" else {}
  original.save_pretrained(tmp_path / "source", **shards)
  done = run("convert", tmp_path / "source", tmp_path / "bundle", "--verify")
  printed = capsys.readouterr()
  assert done == 0, printed.err
  errors = re.findall(r"largest relative difference (\S+)", printed.out)
  assert len(errors) == 1 and float(errors[0]) <= LIMIT, printed.out

  bundle = bcos_jax.load(tmp_path / "bundle")
  ids, mask = texts(max(bundle.model.pad_token, 0))
  if name == "GPT2Model":  # ours has the head that is tied to the tokens
    import transformers

    original = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "source")
  theirs = of(original, ids, mask)
  ours = applied_to_texts(bundle.model)(bundle.variables, ids, mask)
  if theirs.ndim == 3:  # what stands at padding is nobody's business
    ours, theirs = ours[mask > 0], theirs[mask > 0]
  assert rel(ours, theirs) <= LIMIT

  assert run("convert", tmp_path / "bundle", tmp_path / "back", "--to=huggingface") == 0
  again, loaded = type(original).from_pretrained(tmp_path / "back", output_loading_info=True)
  assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
  for key, tensor in original.state_dict().items():
    assert torch.equal(again.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM"])
def test_a_pretrained_encoder_gets_a_new_head(name, tmp_path):
  original = network(name, CASES[name])
  original.save_pretrained(tmp_path / "source")
  bundle = convert.from_pretrained(tmp_path / "source", num_classes=4)
  assert (bundle.model.task, bundle.model.num_classes) == ("classify", 4)
  assert bundle.config["provenance"]["new_head"]
  ids, mask = texts(max(bundle.model.pad_token, 0))
  model = bundle.model.clone(num_classes=0)
  ours = applied_to_texts(model)(bundle.variables, ids, mask)
  hidden = of(getattr(original, original.base_model_prefix), ids, mask)
  assert rel(ours[mask > 0], hidden[mask > 0]) <= LIMIT
  # Written back it is a classifier with the same encoder.
  convert.targets.write(bundle, tmp_path / "back", "huggingface")
  import transformers

  again, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
    tmp_path / "back", output_loading_info=True
  )
  assert not loaded["missing_keys"]
  theirs = of(again.eval(), ids, mask)
  assert rel(applied_to_texts(bundle.model)(bundle.variables, ids, mask), theirs) <= LIMIT
