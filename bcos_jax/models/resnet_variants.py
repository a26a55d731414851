"""Published ResNets, by the names of torchvision, timm and B-cos v2."""

from __future__ import annotations


def _cifar(blocks: int) -> dict:
  return {
    "stages": (blocks,) * 3,
    "width": 16,
    "small_inputs": True,
    "image_size": 32,
    "num_classes": 10,
  }


_50 = {"block": "bottleneck", "stages": (3, 4, 6, 3)}
_101 = {"block": "bottleneck", "stages": (3, 4, 23, 3)}
_152 = {"block": "bottleneck", "stages": (3, 8, 36, 3)}

_D = {"deep_stem": (32, 32, 64), "average_shortcut": True}
_T = {"deep_stem": (24, 32, 64), "average_shortcut": True}
_SE = {"channel_attention": "squeeze_excite"}
_ECA = {"channel_attention": "efficient"}
_AA, _BLUR = {"downsampling": "average"}, {"downsampling": "blur"}
_RS = {**_D, **_SE, "stem_pool": "conv", "squeeze_ratio": 0.25}
_18, _34 = {}, {"stages": (3, 4, 6, 3)}
_14 = {"block": "bottleneck", "stages": (1, 1, 1, 1)}
_26 = {"block": "bottleneck", "stages": (2, 2, 2, 2)}
_200 = {"block": "bottleneck", "stages": (3, 24, 36, 3)}
_269 = {"block": "bottleneck", "stages": (3, 30, 48, 8)}


def _grouped(groups: int, width: int) -> dict:
  return {"groups": groups, "width_per_group": width}


def _timm() -> dict[str, dict]:
  """Further networks of timm, by its names."""
  depths = {"18": _18, "26": _26, "34": _34, "50": _50, "101": _101, "152": _152, "200": _200}
  rows = {f"resnet{n}d": {**depths[n], **_D} for n in depths}
  rows |= {f"resnet{n}c": {**depths[n], "deep_stem": (32, 32, 64)} for n in ("50", "101", "152")}
  rows |= {f"resnet{n}s": {**depths[n], "deep_stem": (64, 64, 128)} for n in ("50", "101", "152")}
  rows |= {"resnet10t": {"stages": (1, 1, 1, 1), **_T}, "resnet14t": {**_14, **_T}}
  rows |= {"resnet26t": {**_26, **_T}, "resnet50t": {**_50, **_T}}
  rows |= {"resnet26": _26, "resnet200": _200}
  rows |= {f"seresnet{n}": {**depths[n], **_SE} for n in ("18", "34", "50", "101", "152")}
  rows |= {f"seresnet{n}d": {**depths[n], **_SE, **_D} for n in ("152", "200")}
  rows |= {"seresnet50t": {**_50, **_SE, **_T}, "seresnet269d": {**_269, **_SE, **_D}}
  rows |= {f"ecaresnet{n}d": {**depths[n], **_ECA, **_D} for n in ("50", "101", "200")}
  rows |= {f"ecaresnet{n}t": {**depths[n], **_ECA, **_T} for n in ("26", "50")}
  rows |= {"ecaresnet269d": {**_269, **_ECA, **_D}}
  light = {"block": "bottleneck", "stages": (1, 1, 11, 3), "average_shortcut": True}
  rows |= {"ecaresnetlight": {**light, **_ECA}}
  rows |= {"resnetaa50": {**_50, **_AA}, "resnetblur18": _BLUR, "resnetblur50": {**_50, **_BLUR}}
  rows |= {f"resnetaa{n}d": {**depths[n], **_AA, **_D} for n in ("34", "50", "101")}
  rows |= {f"resnetblur{n}d": {**depths[n], **_BLUR, **_D} for n in ("50", "101")}
  rows |= {"seresnetaa50d": {**_50, **_AA, **_D, **_SE}}
  for name, stages in (
    *(("50", (3, 4, 6, 3)), ("101", (3, 4, 23, 3)), ("152", (3, 8, 36, 3))),
    *(("200", (3, 24, 36, 3)), ("270", (4, 29, 53, 4)), ("350", (4, 36, 72, 4))),
    ("420", (4, 44, 87, 4)),
  ):
    rows[f"resnetrs{name}"] = {**_RS, "block": "bottleneck", "stages": stages}
  return rows | _timm_grouped()


