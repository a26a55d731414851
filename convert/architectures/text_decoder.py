"""Key tables and configurations of GPT-2, Llama, Mistral and Qwen2: Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcos_jax.errors import InputError
from bcos_jax.models import TextDecoder
from bcos_jax.ops import StandardOps

from ..readers.hf_config import (
  GENERATION,
  Config,
  ConfigReader,
  Fields,
  Setting,
  activation,
  by_class,
)
from ..tables.axes import AS_IS, DENSE
from ..tables.keys import Keys
from ..tables.parts import norm, scale
from ..tables.rules import Rule, Skip, Table

_BLOCK = "decoder_{i}"
_IN_BLOCK = f"params/{_BLOCK}/norm1/scale"
_QKV = tuple(f"params/{_BLOCK}/attn/{part}" for part in ("query", "key", "value"))
_TABLE = "params/embeddings/word"


def _unused(source: str, reason: str, beside: str = _TABLE) -> Skip:
  return Skip(source, reason, beside=beside, optional=True)


def _head(tied: bool, classifies: bool) -> Rule | Skip:
  if classifies:
    return Rule("score.weight", "params/score/kernel", DENSE)
  if tied:
    return _unused("lm_head.weight", "is the table of tokens")
  return Rule("lm_head.weight", "params/vocabulary/kernel", DENSE)


def _gpt2(prefix: str, tied: bool, classifies: bool) -> Table:
  """GPT-2 holds its maps as convolutions of width 1: inputs first, as we do."""
  layer = f"{prefix}h.{{i}}"

  def conv(source: str, target: str) -> list[Rule]:
    path = f"params/{_BLOCK}/{target}"
    return [
      Rule(f"{layer}.{source}.weight", f"{path}/kernel", AS_IS),
      Rule(f"{layer}.{source}.bias", f"{path}/bias"),
    ]

  return (
    Rule(f"{prefix}wte.weight", _TABLE),
    Rule(f"{prefix}wpe.weight", "params/embeddings/position"),
    *norm(f"{layer}.ln_{{k}}", f"{_BLOCK}/norm{{k}}"),
    Rule(f"{layer}.attn.c_attn.weight", tuple(f"{part}/kernel" for part in _QKV), AS_IS, along=1),
    Rule(f"{layer}.attn.c_attn.bias", tuple(f"{part}/bias" for part in _QKV)),
    *conv("attn.c_proj", "attn/out"),
    *conv("mlp.c_fc", "mlp/linear1"),
    *conv("mlp.c_proj", "mlp/linear2"),
    *norm(f"{prefix}ln_f", "norm"),
    _head(tied, classifies),
    _unused(f"{layer}.attn.bias", "the causal mask", _IN_BLOCK),
    _unused(f"{layer}.attn.masked_bias", "the causal mask", _IN_BLOCK),
  )


_LLAMA_MAPS = {
  "self_attn.q_proj": "attn/query",
  "self_attn.k_proj": "attn/key",
  "self_attn.v_proj": "attn/value",
  "self_attn.o_proj": "attn/out",
  "mlp.gate_proj": "mlp/gate",
  "mlp.up_proj": "mlp/up",
  "mlp.down_proj": "mlp/down",
}


Biased = tuple[bool, bool, bool]


def _llama(biased: Biased, tied: bool, classifies: bool) -> Table:
  """Llama; `biased`: queries, keys and values, the projection behind them, and the MLP."""
  layer = "model.layers.{i}"
  maps = []
  for source, target in _LLAMA_MAPS.items():
    maps.append(Rule(f"{layer}.{source}.weight", f"params/{_BLOCK}/{target}/kernel", DENSE))
    if biased[2 if target.startswith("mlp") else target.endswith("out")]:
      maps.append(Rule(f"{layer}.{source}.bias", f"params/{_BLOCK}/{target}/bias"))
  return (
    Rule("model.embed_tokens.weight", _TABLE),
    scale(f"{layer}.input_layernorm", f"{_BLOCK}/norm1"),
    scale(f"{layer}.post_attention_layernorm", f"{_BLOCK}/norm2"),
    *maps,
    scale("model.norm", "norm"),
    _head(tied, classifies),
    _unused(f"{layer}.self_attn.rotary_emb.inv_freq", "the rotary frequencies", _IN_BLOCK),
  )


def _headed(model: TextDecoder, tied: bool, classifies: bool) -> bool:
  """Whether a network has the head of a table; classifiers have no map to the vocabulary."""
  return bool(model.num_classes) == classifies and (classifies or model.tied == tied)


def _gpt2_keys(prefix: str, tied: bool, classifies: bool = False) -> Keys:
  def fits(model: TextDecoder) -> bool:
    learned = model.norm == "layer" and model.positions == "learned"
    return learned and _headed(model, tied, classifies)

  modules = (
    (f"{prefix}h.{{i}}.attn", f"{_BLOCK}/attn"),
    (f"{prefix}h.{{i}}.mlp", f"{_BLOCK}/mlp"),
    (f"{prefix}h.{{i}}", _BLOCK),
    (f"{prefix}ln_f", "norm"),
  )
  form = "gpt2_classifier" if classifies else "gpt2" if prefix else "gpt2_bare"
  return Keys("huggingface", StandardOps(), _gpt2(prefix, tied, classifies), modules, form, fits)


def _llama_keys(biased: Biased, tied: bool, classifies: bool = False) -> Keys:
  def fits(model: TextDecoder) -> bool:
    rotary = model.norm == "rms" and model.positions == "rotary" and model.gated_mlp
    own = (model.attention_bias, model.attention_out_bias, model.mlp_bias)
    return rotary and own == biased and _headed(model, tied, classifies)

  layer = "model.layers.{i}"
  modules = (
    ("model.embed_tokens", "embeddings"),
    *((f"{layer}.{source}", f"{_BLOCK}/{target}") for source, target in _LLAMA_MAPS.items()),
    (layer, _BLOCK),
    ("model.norm", "norm"),
  )
  form = "llama_classifier" if classifies else "llama"
  table = _llama(biased, tied, classifies)
  return Keys("huggingface", StandardOps(), table, modules, form, fits)


_BOOLS = (False, True)
_BIASED = (*((a, a, mlp) for a in _BOOLS for mlp in _BOOLS), (True, False, False))
KEYS = (
  _gpt2_keys("transformer.", True),
  _gpt2_keys("", True),
  _gpt2_keys("transformer.", False),
  _gpt2_keys("transformer.", True, classifies=True),
  *(_llama_keys(biased, tied) for biased in _BIASED for tied in _BOOLS),
  *(_llama_keys(biased, True, classifies=True) for biased in _BIASED),
)


def _inner(value: int | None, config: Config) -> Mapping[str, Any]:
  return {"mlp_dim": 4 * config["n_embd"] if value is None else value}


def _same_dropout(value: float, config: Config) -> Mapping[str, Any]:
  if value != config["resid_pdrop"]:
    raise InputError(
      f"embd_pdrop is {value!r} and resid_pdrop {config['resid_pdrop']!r}, expected the same.",
      "Give both one value in config.json; they only matter while training.",
    )
  return {}


def _pad(value: int | None, config: Config) -> Mapping[str, Any]:
  return {"pad_token": -1 if value is None else value}


def _biases(value: bool, config: Config) -> Mapping[str, Any]:
  return {"attention_bias": value, "attention_out_bias": value}


def _rope(value: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
  """Reads how positions turn queries and keys, as transformers 5 states it."""
  kind = value.get("rope_type", "default")
  if kind not in ("default", "llama3"):
    raise InputError(
      f"rope_type is {kind!r}, supported is 'default' or 'llama3'.",
      "Convert a network with one of these.",
    )
  names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
  known = {"rope_type", "type", "rope_theta", *(names if kind == "llama3" else ())}
  if unknown := sorted(value.keys() - known):
    raise InputError(
      f"rope_parameters has {unknown[0]!r}: {value[unknown[0]]!r}, which is not understood.",
      f"Expected are {', '.join(sorted(known))}.",
    )
  scaling = tuple(float(value[name]) for name in names) if kind == "llama3" else ()
  return {"rope_theta": float(value["rope_theta"]), "rope_scaling": scaling}


_GPT2_SUMMARY = dict.fromkeys(
  (
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
  ),
  "of another head",
)


def _by_class(family: str, *causal: str) -> Setting:
  def classes(config: Config) -> Fields:
    return {"num_classes": len(config["id2label"])}

  known: dict[str | None, Any] = {name: {} for name in (None, *causal)}
  return by_class({**known, f"{family}ForSequenceClassification": classes})


_CAUSAL: dict[str, Setting] = {"pad_token_id": _pad, "tie_word_embeddings": "tied"}


def _window(value: int | None, config: Config) -> Mapping[str, Any]:
  """A window of attention changes nothing in texts that are no longer than it."""
  length = config["max_position_embeddings"]
  return {"context_length": length if value is None else min(value, length)}


_LLAMA_LIKE: dict[str, Setting] = {
  **_CAUSAL,
  "vocab_size": "vocab_size",
  "max_position_embeddings": "context_length",
  "hidden_size": "width",
  "num_hidden_layers": "depth",
  "num_attention_heads": "num_heads",
  "num_key_value_heads": "kv_heads",
  "head_dim": lambda value, config: {"head_dim": value or 0},
  "intermediate_size": "mlp_dim",
  "hidden_act": activation,
  "rms_norm_eps": "norm_eps",
  "rope_parameters": _rope,
  "attention_dropout": "attention_dropout",
}
_LLAMA_IGNORED = {
  **GENERATION,
  "pretraining_tp": "order of rounding",
  "rope_theta": "read with rope_parameters, into which transformers puts it",
  "rope_scaling": "read with rope_parameters, into which transformers puts it",
}
_QWEN2_BIASES = {"attention_bias": True, "attention_out_bias": False, "mlp_bias": False}


def _layer_types(value: list[str] | None, config: Config) -> Mapping[str, Any]:
  if other := sorted(set(value or ()) - {"full_attention"}):
    raise InputError(
      f"layer_types has {other[0]!r}, supported is 'full_attention'.",
      "Convert a network without windows of attention.",
    )
  return {}


READERS: dict[str, ConfigReader] = {
  "gpt2": ConfigReader(
    "gpt2",
    fields={
      **_CAUSAL,
      "vocab_size": "vocab_size",
      "n_positions": "context_length",
      "n_embd": "width",
      "n_layer": "depth",
      "n_head": "num_heads",
      "n_inner": _inner,
      "activation_function": activation,
      "layer_norm_epsilon": "norm_eps",
      "resid_pdrop": "dropout",
      "embd_pdrop": _same_dropout,
      "attn_pdrop": "attention_dropout",
      "architectures": _by_class("GPT2", "GPT2LMHeadModel", "GPT2Model"),
    },
    only={
      "scale_attn_weights": (True,),
      "scale_attn_by_inverse_layer_idx": (False,),
      "add_cross_attention": (False,),
    },
    ignored={
      **GENERATION,
      **_GPT2_SUMMARY,
      "n_ctx": "older name of n_positions",
      "reorder_and_upcast_attn": "order of rounding",
    },
  ),
  "llama": ConfigReader(
    "llama_3_2_1b",
    fields={
      **_LLAMA_LIKE,
      "attention_bias": _biases,
      "mlp_bias": "mlp_bias",
      "architectures": _by_class("Llama", "LlamaForCausalLM"),
    },
    ignored=_LLAMA_IGNORED,
  ),
  "mistral": ConfigReader(
    "llama_3_2_1b",
    fields={
      **_LLAMA_LIKE,
      "sliding_window": _window,
      "architectures": _by_class("Mistral", "MistralForCausalLM"),
    },
    ignored=_LLAMA_IGNORED,
  ),
  "qwen2": ConfigReader(
    "llama_3_2_1b",
    fields={
      **_LLAMA_LIKE,
      "model_type": lambda value, config: _QWEN2_BIASES,
      "layer_types": _layer_types,
      "architectures": _by_class("Qwen2", "Qwen2ForCausalLM"),
    },
    only={"use_sliding_window": (False,)},
    ignored={
      **_LLAMA_IGNORED,
      "sliding_window": "read with use_sliding_window",
      "max_window_layers": "read with use_sliding_window",
    },
  ),
}
"""Model type -> reader."""
