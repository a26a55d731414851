"""Key tables of vision transformers: Hugging Face, timm, torchvision, OpenAI CLIP and ALOE.

Sources name the same parts differently, and several fuse queries, keys and values into one matrix.
Each function below is one way of naming; a prefix says where a source hangs the network.
"""

from __future__ import annotations

from bcos_jax.inputs import CLIP_MEAN, CLIP_STD, Encoding
from bcos_jax.ops import BcosOps, StandardOps

from ..keys import Keys
from ..layouts import AS_IS, CONV, DENSE, PATCHES, ROW, ROWS, Layout
from ..rules import Rule, Skip, Table
from .vision_transformer_config import READERS as READERS

Entries = list[Rule | Skip]

_STEM_STAGES = 12
_PATCHES = "embeddings/patch_embedding"
_BLOCK = "encoder_{i}"
_QKV = tuple(f"{_BLOCK}/attn/{part}" for part in ("query", "key", "value"))
_POOL_QKV = tuple(f"pool/attn/{part}" for part in ("query", "key", "value"))
_GATED = (f"{_BLOCK}/mlp/gate", f"{_BLOCK}/mlp/up")


def _leaves(targets: str | tuple[str, ...], leaf: str) -> str | tuple[str, ...]:
  if isinstance(targets, str):
    return f"params/{targets}/{leaf}"
  return tuple(f"params/{target}/{leaf}" for target in targets)


def _map(source: str, target: str | tuple[str, ...], layout: Layout = DENSE) -> Entries:
  """A map, or several that the source holds as one."""
  return [
    Rule(f"{source}.weight", _leaves(target, "kernel"), layout),
    Rule(f"{source}.bias", _leaves(target, "bias")),
  ]


def _in_proj(source: str, targets: tuple[str, ...]) -> Entries:
  """Queries, keys and values as `torch.nn.MultiheadAttention` holds them."""
  return [
    Rule(f"{source}.in_proj_weight", _leaves(targets, "kernel"), DENSE),
    Rule(f"{source}.in_proj_bias", _leaves(targets, "bias")),
  ]


def _norm(source: str, target: str) -> Entries:
  return [
    Rule(f"{source}.weight", f"params/{target}/scale"),
    Rule(f"{source}.bias", f"params/{target}/bias"),
  ]


def _token(source: str, name: str, layout: Layout = ROWS) -> Rule:
  return Rule(source, f"params/embeddings/{name}", layout)


def _unused(source: str, reason: str) -> Skip:
  return Skip(source, reason, beside=f"params/{_PATCHES}/kernel", optional=True)


def _tokens(prefix: str) -> Entries:
  """Names that Hugging Face's ViT, DeiT, DINOv2 and DINOv3 share."""
  return [
    _token(f"{prefix}embeddings.cls_token", "cls_token"),
    _token(f"{prefix}embeddings.distillation_token", "distillation_token"),
    _token(f"{prefix}embeddings.register_tokens", "register_tokens"),
    _token(f"{prefix}embeddings.position_embeddings", "position"),
    _unused(f"{prefix}embeddings.mask_token", "stands for masked patches while pretraining"),
  ]


def _scales(source: str) -> Entries:
  return [Rule(f"{source}.layer_scale{{k}}.lambda1", f"params/{_BLOCK}/layer_scale{{k}}/scale")]