def _timm_grouped() -> dict[str, dict]:
  rows = {f"resnext101_32x{w}d": {**_101, **_grouped(32, w)} for w in (4, 16, 32)}
  rows["resnext50d_32x4d"] = {**_50, **_grouped(32, 4), **_D}
  for attention, fields in (("eca", _ECA), ("se", _SE)):
    rows[f"{attention}resnext26t_32x4d"] = {**_26, **_grouped(32, 4), **_T, **fields}
  rows["ecaresnext50t_32x4d"] = {**_50, **_grouped(32, 4), **_T, **_ECA}
  rows["seresnext26d_32x4d"] = {**_26, **_grouped(32, 4), **_D, **_SE}
  rows["seresnext50_32x4d"] = {**_50, **_grouped(32, 4), **_SE}
  for groups, width in ((32, 4), (32, 8), (64, 4)):
    rows[f"seresnext101_{groups}x{width}d"] = {**_101, **_grouped(groups, width), **_SE}
  rows["seresnext101d_32x8d"] = {**_101, **_grouped(32, 8), **_D, **_SE}
  rows["seresnextaa101d_32x8d"] = {**rows["seresnext101d_32x8d"], **_AA}
  deep = {"block": "bottleneck", "stages": (3, 24, 36, 4), "deep_stem": (64, 64, 128)}
  fields = {**_grouped(32, 8), **_AA, **_SE, "average_shortcut": True}
  rows["seresnextaa201d_32x8d"] = {**deep, **fields}
  return rows


VARIANTS = {
  "resnet18": {},
  "resnet34": {"stages": (3, 4, 6, 3)},
  "resnet50": _50,
  "resnet101": _101,
  "resnet152": _152,
  "resnext50_32x4d": {**_50, "groups": 32, "width_per_group": 4},
  "resnext101_32x8d": {**_101, "groups": 32, "width_per_group": 8},
  "resnext101_64x4d": {**_101, "groups": 64, "width_per_group": 4},
  "wide_resnet50_2": {**_50, "width_per_group": 128},
  "wide_resnet101_2": {**_101, "width_per_group": 128},
  # As above, and trained by B-cos v2's recipe of 600 epochs, which drops blocks.
  "resnet50_long": {**_50, "drop_path": 0.1},
  "resnet152_long": {**_152, "drop_path": 0.1},
  "resnet20": _cifar(3),
  "resnet32": _cifar(5),
  "resnet44": _cifar(7),
  "resnet56": _cifar(9),
  # For the quickstart.
  "resnet8": _cifar(1),
  **_timm(),
}

_TEST = {"stages": (1, 1), "width": 8, "image_size": 32, "num_classes": 10}

TEST_VARIANTS = {
  "resnet_d_test": {
    **_TEST,
    "deep_stem": (4, 4, 8),
    "average_shortcut": True,
    "downsampling": "blur",
    "channel_attention": "efficient",
  },
  "resnet_rs_test": {
    **_TEST,
    "block": "bottleneck",
    "stem_pool": "conv",
    "downsampling": "average",
    "channel_attention": "squeeze_excite",
    "squeeze_ratio": 0.25,
  },
  "resnet_tiny": {"stages": (1, 1), "width": 8, "image_size": 32, "num_classes": 10},
  "resnet_tiny_bottleneck": {
    "block": "bottleneck",
    "stages": (1, 1),
    "width": 8,
    "image_size": 32,
    "num_classes": 10,
  },
  "resnext_tiny": {
    "block": "bottleneck",
    "stages": (1, 1),
    "width": 16,
    "groups": 4,
    "width_per_group": 16,
    "drop_path": 0.1,
    "image_size": 32,
    "num_classes": 10,
  },
}
