"""Key tables of timm, torchvision, OpenAI's CLIP and open_clip."""

from __future__ import annotations

from bcos_jax.inputs import CLIP_MEAN, CLIP_STD, Encoding
from bcos_jax.ops import StandardOps

from ...tables.axes import AS_IS, DENSE, PATCHES, ROW, ROWS
from ...tables.keys import Keys
from ...tables.rules import Rule, Table
from .parts import (
  BLOCK,
  CONTRAST,
  GATED,
  PATCH_MAP,
  POOL_QKV,
  QKV,
  TEXT,
  Entries,
  in_proj,
  leaves,
  linear,
  norm,
  token,
  unused,
)


def _timm(gated: bool = False, prefix: str = "", extra: Entries = []) -> Table:  # noqa: B006
  block = f"{prefix}blocks.{{i}}"
  hidden = linear(f"{block}.mlp.fc{{k}}", f"{BLOCK}/mlp/linear{{k}}")
  if gated:
    hidden = [
      *linear(f"{block}.mlp.fc1", GATED),
      *linear(f"{block}.mlp.fc2", f"{BLOCK}/mlp/down"),
    ]
  return (
    token(f"{prefix}cls_token", "cls_token"),
    token(f"{prefix}dist_token", "distillation_token"),
    token(f"{prefix}reg_token", "register_tokens"),
    token(f"{prefix}pos_embed", "position"),
    *linear(f"{prefix}patch_embed.proj", PATCH_MAP, PATCHES),
    *norm(f"{prefix}norm_pre", "pre_norm"),
    *norm(f"{block}.norm{{k}}", f"{BLOCK}/norm{{k}}"),
    *linear(f"{block}.attn.qkv", QKV),
    *linear(f"{block}.attn.proj", f"{BLOCK}/attn/out"),
    Rule(f"{block}.ls{{k}}.gamma", f"params/{BLOCK}/layer_scale{{k}}/scale"),
    *hidden,
    *norm(f"{prefix}norm", "norm"),
    *norm(f"{prefix}fc_norm", "fc_norm"),
    Rule(f"{prefix}attn_pool.latent", "params/pool/probe", ROWS),
    *linear(f"{prefix}attn_pool.q", "pool/attn/query"),
    *linear(f"{prefix}attn_pool.kv", POOL_QKV[1:]),
    *linear(f"{prefix}attn_pool.proj", "pool/attn/out"),
    *norm(f"{prefix}attn_pool.norm", "pool/norm"),
    *linear(f"{prefix}attn_pool.mlp.fc{{k}}", "pool/mlp/linear{k}"),
    *linear(f"{prefix}head", "head"),
    *linear(f"{prefix}head_dist", "head_distillation"),
    *extra,
  )


def _timm_beit() -> Table:
  """BEiT: biases of queries and values apart, and a table of relative positions per block."""
  replaced = {f"{_B}.attn.qkv.weight", f"{_B}.attn.qkv.bias", f"{_B}.ls{{k}}.gamma"}
  plain = [e for e in _timm() if not (isinstance(e, Rule) and e.source in replaced)]
  return (
    *plain,
    Rule(f"{_B}.attn.qkv.weight", leaves(QKV, "kernel"), DENSE),
    Rule(f"{_B}.attn.q_bias", f"params/{QKV[0]}/bias"),
    Rule(f"{_B}.attn.v_bias", f"params/{QKV[2]}/bias"),
    Rule(f"{_B}.attn.relative_position_bias_table", f"params/{BLOCK}/relative_position"),
    Rule(f"{_B}.gamma_{{k}}", f"params/{BLOCK}/layer_scale{{k}}/scale"),
  )


_B = "blocks.{i}"