def _hf_vit(prefix: str, heads: tuple[tuple[str, str], ...] = ()) -> Table:
  layer = f"{prefix}encoder.layer.{{i}}"
  rules = [
    *_tokens(prefix),
    *_map(f"{prefix}embeddings.patch_embeddings.projection", _PATCHES, PATCHES),
    *_norm(f"{layer}.layernorm_before", f"{_BLOCK}/norm1"),
    *_map(f"{layer}.attention.output.dense", f"{_BLOCK}/attn/out"),
    *_norm(f"{layer}.layernorm_after", f"{_BLOCK}/norm2"),
    *_map(f"{layer}.intermediate.dense", f"{_BLOCK}/mlp/linear1"),
    *_map(f"{layer}.output.dense", f"{_BLOCK}/mlp/linear2"),
    *_norm(f"{prefix}layernorm", "norm"),
    *_map(f"{prefix}pooler.dense", "pooler"),
  ]
  for part in ("query", "key", "value"):
    rules += _map(f"{layer}.attention.attention.{part}", f"{_BLOCK}/attn/{part}")
  for source, target in heads:
    rules += _map(source, target)
  return tuple(rules)


def _hf_dinov2(prefix: str) -> Table:
  layer = f"{prefix}encoder.layer.{{i}}"
  rules = [
    *_tokens(prefix),
    *_map(f"{prefix}embeddings.patch_embeddings.projection", _PATCHES, PATCHES),
    *_norm(f"{layer}.norm{{k}}", f"{_BLOCK}/norm{{k}}"),
    *_map(f"{layer}.attention.output.dense", f"{_BLOCK}/attn/out"),
    *_scales(layer),
    *_map(f"{layer}.mlp.fc{{k}}", f"{_BLOCK}/mlp/linear{{k}}"),
    *_map(f"{layer}.mlp.weights_in", _GATED),
    *_map(f"{layer}.mlp.weights_out", f"{_BLOCK}/mlp/down"),
    *_norm(f"{prefix}layernorm", "norm"),
    *_map("classifier", "head"),
  ]
  for part in ("query", "key", "value"):
    rules += _map(f"{layer}.attention.attention.{part}", f"{_BLOCK}/attn/{part}")
  return tuple(rules)


def _hf_dinov3(gated: bool) -> Table:
  rules = [
    *_tokens(""),
    *_map("embeddings.patch_embeddings", _PATCHES, PATCHES),
    *_norm("layer.{i}.norm{k}", f"{_BLOCK}/norm{{k}}"),
    *_map("layer.{i}.attention.o_proj", f"{_BLOCK}/attn/out"),
    *_scales("layer.{i}"),
    *_norm("norm", "norm"),
  ]
  for part in ("query", "key", "value"):
    rules += _map(f"layer.{{i}}.attention.{part[0]}_proj", f"{_BLOCK}/attn/{part}")
  names = ("gate", "up", "down") if gated else (None, "linear1", "linear2")
  for part, name in zip(("gate", "up", "down"), names, strict=True):
    if name:
      rules += _map(f"layer.{{i}}.mlp.{part}_proj", f"{_BLOCK}/mlp/{name}")
  return tuple(rules)


def _hf_tower(prefix: str, patches: Layout = PATCHES) -> Entries:
  """What the vision towers of Hugging Face's CLIP and SigLIP share."""
  layer = f"{prefix}encoder.layers.{{i}}"
  rules = [
    *_map(f"{prefix}embeddings.patch_embedding", _PATCHES, patches),
    _token(f"{prefix}embeddings.position_embedding.weight", "position", AS_IS),
    _unused(f"{prefix}embeddings.position_ids", "counts positions"),
    *_norm(f"{layer}.layer_norm{{k}}", f"{_BLOCK}/norm{{k}}"),
    *_map(f"{layer}.self_attn.out_proj", f"{_BLOCK}/attn/out"),
    *_map(f"{layer}.mlp.fc{{k}}", f"{_BLOCK}/mlp/linear{{k}}"),
  ]
  for part in ("query", "key", "value"):
    rules += _map(f"{layer}.self_attn.{part[0]}_proj", f"{_BLOCK}/attn/{part}")
  return rules


_TEXT = "belongs to the text tower"
_CONTRAST = "scales similarities of images and texts"
_HF_TEXT = (
  _unused("text_model.{rest*}", _TEXT),
  _unused("text_projection.weight", _TEXT),
  _unused("logit_scale", _CONTRAST),
  _unused("logit_bias", _CONTRAST),
)


