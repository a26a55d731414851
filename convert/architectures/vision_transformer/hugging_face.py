"""Key tables of Hugging Face: ViT, DeiT, DINOv2, DINOv3, SigLIP and CLIP."""

from __future__ import annotations

from typing import Any

from bcos_jax.ops import StandardOps

from ...tables.axes import AS_IS, DENSE, PATCHES, ROW, ROWS, Axes
from ...tables.keys import Keys
from ...tables.rules import Rule, Table
from .parts import (
  BLOCK,
  CONTRAST,
  GATED,
  PATCH_MAP,
  POOL_QKV,
  TEXT,
  Entries,
  in_proj,
  linear,
  norm,
  scales,
  token,
  unused,
)


def _tokens(prefix: str) -> Entries:
  """Names that Hugging Face's ViT, DeiT, DINOv2 and DINOv3 share."""
  return [
    token(f"{prefix}embeddings.cls_token", "cls_token"),
    token(f"{prefix}embeddings.distillation_token", "distillation_token"),
    token(f"{prefix}embeddings.register_tokens", "register_tokens"),
    token(f"{prefix}embeddings.position_embeddings", "position"),
    unused(f"{prefix}embeddings.mask_token", "stands for masked patches while pretraining"),
  ]


def _hf_vit(
  prefix: str, heads: tuple[tuple[str, str], ...] = (), blocks: str | None = None
) -> Table:
  layer = f"{prefix if blocks is None else blocks}encoder.layer.{{i}}"
  rules = [
    *_tokens(prefix),
    *linear(f"{prefix}embeddings.patch_embeddings.projection", PATCH_MAP, PATCHES),
    *norm(f"{layer}.layernorm_before", f"{BLOCK}/norm1"),
    *linear(f"{layer}.attention.output.dense", f"{BLOCK}/attn/out"),
    *norm(f"{layer}.layernorm_after", f"{BLOCK}/norm2"),
    *linear(f"{layer}.intermediate.dense", f"{BLOCK}/mlp/linear1"),
    *linear(f"{layer}.output.dense", f"{BLOCK}/mlp/linear2"),
    *norm(f"{prefix}layernorm", "norm"),
    *linear(f"{prefix}pooler.dense", "pooler"),
  ]
  for part in ("query", "key", "value"):
    rules += linear(f"{layer}.attention.attention.{part}", f"{BLOCK}/attn/{part}")
  for source, target in heads:
    rules += linear(source, target)
  return tuple(rules)


def _hf_beit(prefix: str) -> Table:
  """BEiT and Data2Vec, as ViT but for the norm, which follows the pooling, and the positions."""
  layer = f"{prefix}encoder.layer.{{i}}"
  bias = "attention.attention.relative_position_bias.relative_position_bias_table"
  return (
    *_hf_vit(prefix, (("classifier", "head"),) if prefix else ()),
    *norm(f"{prefix}pooler.layernorm", "fc_norm"),
    Rule(f"{layer}.lambda_{{k}}", f"params/{BLOCK}/layer_scale{{k}}/scale"),
    Rule(f"{layer}.{bias}", f"params/{BLOCK}/relative_position"),
  )


def _relative(model: Any) -> bool:
  return model.positions == "relative"


def _hf_dinov2(prefix: str) -> Table:
  layer = f"{prefix}encoder.layer.{{i}}"
  rules = [
    *_tokens(prefix),
    *linear(f"{prefix}embeddings.patch_embeddings.projection", PATCH_MAP, PATCHES),
    *norm(f"{layer}.norm{{k}}", f"{BLOCK}/norm{{k}}"),
    *linear(f"{layer}.attention.output.dense", f"{BLOCK}/attn/out"),
    *scales(layer),
    *linear(f"{layer}.mlp.fc{{k}}", f"{BLOCK}/mlp/linear{{k}}"),
    *linear(f"{layer}.mlp.weights_in", GATED),
    *linear(f"{layer}.mlp.weights_out", f"{BLOCK}/mlp/down"),
    *norm(f"{prefix}layernorm", "norm"),
    *linear("classifier", "head"),
  ]
  for part in ("query", "key", "value"):
    rules += linear(f"{layer}.attention.attention.{part}", f"{BLOCK}/attn/{part}")
  return tuple(rules)