def _torchvision(linear1: str, linear2: str) -> Table:
  layer = "encoder.layers.encoder_layer_{i}"
  return (
    token("class_token", "cls_token"),
    token("encoder.pos_embedding", "position"),
    *linear("conv_proj", PATCH_MAP, PATCHES),
    *norm(f"{layer}.ln_{{k}}", f"{BLOCK}/norm{{k}}"),
    *in_proj(f"{layer}.self_attention", QKV),
    *linear(f"{layer}.self_attention.out_proj", f"{BLOCK}/attn/out"),
    *linear(f"{layer}.mlp.{linear1}", f"{BLOCK}/mlp/linear1"),
    *linear(f"{layer}.mlp.{linear2}", f"{BLOCK}/mlp/linear2"),
    *norm("encoder.ln", "norm"),
    *linear("heads.head", "head"),
  )


def _openai(prefix: str, extra: Entries = []) -> Table:  # noqa: B006
  """The visual part of OpenAI's CLIP; open_clip keeps its names."""
  layer = f"{prefix}transformer.resblocks.{{i}}"
  return (
    token(f"{prefix}class_embedding", "cls_token", ROW),
    token(f"{prefix}positional_embedding", "position", AS_IS),
    *linear(f"{prefix}conv1", PATCH_MAP, PATCHES),
    *norm(f"{prefix}ln_pre", "pre_norm"),
    *norm(f"{layer}.ln_{{k}}", f"{BLOCK}/norm{{k}}"),
    *in_proj(f"{layer}.attn", QKV),
    *linear(f"{layer}.attn.out_proj", f"{BLOCK}/attn/out"),
    *linear(f"{layer}.mlp.c_fc", f"{BLOCK}/mlp/linear1"),
    *linear(f"{layer}.mlp.c_proj", f"{BLOCK}/mlp/linear2"),
    *norm(f"{prefix}ln_post", "norm"),
    Rule(f"{prefix}proj", "params/projection/kernel"),
    *extra,
  )


_OPEN_CLIP_TEXT: Entries = [
  *(
    unused(name, TEXT)
    for name in (
      "text.{rest*}",
      "transformer.{rest*}",
      "ln_final.{rest*}",
      "token_embedding.weight",
      "positional_embedding",
      "text_projection",
      "context_length",
      "vocab_size",
    )
  ),
  unused("input_resolution", "the position table tells"),
  unused("logit_scale", CONTRAST),
  unused("logit_bias", CONTRAST),
]


def _clip_keys(layout: str) -> tuple[Keys, ...]:
  ops = StandardOps(encoding=Encoding(CLIP_MEAN, CLIP_STD))
  modules = (("ln_pre", "pre_norm"), ("transformer.resblocks.{i}", BLOCK))
  full = tuple((f"visual.{a}", b) for a, b in modules)
  return (
    Keys(layout, ops, _openai("visual.", _OPEN_CLIP_TEXT), full, "clip"),
    Keys(layout, ops, _openai(""), modules, "visual"),
  )


_TIMM_MODULES = (("blocks.{i}", BLOCK),)
_TRUNK = "visual.trunk."

OTHER_KEYS = (
  Keys("timm", StandardOps(), _timm(), _TIMM_MODULES, "timm"),
  Keys(
    "timm",
    StandardOps(),
    _timm_beit(),
    _TIMM_MODULES,
    "timm_beit",
    fits=lambda model: model.positions == "relative",
  ),
  Keys("timm", StandardOps(), _timm(gated=True), _TIMM_MODULES, "timm_gated"),
  Keys(
    "torchvision",
    StandardOps(),
    _torchvision("0", "3"),
    (("encoder.layers.encoder_layer_{i}", BLOCK), ("encoder.ln", "norm")),
    "torchvision",
  ),
  # The files that torchvision published before it renamed them while loading.
  Keys(
    "torchvision",
    StandardOps(),
    _torchvision("linear_1", "linear_2"),
    (("encoder.layers.encoder_layer_{i}", BLOCK), ("encoder.ln", "norm")),
    "torchvision_published",
  ),
  *_clip_keys("openai_clip"),
  *_clip_keys("open_clip"),
  Keys(
    "open_clip",
    StandardOps(),
    _timm(prefix=_TRUNK, extra=_OPEN_CLIP_TEXT),
    ((f"{_TRUNK}blocks.{{i}}", BLOCK),),
    "trunk",
  ),
)