def _hf_siglip(prefix: str, patches: Layout = PATCHES) -> Table:
  return (
    *_hf_tower(prefix, patches),
    *_norm(f"{prefix}post_layernorm", "norm"),
    Rule(f"{prefix}head.probe", "params/pool/probe", ROWS),
    *_in_proj(f"{prefix}head.attention", _POOL_QKV),
    *_map(f"{prefix}head.attention.out_proj", "pool/attn/out"),
    *_norm(f"{prefix}head.layernorm", "pool/norm"),
    *_map(f"{prefix}head.mlp.fc{{k}}", "pool/mlp/linear{k}"),
    *_HF_TEXT,
  )


def _hf_siglip_classifier(patches: Layout = PATCHES) -> Table:
  return (
    *_hf_tower("vision_model.", patches),
    *_norm("vision_model.post_layernorm", "norm"),
    _unused("vision_model.head.{rest*}", "the classifier pools by the mean instead"),
    *_map("classifier", "head"),
  )


def _hf_clip(prefix: str) -> Table:
  return (
    *_hf_tower(prefix),
    _token(f"{prefix}embeddings.class_embedding", "cls_token", ROW),
    *_norm(f"{prefix}pre_layrnorm", "pre_norm"),
    *_norm(f"{prefix}post_layernorm", "norm"),
    Rule("visual_projection.weight", "params/projection/kernel", DENSE),
    *_HF_TEXT,
  )


_HF_CLIP_CLASSIFIER: Table = (
  *_hf_tower("vision_model."),
  _token("vision_model.embeddings.class_embedding", "cls_token", ROW),
  *_norm("vision_model.pre_layrnorm", "pre_norm"),
  *(
    _unused(f"vision_model.post_layernorm.{leaf}", "the classifier reads tokens before this norm")
    for leaf in ("weight", "bias")
  ),
  *_map("classifier", "head"),
)


def _timm(gated: bool = False, prefix: str = "", unused: Entries = []) -> Table:  # noqa: B006
  block = f"{prefix}blocks.{{i}}"
  hidden = _map(f"{block}.mlp.fc{{k}}", f"{_BLOCK}/mlp/linear{{k}}")
  if gated:
    hidden = [
      *_map(f"{block}.mlp.fc1", _GATED),
      *_map(f"{block}.mlp.fc2", f"{_BLOCK}/mlp/down"),
    ]
  return (
    _token(f"{prefix}cls_token", "cls_token"),
    _token(f"{prefix}dist_token", "distillation_token"),
    _token(f"{prefix}reg_token", "register_tokens"),
    _token(f"{prefix}pos_embed", "position"),
    *_map(f"{prefix}patch_embed.proj", _PATCHES, PATCHES),
    *_norm(f"{prefix}norm_pre", "pre_norm"),
    *_norm(f"{block}.norm{{k}}", f"{_BLOCK}/norm{{k}}"),
    *_map(f"{block}.attn.qkv", _QKV),
    *_map(f"{block}.attn.proj", f"{_BLOCK}/attn/out"),
    Rule(f"{block}.ls{{k}}.gamma", f"params/{_BLOCK}/layer_scale{{k}}/scale"),
    *hidden,
    *_norm(f"{prefix}norm", "norm"),
    Rule(f"{prefix}attn_pool.latent", "params/pool/probe", ROWS),
    *_map(f"{prefix}attn_pool.q", "pool/attn/query"),
    *_map(f"{prefix}attn_pool.kv", _POOL_QKV[1:]),
    *_map(f"{prefix}attn_pool.proj", "pool/attn/out"),
    *_norm(f"{prefix}attn_pool.norm", "pool/norm"),
    *_map(f"{prefix}attn_pool.mlp.fc{{k}}", "pool/mlp/linear{k}"),
    *_map(f"{prefix}head", "head"),
    *_map(f"{prefix}head_dist", "head_distillation"),
    *unused,
  )