def _hf_dinov3(gated: bool) -> Table:
  rules = [
    *_tokens(""),
    *linear("embeddings.patch_embeddings", PATCH_MAP, PATCHES),
    *norm("layer.{i}.norm{k}", f"{BLOCK}/norm{{k}}"),
    *linear("layer.{i}.attention.o_proj", f"{BLOCK}/attn/out"),
    *scales("layer.{i}"),
    *norm("norm", "norm"),
  ]
  for part in ("query", "key", "value"):
    rules += linear(f"layer.{{i}}.attention.{part[0]}_proj", f"{BLOCK}/attn/{part}")
  names = ("gate", "up", "down") if gated else (None, "linear1", "linear2")
  for part, name in zip(("gate", "up", "down"), names, strict=True):
    if name:
      rules += linear(f"layer.{{i}}.mlp.{part}_proj", f"{BLOCK}/mlp/{name}")
  return tuple(rules)


def _hf_tower(prefix: str, patches: Axes = PATCHES) -> Entries:
  """What the vision towers of Hugging Face's CLIP and SigLIP share."""
  layer = f"{prefix}encoder.layers.{{i}}"
  rules = [
    *linear(f"{prefix}embeddings.patch_embedding", PATCH_MAP, patches),
    token(f"{prefix}embeddings.position_embedding.weight", "position", AS_IS),
    unused(f"{prefix}embeddings.position_ids", "counts positions"),
    *norm(f"{layer}.layer_norm{{k}}", f"{BLOCK}/norm{{k}}"),
    *linear(f"{layer}.self_attn.out_proj", f"{BLOCK}/attn/out"),
    *linear(f"{layer}.mlp.fc{{k}}", f"{BLOCK}/mlp/linear{{k}}"),
  ]
  for part in ("query", "key", "value"):
    rules += linear(f"{layer}.self_attn.{part[0]}_proj", f"{BLOCK}/attn/{part}")
  return rules


_HF_TEXT = (
  unused("text_model.{rest*}", TEXT),
  unused("text_projection.weight", TEXT),
  unused("logit_scale", CONTRAST),
  unused("logit_bias", CONTRAST),
)


def _hf_siglip(prefix: str, patches: Axes = PATCHES) -> Table:
  return (
    *_hf_tower(prefix, patches),
    *norm(f"{prefix}post_layernorm", "norm"),
    Rule(f"{prefix}head.probe", "params/pool/probe", ROWS),
    *in_proj(f"{prefix}head.attention", POOL_QKV),
    *linear(f"{prefix}head.attention.out_proj", "pool/attn/out"),
    *norm(f"{prefix}head.layernorm", "pool/norm"),
    *linear(f"{prefix}head.mlp.fc{{k}}", "pool/mlp/linear{k}"),
    *_HF_TEXT,
  )


def _hf_siglip_classifier(patches: Axes = PATCHES) -> Table:
  return (
    *_hf_tower("vision_model.", patches),
    *norm("vision_model.post_layernorm", "norm"),
    unused("vision_model.head.{rest*}", "the classifier pools by the mean instead"),
    *linear("classifier", "head"),
  )


def _hf_clip(prefix: str) -> Table:
  return (
    *_hf_tower(prefix),
    token(f"{prefix}embeddings.class_embedding", "cls_token", ROW),
    *norm(f"{prefix}pre_layrnorm", "pre_norm"),
    *norm(f"{prefix}post_layernorm", "norm"),
    Rule("visual_projection.weight", "params/projection/kernel", DENSE),
    *_HF_TEXT,
  )


_HF_CLIP_CLASSIFIER: Table = (
  *_hf_tower("vision_model."),
  token("vision_model.embeddings.class_embedding", "cls_token", ROW),
  *norm("vision_model.pre_layrnorm", "pre_norm"),
  *(
    unused(f"vision_model.post_layernorm.{leaf}", "the classifier reads tokens before this norm")
    for leaf in ("weight", "bias")
  ),
  *linear("classifier", "head"),
)


