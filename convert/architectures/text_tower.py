"""Key tables and configurations of text towers: Hugging Face, OpenAI's CLIP and open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcos_jax.errors import unknown_name
from bcos_jax.ops import StandardOps

from ..readers.hf_config import ACTIVATIONS, GENERATION, Config, ConfigReader, Setting
from ..tables.axes import DENSE
from ..tables.keys import Keys
from ..tables.rules import Rule, Skip, Table

Entries = list[Rule | Skip]

_BLOCK = "encoder_{i}"
_ATTENTION = (
  ("q_proj", "attn/query"),
  ("k_proj", "attn/key"),
  ("v_proj", "attn/value"),
  ("out_proj", "attn/out"),
)
_QKV = tuple(f"{_BLOCK}/attn/{part}" for part in ("query", "key", "value"))
_IMAGE = "the image tower is a network of its own"
_CONTRAST = "weighs images against texts"


def _map(source: str, target: str) -> Entries:
  return [
    Rule(f"{source}.weight", f"params/{target}/kernel", DENSE),
    Rule(f"{source}.bias", f"params/{target}/bias"),
  ]


def _norm(source: str, target: str) -> Entries:
  return [
    Rule(f"{source}.weight", f"params/{target}/scale"),
    Rule(f"{source}.bias", f"params/{target}/bias"),
  ]


def _unused(source: str, reason: str) -> Skip:
  return Skip(source, reason, beside="params/token_embedding", optional=True)


def _hf(prefix: str) -> Table:
  """Hugging Face's CLIP, SigLIP and SigLIP 2; a prefix unless the tower stands alone."""
  layer = f"{prefix}encoder.layers.{{i}}"
  return (
    Rule(f"{prefix}embeddings.token_embedding.weight", "params/token_embedding"),
    Rule(f"{prefix}embeddings.position_embedding.weight", "params/position"),
    _unused(f"{prefix}embeddings.position_ids", "counts the positions"),
    *_norm(f"{layer}.layer_norm{{k}}", f"{_BLOCK}/norm{{k}}"),
    *(
      rule
      for source, target in _ATTENTION
      for rule in _map(f"{layer}.self_attn.{source}", f"{_BLOCK}/{target}")
    ),
    *_map(f"{layer}.mlp.fc{{k}}", f"{_BLOCK}/mlp_linear{{k}}"),
    *_norm(f"{prefix}final_layer_norm", "norm"),
  )


def _hf_clip(prefix: str) -> Table:
  return (
    *_hf(prefix),
    Rule("text_projection.weight", "params/projection/kernel", DENSE),
    _unused("vision_model.{rest*}", _IMAGE),
    _unused("visual_projection.weight", _IMAGE),
    _unused("logit_scale", _CONTRAST),
  )


def _hf_siglip(prefix: str) -> Table:
  return (
    *_hf(prefix),
    *_map(f"{prefix}head", "projection"),
    _unused("vision_model.{rest*}", _IMAGE),
    _unused("logit_scale", _CONTRAST),
    _unused("logit_bias", _CONTRAST),
  )


def _openai(prefix: str, projection: Entries) -> Table:
  """The text part of OpenAI's CLIP; open_clip keeps its names, some under a prefix."""
  layer = f"{prefix}transformer.resblocks.{{i}}"
  return (
    Rule(f"{prefix}token_embedding.weight", "params/token_embedding"),
    Rule(f"{prefix}positional_embedding", "params/position"),
    *_norm(f"{layer}.ln_{{k}}", f"{_BLOCK}/norm{{k}}"),
    Rule(f"{layer}.attn.in_proj_weight", tuple(f"params/{t}/kernel" for t in _QKV), DENSE),
    Rule(f"{layer}.attn.in_proj_bias", tuple(f"params/{t}/bias" for t in _QKV)),
    *_map(f"{layer}.attn.out_proj", f"{_BLOCK}/attn/out"),
    *_map(f"{layer}.mlp.c_fc", f"{_BLOCK}/mlp_linear1"),
    *_map(f"{layer}.mlp.c_proj", f"{_BLOCK}/mlp_linear2"),
    *_norm(f"{prefix}ln_final", "norm"),
    *projection,
    _unused("visual.{rest*}", _IMAGE),
    _unused("input_resolution", _IMAGE),
    _unused("context_length", "the position table tells"),
    _unused("vocab_size", "the token table tells"),
    _unused(f"{prefix}attn_mask", "the causal mask"),
    _unused("logit_scale", _CONTRAST),
    _unused("logit_bias", _CONTRAST),
  )


def _keys(layout: str, form: str, table: Table, prefix: str = "") -> Keys:
  block, norm = ("encoder.layers.{i}", "final_layer_norm")
  modules: tuple[tuple[str, str], ...] = ()
  if layout == "huggingface":
    modules = ((f"{prefix}{block}", _BLOCK), (f"{prefix}{norm}", "norm"))
  return Keys(layout, StandardOps(), table, modules, form)


_MATRIX = "params/projection/kernel"

KEYS = (
  *(
    _keys("huggingface", f"{family}{suffix}", table(prefix), prefix)
    for family, table in (("clip", _hf_clip), ("siglip", _hf_siglip))
    for prefix, suffix in (("text_model.", ""), ("", "_model"))
  ),
  *(
    _keys(layout, "clip", _openai("", [Rule("text_projection", _MATRIX)]))
    for layout in ("openai_clip", "open_clip")
  ),
  _keys("open_clip", "text", _openai("text.", [Rule("text.text_projection", _MATRIX)])),
  _keys("open_clip", "text_linear", _openai("text.", _map("text.text_projection", "projection"))),
)


def _activation(value: str, config: Config) -> Mapping[str, Any]:
  if value not in ACTIVATIONS:
    raise unknown_name("hidden_act", value, ACTIVATIONS)
  return {"activation": ACTIVATIONS[value]}


def _clip_end(value: int, config: Config) -> Mapping[str, Any]:
  # Configurations written before transformers corrected the id say 2, not the end token: their
  # networks take the highest id, and the end has it.
  return {"pool": "highest"} if value == 2 else {"pool": "eos", "eos_token": value}


def _clip_class(value: list[str] | None, config: Config) -> Mapping[str, Any]:
  known = {"CLIPTextModel": 0, "CLIPTextModelWithProjection": config["projection_dim"]}
  name = value[0] if value else "CLIPTextModel"
  if name not in known:
    raise unknown_name("class of the network", name, known)
  return {"projection": known[name]}


_FIELDS: dict[str, Setting] = {
  "vocab_size": "vocab_size",
  "max_position_embeddings": "context_length",
  "hidden_size": "width",
  "num_hidden_layers": "depth",
  "num_attention_heads": "num_heads",
  "intermediate_size": "mlp_dim",
  "hidden_act": _activation,
  "layer_norm_eps": "norm_eps",
}
_IGNORED = {**GENERATION, "projection_dim": "read with the class of the network, if it projects"}


def _siglip(architecture: str) -> ConfigReader:
  return ConfigReader(
    architecture, fields={**_FIELDS, "projection_size": "projection"}, ignored=_IGNORED
  )


READERS: dict[str, ConfigReader] = {
  "clip_text_model": ConfigReader(
    "clip_text_vit_base",
    fields={**_FIELDS, "eos_token_id": _clip_end, "architectures": _clip_class},
    ignored=_IGNORED,
  ),
  "siglip_text_model": _siglip("siglip_text_base"),
  "siglip2_text_model": _siglip("siglip2_text_base"),
}
"""Model type -> reader, of text towers alone. Files of both towers have the image tower's
reader: name the architecture of the text tower to take that one."""