def _torchvision(linear1: str, linear2: str) -> Table:
  layer = "encoder.layers.encoder_layer_{i}"
  return (
    _token("class_token", "cls_token"),
    _token("encoder.pos_embedding", "position"),
    *_map("conv_proj", _PATCHES, PATCHES),
    *_norm(f"{layer}.ln_{{k}}", f"{_BLOCK}/norm{{k}}"),
    *_in_proj(f"{layer}.self_attention", _QKV),
    *_map(f"{layer}.self_attention.out_proj", f"{_BLOCK}/attn/out"),
    *_map(f"{layer}.mlp.{linear1}", f"{_BLOCK}/mlp/linear1"),
    *_map(f"{layer}.mlp.{linear2}", f"{_BLOCK}/mlp/linear2"),
    *_norm("encoder.ln", "norm"),
    *_map("heads.head", "head"),
  )


def _openai(prefix: str, unused: Entries = []) -> Table:  # noqa: B006
  """The visual part of OpenAI's CLIP; open_clip keeps its names."""
  layer = f"{prefix}transformer.resblocks.{{i}}"
  return (
    _token(f"{prefix}class_embedding", "cls_token", ROW),
    _token(f"{prefix}positional_embedding", "position", AS_IS),
    *_map(f"{prefix}conv1", _PATCHES, PATCHES),
    *_norm(f"{prefix}ln_pre", "pre_norm"),
    *_norm(f"{layer}.ln_{{k}}", f"{_BLOCK}/norm{{k}}"),
    *_in_proj(f"{layer}.attn", _QKV),
    *_map(f"{layer}.attn.out_proj", f"{_BLOCK}/attn/out"),
    *_map(f"{layer}.mlp.c_fc", f"{_BLOCK}/mlp/linear1"),
    *_map(f"{layer}.mlp.c_proj", f"{_BLOCK}/mlp/linear2"),
    *_norm(f"{prefix}ln_post", "norm"),
    Rule(f"{prefix}proj", "params/projection/kernel"),
    *unused,
  )