Pairs = tuple[tuple[str, str], ...]


def _modules(*pairs: tuple[str, str], block: str, prefix: str = "") -> Pairs:
  """The pairs with the blocks behind the first, under a prefix."""
  ordered = (pairs[0], (block, BLOCK), *pairs[1:])
  return tuple((prefix + source, target) for source, target in ordered)


_EMBEDDINGS, _LAYERNORM = ("embeddings", "embeddings"), ("layernorm", "norm")
_CLASSIFIER = (("classifier", "head"),)
_TEACHER = (("cls_classifier", "head"), ("distillation_classifier", "head_distillation"))


def _hf(form: str, table: Table, modules: tuple[tuple[str, str], ...]) -> Keys:
  return Keys("huggingface", StandardOps(), table, modules, form)


def hugging_face_keys() -> tuple[Keys, ...]:
  entries = []
  for name, heads in (
    *(("vit", _CLASSIFIER), ("deit", _CLASSIFIER), ("deit_teacher", _TEACHER)),
    ("ijepa", _CLASSIFIER),
  ):
    prefix = f"{name.partition('_')[0]}."
    modules = _modules(_EMBEDDINGS, _LAYERNORM, block="layers.{i}", prefix=prefix)
    entries.append(_hf(name, _hf_vit(prefix, heads), modules))
  # transformers 5 writes the blocks of MSN's classifiers without the prefix of all else.
  modules = _modules(_EMBEDDINGS, _LAYERNORM, block="layers.{i}", prefix="vit.")
  entries.append(_hf("vit_msn", _hf_vit("vit.", _CLASSIFIER, blocks=""), modules))
  for name in ("beit", "data2vec_vision", ""):
    prefix = f"{name}." if name else ""
    block = "encoder.layer.{i}" if name == "data2vec_vision" else "layers.{i}"
    modules = _modules(_EMBEDDINGS, block=block, prefix=prefix)
    form = name or "beit_model"
    entries.append(Keys("huggingface", StandardOps(), _hf_beit(prefix), modules, form, _relative))
  modules = _modules(_EMBEDDINGS, _LAYERNORM, block="layers.{i}")
  entries.append(_hf("vit_model", _hf_vit(""), modules))
  for name in ("dinov2", "dinov2_with_registers", ""):
    prefix = f"{name}." if name else ""
    modules = _modules(_EMBEDDINGS, _LAYERNORM, block="encoder.layer.{i}", prefix=prefix)
    entries.append(_hf(name or "dinov2_model", _hf_dinov2(prefix), modules))
  modules = _modules(_EMBEDDINGS, ("norm", "norm"), block="model.layer.{i}")
  entries.append(_hf("dinov3", _hf_dinov3(gated=False), modules))
  entries.append(_hf("dinov3_gated", _hf_dinov3(gated=True), modules))
  block, norm = "encoder.layers.{i}", ("post_layernorm", "norm")
  for prefix in ("vision_model.", ""):
    suffix = "" if prefix else "_model"
    modules = _modules(_EMBEDDINGS, norm, ("head", "pool"), block=block, prefix=prefix)
    entries.append(_hf(f"siglip{suffix}", _hf_siglip(prefix), modules))
    entries.append(_hf(f"siglip2_naflex{suffix}", _hf_siglip(prefix, DENSE), modules))
    modules = _modules(_EMBEDDINGS, ("pre_layrnorm", "pre_norm"), block=block, prefix=prefix)
    entries.append(_hf(f"clip{suffix}", _hf_clip(prefix), modules))
  modules = _modules(_EMBEDDINGS, norm, block=block, prefix="vision_model.")
  entries.append(_hf("siglip_classifier", _hf_siglip_classifier(), modules))
  entries.append(_hf("siglip2_naflex_classifier", _hf_siglip_classifier(DENSE), modules))
  modules = _modules(_EMBEDDINGS, ("pre_layrnorm", "pre_norm"), block=block, prefix="vision_model.")
  entries.append(_hf("clip_classifier", _HF_CLIP_CLASSIFIER, modules))
  return tuple(entries)
