"""ALOE's students: their key table, and configurations with `aloe_*` for what they changed."""

from __future__ import annotations

import math

from bcos_jax.errors import InputError, unknown_name
from bcos_jax.models.vision_transformer_variants import ALOE_STEM
from bcos_jax.ops import BcosOps

from ...readers.hf_config import (
  ACTIVATIONS,
  GENERATION,
  Config,
  ConfigReader,
  Fields,
  Setting,
  side,
)
from ...tables.axes import AS_IS, CONV, DENSE, ROWS, Axes
from ...tables.keys import Keys
from ...tables.rules import Rule, Table
from .parts import (
  BLOCK,
  PATCH_MAP,
  POOL_QKV,
  QKV,
  leaves,
  scales,
  token,
)

_STEM_STAGES = 12


def _table() -> Table:
  """ALOE's students: neither biases nor buffers (facts of its public code, section 5)."""
  base, layer = "vision_model.", "vision_model.encoder.layers.{i}"

  def weight(source: str, target: str | tuple[str, ...], axes: Axes = DENSE) -> Rule:
    return Rule(f"{source}.weight", leaves(target, "kernel"), axes)

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
    weight(f"{base}embeddings.patch_embedding.linear", PATCH_MAP),
    token(f"{base}embeddings.cls_token", "cls_token"),
    token(f"{base}embeddings.register_tokens.tokens", "register_tokens"),
    token(f"{base}embeddings.pos_embedding.embedding.weight", "position", AS_IS),
    scale(f"{layer}.layer_norm{{k}}", f"{BLOCK}/norm{{k}}"),
    weight(f"{layer}.self_attn.qkv_proj", QKV),
    weight(f"{layer}.self_attn.out_proj.linear", f"{BLOCK}/attn/out"),
    weight(f"{layer}.mlp.fc{{k}}.linear", f"{BLOCK}/mlp/linear{{k}}"),
    *scales(layer),
    scale(f"{base}post_layernorm", "norm"),
    Rule(f"{base}head.probe", "params/pool/probe", ROWS),
    weight(f"{base}head.attention.q_proj", "pool/attn/query"),
    weight(f"{base}head.attention.kv_proj", POOL_QKV[1:]),
    weight(f"{base}head.attention.out_proj.linear", "pool/attn/out"),
    scale(f"{base}head.layernorm", "pool/norm"),
    weight(f"{base}head.mlp.fc{{k}}.linear", "pool/mlp/linear{k}"),
    weight("classifier.linear", "head"),
  )


ALOE_KEYS = (Keys("aloe", BcosOps.aloe(), _table(), (("vision_model.encoder.layers.{i}", BLOCK),)),)


def _aloe_type(default: str) -> Setting:
  def read(value: str, config: Config) -> Fields:
    implementation = config.get("aloe_bcos_impl", default)
    if implementation != "v2":
      raise InputError(
        f"aloe_bcos_impl is {implementation!r}; published students compute v2, regardless of their "
        "files, and the two differ by the length of every weight.",
        "If it is v2, write 'v2' into config.json; else read with 'v2' and pass "
        "ops=BcosOps.aloe(implementation=1).",
      )
    return {}

  return read


def _aloe_stem(value: bool | list[int], config: Config) -> Fields:
  if value is False:
    raise InputError(
      "aloe_add_conv_stem is False; only students with a convolutional stem are supported.",
      "Convert a published student: all of them have the stem.",
    )
  return {"conv_stem": ALOE_STEM if value is True else tuple(value), "patch_size": 1}


def _aloe_logit_bias(value: float | None, config: Config) -> Fields:
  expected = -math.log(max(config.get("num_labels", 2) - 1, 1))
  if value is not None and not math.isclose(value, expected, rel_tol=1e-5):
    raise InputError(
      f"aloe_logit_bias is {value}, expected -log(classes - 1) = {expected:.6f}.",
      f"Pass ops=BcosOps.aloe(logit_bias={value}).",
    )
  return {}


def _aloe_activation(value: str, config: Config) -> Fields:
  # Its layers compute the exact GELU under either name.
  return {"activation": {"gelu_tanh": "gelu"}.get(ACTIVATIONS.get(value, value), value)}


def _aloe_pool(value: str | None, config: Config) -> Fields:
  known = {None: "cls", "cls": "cls", "map": "map", "attention": "map", "head": "map"}
  if value not in known:
    raise unknown_name("aloe_pooler_type", value, [k for k in known if k])
  return {"pool": known[value]} if value else {}


def _aloe(architecture: str, implementation: str, **only) -> ConfigReader:
  """One family of students.

  The default implementation is that of the configuration class, which holds where the file is
  silent.
  """
  elsewhere = "read off the architecture"
  return ConfigReader(
    architecture,
    fields={
      "model_type": _aloe_type(implementation),
      "hidden_size": "width",
      "num_hidden_layers": "depth",
      "num_attention_heads": "num_heads",
      "intermediate_size": "mlp_dim",
      "hidden_act": _aloe_activation,
      "layer_norm_eps": "norm_eps",
      "image_size": side("image_size"),
      "aloe_add_conv_stem": _aloe_stem,
      "aloe_num_registers": "registers",
      "aloe_pooler_type": _aloe_pool,
      "aloe_layer_scale_init": "layer_scale",
      "aloe_logit_bias": _aloe_logit_bias,
      # `aloe_rope_theta` may hold a default of 10000 that its own code never used.
      "rope_theta": "rope_theta",
    },
    only={
      "num_channels": (6,),
      "aloe_in_channels": (6,),
      "aloe_b_conv": (2, 2.0),
      "aloe_b_linear": (2, 2.0),
      "aloe_logit_temperature": (None, 1, 1.0),
      **only,
    },
    ignored={
      "patch_size": "the stem and the patches together",
      "num_patches": "the position table tells",
      "aloe_patch_size": "the stem and the patches together",
      "aloe_feature_dim": elsewhere,
      "aloe_to_patch_embedding_key": elsewhere,
      "aloe_backbone": elsewhere,
      "aloe_rope_theta": "yields to rope_theta",
      "aloe_base_model_name": "the teacher",
      "aloe_bcos_impl": "read with the model type",
      "aloe_use_logit_layer": "the classifier has it",
      "num_register_tokens": "aloe_num_registers counts",
      **GENERATION,
    },
  )


_TABLE = (None, "learned", "absolute", "learnable")
_FAMILIES = {
  "vit": _aloe(
    "aloe_vit_base_patch16_224",
    "v1",
    aloe_cls_token=(True,),
    aloe_use_layer_scale=(False, None),
    aloe_position_embedding_type=_TABLE,
  ),
  "dinov3": _aloe(
    "aloe_dinov3_vitb16",
    "v2",
    aloe_cls_token=(True,),
    aloe_use_layer_scale=(True,),
    aloe_position_embedding_type=("rope", "rope_2d", None),
  ),
  "siglip2": _aloe(
    "aloe_siglip2_base_patch16_224",
    "v2",
    aloe_cls_token=(False,),
    aloe_use_layer_scale=(False, None),
    aloe_position_embedding_type=_TABLE,
  ),
}

ALOE_READERS: dict[str, ConfigReader] = {
  f"aloe_{family}_{kind}": reader
  for family, reader in _FAMILIES.items()
  for kind in ("vision", "image_classification")
}