_OPEN_CLIP_TEXT: Entries = [
  *(
    _unused(name, _TEXT)
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
  _unused("input_resolution", "the position table tells"),
  _unused("logit_scale", _CONTRAST),
  _unused("logit_bias", _CONTRAST),
]


def _aloe() -> Table:
  """ALOE's students: neither biases nor buffers (facts of its public code, section 5)."""
  base, layer = "vision_model.", "vision_model.encoder.layers.{i}"

  def weight(source: str, target: str | tuple[str, ...], layout: Layout = DENSE) -> Rule:
    return Rule(f"{source}.weight", _leaves(target, "kernel"), layout)

  def scale(source: str, target: str) -> Rule:
    return Rule(f"{source}.weight", f"params/{target}/scale")

  return (
    *(
      entry
      for i in range(_STEM_STAGES)
      for stage in (f"{base}embeddings.conv_stem.stem.{i}",)
      for entry in (
        weight(f"{stage}.conv.linear", f"embeddings/stem{i}_conv", CONV),
        scale(f"{stage}.norm", f"embeddings/stem{i}_norm"),
      )
    ),
    weight(f"{base}embeddings.patch_embedding.linear", _PATCHES),
    _token(f"{base}embeddings.cls_token", "cls_token"),
    _token(f"{base}embeddings.register_tokens.tokens", "register_tokens"),
    _token(f"{base}embeddings.pos_embedding.embedding.weight", "position", AS_IS),
    scale(f"{layer}.layer_norm{{k}}", f"{_BLOCK}/norm{{k}}"),
    weight(f"{layer}.self_attn.qkv_proj", _QKV),
    weight(f"{layer}.self_attn.out_proj.linear", f"{_BLOCK}/attn/out"),
    weight(f"{layer}.mlp.fc{{k}}.linear", f"{_BLOCK}/mlp/linear{{k}}"),
    *_scales(layer),
    scale(f"{base}post_layernorm", "norm"),
    Rule(f"{base}head.probe", "params/pool/probe", ROWS),
    weight(f"{base}head.attention.q_proj", "pool/attn/query"),
    weight(f"{base}head.attention.kv_proj", _POOL_QKV[1:]),
    weight(f"{base}head.attention.out_proj.linear", "pool/attn/out"),
    scale(f"{base}head.layernorm", "pool/norm"),
    weight(f"{base}head.mlp.fc{{k}}.linear", "pool/mlp/linear{k}"),
    weight("classifier.linear", "head"),
  )


Pairs = tuple[tuple[str, str], ...]


def _modules(*pairs: tuple[str, str], block: str, prefix: str = "") -> Pairs:
  """The pairs with the blocks behind the first, under a prefix."""
  ordered = (pairs[0], (block, _BLOCK), *pairs[1:])
  return tuple((prefix + source, target) for source, target in ordered)


_EMBEDDINGS, _LAYERNORM = ("embeddings", "embeddings"), ("layernorm", "norm")
_CLASSIFIER = (("classifier", "head"),)
_TEACHER = (("cls_classifier", "head"), ("distillation_classifier", "head_distillation"))


def _hf(layout: str, table: Table, modules: tuple[tuple[str, str], ...]) -> Keys:
  return Keys("huggingface", StandardOps(), table, modules, layout)


def _hf_keys() -> tuple[Keys, ...]:
  entries = []
  for name, heads in (("vit", _CLASSIFIER), ("deit", _CLASSIFIER), ("deit_teacher", _TEACHER)):
    prefix = f"{name.partition('_')[0]}."
    modules = _modules(_EMBEDDINGS, _LAYERNORM, block="layers.{i}", prefix=prefix)
    entries.append(_hf(name, _hf_vit(prefix, heads), modules))
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


def _clip_keys(source: str) -> tuple[Keys, ...]:
  ops = StandardOps(encoding=Encoding(CLIP_MEAN, CLIP_STD))
  modules = (("ln_pre", "pre_norm"), ("transformer.resblocks.{i}", _BLOCK))
  full = tuple((f"visual.{a}", b) for a, b in modules)
  return (
    Keys(source, ops, _openai("visual.", _OPEN_CLIP_TEXT), full, "clip"),
    Keys(source, ops, _openai(""), modules, "visual"),
  )


_TIMM_MODULES = (("blocks.{i}", _BLOCK),)
_TRUNK = "visual.trunk."

KEYS = (
  *_hf_keys(),
  Keys("timm", StandardOps(), _timm(), _TIMM_MODULES, "timm"),
  Keys("timm", StandardOps(), _timm(gated=True), _TIMM_MODULES, "timm_gated"),
  Keys(
    "torchvision",
    StandardOps(),
    _torchvision("0", "3"),
    (("encoder.layers.encoder_layer_{i}", _BLOCK), ("encoder.ln", "norm")),
    "torchvision",
  ),
  # The files that torchvision published before it renamed them while loading.
  Keys(
    "torchvision",
    StandardOps(),
    _torchvision("linear_1", "linear_2"),
    (("encoder.layers.encoder_layer_{i}", _BLOCK), ("encoder.ln", "norm")),
    "torchvision_published",
  ),
  *_clip_keys("openai_clip"),
  *_clip_keys("open_clip"),
  Keys(
    "open_clip",
    StandardOps(),
    _timm(prefix=_TRUNK, unused=_OPEN_CLIP_TEXT),
    ((f"{_TRUNK}blocks.{{i}}", _BLOCK),),
    "trunk",
  ),
  Keys("aloe", BcosOps.aloe(), _aloe(), (("vision_model.encoder.layers.{i}", _BLOCK),)),
)
