"""Vision transformers that timm publishes, by its names, beside ViT and DeiT of the same name."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

# Width, depth, heads, hidden channels of the feed-forward branch.
_SIZES = {
  "wee": (256, 14, 4, 1280),
  "xsmall": (256, 10, 4, 1024),
  "little": (320, 14, 5, 1792),
  "small": (384, 12, 6, 1536),
  "medium": (512, 12, 8, 2048),
  "mediumd": (512, 20, 8, 2048),
  "betwixt": (640, 12, 10, 2560),
  "base": (768, 12, 12, 3072),
  "base_plus": (896, 12, 14, 3584),
  "so150m": (896, 18, 14, 2304),
  "so150m2": (832, 21, 13, 2176),
  "large": (1024, 24, 16, 4096),
  "so400m": (1152, 27, 16, 4304),
  "huge": (1280, 32, 16, 5120),
  "giant": (1408, 40, 16, 6144),
  "giantopt": (1536, 40, 16, 6144),
  "gigantic": (1664, 48, 16, 8192),
}


def _size(size: str, patch: int, side: int) -> Fields:
  width, depth, heads, hidden = _SIZES[size]
  return {
    "width": width,
    "depth": depth,
    "num_heads": heads,
    "mlp_dim": hidden,
    "patch_size": patch,
    "image_size": side,
    "position_resize": "bicubic_antialias",
  }


def _deit3() -> dict[str, Fields]:
  """DeiT III (arXiv 2204.07118): LayerScale, and no position for the class token."""
  rows = (("small", 224), ("small", 384), ("medium", 224), ("base", 224), ("base", 384))
  rows = (*rows, ("large", 224), ("large", 384), ("huge", 224))
  made = {}
  for size, side in rows:
    patch = 14 if size == "huge" else 16
    fields = {**_size(size, patch, side), "layer_scale": 1e-6, "prefix_positions": False}
    made[f"deit3_{size}_patch{patch}_{side}"] = fields
  return made


def _dinov2() -> dict[str, Fields]:
  gated = {"gated_mlp": True, "activation": "silu"}
  giant = {**_size("giantopt", 14, 518), **gated, "num_heads": 24, "mlp_dim": 4096}
  rows = {}
  for size in ("small", "base", "large", "giant"):
    fields = giant if size == "giant" else _size(size, 14, 518)
    row = {**fields, "layer_scale": 1e-5, "num_classes": 0}
    registers = {"registers": 4, "prefix_positions": False}
    rows[f"vit_{size}_patch14_dinov2"] = row
    rows[f"vit_{size}_patch14_reg4_dinov2"] = {**row, **registers}
  return rows


def _clip() -> dict[str, Fields]:
  """CLIP's image towers; the projection is the head, with a bias. OpenAI's have quick GELU."""
  plain = (
    ("xsmall", 16, "", (224,)),
    ("medium", 32, "", (224,)),
    ("medium", 16, "", (224,)),
    ("betwixt", 32, "", (224,)),
    ("base", 32, "", (224, 256, 384, 448)),
    ("base", 16, "", (224, 384)),
    ("base_plus", 16, "_plus", (240,)),
    ("large", 14, "", (224, 336)),
    ("huge", 14, "", (224, 336, 378)),
    ("giant", 14, "", (224,)),
    ("gigantic", 14, "", (224, 378)),
  )
  quick = (
    ("base", 32, "", (224,)),
    ("base", 16, "", (224,)),
    ("large", 14, "", (224, 336)),
    ("huge", 14, "", (224, 378)),
    ("gigantic", 14, "", (224,)),
  )
  common = {"patch_bias": False, "pre_norm": True, "norm_eps": 1e-5}
  rows = {}
  for infix, activation, listed in (("", "gelu", plain), ("quickgelu_", "quick_gelu", quick)):
    for size, patch, plus, sides in listed:
      for side in sides:
        name = f"vit_{size.partition('_')[0]}_patch{patch}{plus}_clip_{infix}{side}"
        rows[name] = {**_size(size, patch, side), **common, "activation": activation}
  return rows


def _siglip() -> dict[str, Fields]:
  """SigLIP's image towers, whole (pooled by a probe), or the mean of their patches (`gap`).

  timm computes those of the first SigLIP with the exact GELU, and those that only SigLIP 2 has
  with the approximation by tanh.
  """
  both = (
    ("base", 32, (256,), "gelu_tanh"),
    ("base", 16, (224, 256, 384, 512), "gelu"),
    ("large", 16, (256, 384), "gelu"),
    ("large", 16, (512,), "gelu_tanh"),
    ("so400m", 14, (224, 378, 384), "gelu"),
    ("so400m", 16, (256, 384, 512), "gelu_tanh"),
    ("giantopt", 16, (256, 384), "gelu_tanh"),
  )
  rows = {}
  for size, patch, sides, activation in (*both, ("so400m", 14, (448, 896), "gelu")):
    for side in sides:
      fields = {**_size(size, patch, side), "class_token": False, "activation": activation}
      if side not in (448, 896):
        rows[f"vit_{size}_patch{patch}_siglip_{side}"] = {**fields, "pool": "map", "num_classes": 0}
      name = f"vit_{size}_patch{patch}_siglip_gap_{side}"
      rows[name] = {**fields, "pool": "mean", "num_classes": 0}
  return rows


def _means() -> dict[str, Fields]:
  """Networks whose head reads the mean of the patches, most with registers."""
  rows = {}
  mean = {"class_token": False, "pool": "mean"}
  for size, side in (("medium", 240), ("medium", 256), ("medium", 384), ("betwixt", 256)):
    fields = {**_size(size, 16, side), **mean, "qkv_bias": False, "layer_scale": 1e-6}
    rows[f"vit_{size}_patch16_gap_{side}"] = fields
  rows["vit_base_patch16_gap_224"] = {**_size("base", 16, 224), **mean, "num_heads": 16}
  rows["vit_huge_patch14_gap_224"] = {**_size("huge", 14, 224), **mean}
  rows["vit_huge_patch16_gap_448"] = {**_size("huge", 16, 448), **mean}
  rows["vit_giant_patch16_gap_224"] = {**_size("giant", 16, 224), **mean}
  tokens = {**mean, "norm_after_pool": True, "prefix_positions": False}
  for size, registers, sides in (
    ("wee", 1, (256,)),
    ("little", 1, (256,)),
    ("little", 4, (256,)),
    ("medium", 1, (256,)),
    ("medium", 4, (256,)),
    ("mediumd", 4, (256, 384)),
    ("betwixt", 1, (256,)),
    ("betwixt", 4, (256, 384)),
    ("base", 4, (256,)),
  ):
    for side in sides:
      fields = {**_size(size, 16, side), **tokens, "registers": registers}
      fields["layer_scale"] = None if size == "base" else 1e-5
      rows[f"vit_{size}_patch16_reg{registers}_gap_{side}"] = fields
  tokens = {**mean, "register_positions": True}
  for side in (256, 384):
    fields = {**_size("so150m", 16, side), **tokens, "registers": 4}
    rows[f"vit_so150m_patch16_reg4_gap_{side}"] = fields
  tokens |= {"norm_after_pool": True, "qkv_bias": False, "layer_scale": 1e-5}
  for side in (256, 384, 448):
    fields = {**_size("so150m2", 16, side), **tokens, "registers": 1}
    rows[f"vit_so150m2_patch16_reg1_gap_{side}"] = fields
  return rows


def _beit() -> dict[str, Fields]:
  """BEiT (arXiv 2106.08254) and BEiT v2: relative positions, and the mean of the patches."""
  rows = {}
  for name, size, side in (
    *(("beit", "base", side) for side in (224, 384)),
    *(("beit", "large", side) for side in (224, 384, 512)),
    *(("beitv2", size, 224) for size in ("base", "large")),
  ):
    rows[f"{name}_{size}_patch16_{side}"] = {
      **_size(size, 16, side),
      "positions": "relative",
      "key_bias": False,
      "layer_scale": 0.1 if (name, size) == ("beit", "base") else 1e-5,
      "pool": "mean",
      "norm_after_pool": True,
    }
  return rows


def _others() -> dict[str, Fields]:
  """EVA's distilled ViT-L, FlexiViT, InternViT, TIPS v2, RADIO, and further sizes of ViT."""
  rows = {
    "vit_large_patch14_224": _size("large", 14, 224),
    "vit_giant_patch14_224": _size("giant", 14, 224),
    "vit_gigantic_patch14_224": _size("gigantic", 14, 224),
    "vit_base_patch16_224_miil": {**_size("base", 16, 224), "qkv_bias": False},
    "vit_base_patch32_plus_256": {**_size("base_plus", 32, 256), "layer_scale": 1e-5},
    "vit_base_patch16_plus_240": {**_size("base_plus", 16, 240), "layer_scale": 1e-5},
    "vit_small_patch16_36x1_224": {**_size("small", 16, 224), "depth": 36, "layer_scale": 1e-5},
  }
  for side in (196, 336):
    fields = {**_size("large", 14, side), "pool": "mean", "norm_after_pool": True}
    rows[f"eva_large_patch14_{side}"] = fields
  for size in ("small", "base", "large"):
    rows[f"flexivit_{size}"] = {**_size(size, 16, 240), "prefix_positions": False}
  features = {"num_classes": 0}
  rows["vit_intern300m_patch14_448"] = {
    **_size("large", 14, 448),
    **features,
    "layer_scale": 0.1,
    "final_norm": False,
  }
  tips = {**features, "layer_scale": 1.0, "registers": 1, "prefix_positions": False}
  for size in ("base", "large", "so400m"):
    rows[f"vit_{size}_patch14_reg1_tipsv2"] = {**_size(size, 14, 448), **tips}
  return rows


TIMM_VARIANTS: dict[str, Fields] = {
  **_deit3(),
  **_dinov2(),
  **_clip(),
  **_siglip(),
  **_means(),
  **_beit(),
  **_others(),
}
