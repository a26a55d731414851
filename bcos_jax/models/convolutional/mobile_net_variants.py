"""Published MobileNets, MNASNets and EfficientNets, by the names of torchvision and timm."""

from __future__ import annotations

from collections.abc import Iterable
import math
from typing import Any

Fields = dict[str, Any]
# Kind, repeats, side of the window, stride, hidden channels per channel, channels, squeeze-and-
# excite as a share (of the block's input, or of its hidden channels), activation.
Row = tuple[str, int, int, int, float, int, float, str]

_IR, _DS, _ER, _CN = "inverted", "separable", "fused", "plain"


def rounded(channels: float, divisor: int = 8) -> int:
  """Returns a multiple of the divisor that is at least 90 % of the channels."""
  nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return nearest + divisor if nearest < 0.9 * channels else nearest


def stages(
  rows: Iterable[Iterable[Row]],
  stem: int,
  width: float = 1.0,
  depth: float = 1.0,
  of_hidden: bool = False,
) -> tuple[tuple[tuple, ...], ...]:
  """Returns the blocks of each stage, as the fields of a `MobileNet`.

  Args:
    rows: Of each stage.
    stem: Channels that the first block reads.
    width: Multiplies the channels.
    depth: Multiplies the repeats, rounded up; those of rows that are alone in their stage.
    of_hidden: Whether squeezed channels are a share of the hidden ones, in multiples of 8.
  """
  made, channels = [], stem
  for stage in rows:
    blocks = []
    for kind, repeats, kernel, strides, ratio, features, share, activation in stage:
      features = rounded(features * width)
      for i in range(math.ceil(repeats * depth)):
        hidden = channels if kind in (_DS, _CN) else rounded(channels * ratio)
        squeeze = rounded(hidden * share) if of_hidden else max(1, int(channels * share))
        blocks.append(
          (
            *(kind, kernel, strides if i == 0 else 1),
            *(0 if kind == _CN else hidden, features),
            *(squeeze if share else 0, activation),
          )
        )
        channels = features
    made.append(tuple(blocks))
  return tuple(made)


def _v2(width: float, depth: float = 1.0, fixed: bool = False) -> Fields:
  rows = ((2, 2, 24), (3, 2, 32), (4, 2, 64), (3, 1, 96), (3, 2, 160))
  stem = 32 if fixed else rounded(32 * width)
  first = [[(_DS, 1, 3, 1, 1, 16, 0.0, "relu6")]]
  middle = [[(_IR, n, 3, strides, 6, features, 0.0, "relu6")] for n, strides, features in rows]
  last = [[(_IR, 1, 3, 1, 6, 320, 0.0, "relu6")]]
  # The deeper networks of timm repeat neither the first nor the last block.
  blocks = stages(first, stem, width, 1.0 if fixed else depth)
  blocks += stages(middle, blocks[-1][-1][4], width, depth)
  blocks += stages(last, blocks[-1][-1][4], width, 1.0 if fixed else depth)
  features = 1280 if fixed else max(1280, rounded(1280 * width))
  return {"stem": stem, "stages": blocks, "features": features, "activation": "relu6"}


def _mnasnet(width: float, squeeze: bool = False) -> Fields:
  plain = (
    (3, 3, 2, 3, 24),
    (3, 5, 2, 3, 40),
    (3, 5, 2, 6, 80),
    (2, 3, 1, 6, 96),
    (4, 5, 2, 6, 192),
  )
  rows: list[list[Row]] = [[(_DS, 1, 3, 1, 1, 16, 0.0, "relu")]]
  if squeeze:
    plain = ((2, 3, 2, 6, 24), (3, 5, 2, 3, 40), (4, 3, 2, 6, 80), (2, 3, 1, 6, 112))
    plain = (*plain, (3, 5, 2, 6, 160))
  shares = (0.0, 0.25, 0.0, 0.25, 0.25) if squeeze else (0.0,) * 5
  for (n, kernel, strides, ratio, features), share in zip(plain, shares, strict=True):
    rows.append([(_IR, n, kernel, strides, ratio, features, share, "relu")])
  rows.append([(_IR, 1, 3, 1, 6, 320, 0.0, "relu")])
  stem = rounded(32 * width)
  return {"stem": stem, "stages": stages(rows, stem, width)}


def _v3(size: str, width: float = 1.0) -> Fields:
  re, hs = "relu", "hard_swish"
  if size == "small":
    rows = (
      [(_DS, 1, 3, 2, 1, 16, 0.25, re)],
      [(_IR, 1, 3, 2, 4.5, 24, 0.0, re), (_IR, 1, 3, 1, 3.67, 24, 0.0, re)],
      [(_IR, 1, 5, 2, 4, 40, 0.25, hs), (_IR, 2, 5, 1, 6, 40, 0.25, hs)],
      [(_IR, 2, 5, 1, 3, 48, 0.25, hs)],
      [(_IR, 3, 5, 2, 6, 96, 0.25, hs)],
    )
  else:
    rows = (
      [(_DS, 1, 3, 1, 1, 16, 0.0, re)],
      [(_IR, 1, 3, 2, 4, 24, 0.0, re), (_IR, 1, 3, 1, 3, 24, 0.0, re)],
      [(_IR, 3, 5, 2, 3, 40, 0.25, re)],
      [
        (_IR, 1, 3, 2, 6, 80, 0.0, hs),
        (_IR, 1, 3, 1, 2.5, 80, 0.0, hs),
        (_IR, 2, 3, 1, 2.3, 80, 0.0, hs),
      ],
      [(_IR, 2, 3, 1, 6, 112, 0.25, hs)],
      [(_IR, 3, 5, 2, 6, 160, 0.25, hs)],
    )
  stem = rounded(16 * width) if width >= 0.75 else 16
  return {
    "stem": stem,
    "stages": stages(rows, stem, width, of_hidden=True),
    "features": rounded((576 if size == "small" else 960) * width),
    "hidden": 1024 if size == "small" else 1280,
    "activation": hs,
    "squeeze_gate": "hard_sigmoid",
  }


_SE = {"activation": "silu", "squeeze_activation": "silu"}
_TENSORFLOW = {"padding": "tensorflow", "norm_eps": 1e-3}


def _efficient(width: float, depth: float, side: int, lite: bool = False) -> Fields:
  plain = (
    (2, 3, 2, 24),
    (2, 5, 2, 40),
    (3, 3, 2, 80),
    (3, 5, 1, 112),
    (4, 5, 2, 192),
    (1, 3, 1, 320),
  )
  act, share = ("relu6", 0.0) if lite else ("silu", 0.25)
  first: list[list[Row]] = [[(_DS, 1, 3, 1, 1, 16, share, act)]]
  rows: list[list[Row]] = [
    [(_IR, n, kernel, strides, 6, features, share, act)] for n, kernel, strides, features in plain
  ]
  stem = 32 if lite else rounded(32 * width)
  # The lite networks keep the first and the last stage, the stem and the last convolution.
  blocks = stages(first, stem, width, 1.0 if lite else depth)
  blocks += stages(rows[:-1], blocks[-1][-1][4], width, depth)
  blocks += stages(rows[-1:], blocks[-1][-1][4], width, 1.0 if lite else depth)
  fields = {"activation": "relu6"} if lite else _SE
  features = 1280 if lite else rounded(1280 * width)
  return {"stem": stem, "stages": blocks, "features": features, "image_size": side, **fields}


# Kind, repeats, stride, hidden channels per channel, channels.
_V2_ROWS = {
  "s": (
    *((_CN, 2, 1, 1, 24), (_ER, 4, 2, 4, 48), (_ER, 4, 2, 4, 64), (_IR, 6, 2, 4, 128)),
    *((_IR, 9, 1, 6, 160), (_IR, 15, 2, 6, 256)),
  ),
  "m": (
    *((_CN, 3, 1, 1, 24), (_ER, 5, 2, 4, 48), (_ER, 5, 2, 4, 80), (_IR, 7, 2, 4, 160)),
    *((_IR, 14, 1, 6, 176), (_IR, 18, 2, 6, 304), (_IR, 5, 1, 6, 512)),
  ),
  "l": (
    *((_CN, 4, 1, 1, 32), (_ER, 7, 2, 4, 64), (_ER, 7, 2, 4, 96), (_IR, 10, 2, 4, 192)),
    *((_IR, 19, 1, 6, 224), (_IR, 25, 2, 6, 384), (_IR, 7, 1, 6, 640)),
  ),
  "xl": (
    *((_CN, 4, 1, 1, 32), (_ER, 8, 2, 4, 64), (_ER, 8, 2, 4, 96), (_IR, 16, 2, 4, 192)),
    *((_IR, 24, 1, 6, 256), (_IR, 32, 2, 6, 512), (_IR, 8, 1, 6, 640)),
  ),
  "b": (
    *((_CN, 1, 1, 1, 16), (_ER, 2, 2, 4, 32), (_ER, 2, 2, 4, 48), (_IR, 3, 2, 4, 96)),
    *((_IR, 5, 1, 6, 112), (_IR, 8, 2, 6, 192)),
  ),
}


def _efficient_v2(size: str, side: int, width: float = 1.0, depth: float = 1.0) -> Fields:
  rows: list[list[Row]] = [
    [(kind, n, 3, strides, ratio, features, 0.25 if kind == _IR else 0.0, "silu")]
    for kind, n, strides, ratio, features in _V2_ROWS[size]
  ]
  stem = rounded({"s": 24, "m": 24}.get(size, 32) * width)
  features = rounded(1280 * width)
  blocks = stages(rows, stem, width, depth)
  return {"stem": stem, "stages": blocks, "features": features, "image_size": side, **_SE}


_SCALES = {
  "b0": (1.0, 1.0, 224),
  "b1": (1.0, 1.1, 240),
  "b2": (1.1, 1.2, 288),
  "b3": (1.2, 1.4, 300),
  "b4": (1.4, 1.8, 380),
  "b5": (1.6, 2.2, 456),
  "b6": (1.8, 2.6, 528),
  "b7": (2.0, 3.1, 600),
}
_LITE = {
  **{"lite0": (1.0, 1.0, 224), "lite1": (1.0, 1.1, 240), "lite2": (1.1, 1.2, 260)},
  **{"lite3": (1.2, 1.4, 300), "lite4": (1.4, 1.8, 380)},
}


def _named() -> dict[str, Fields]:
  rows: dict[str, Fields] = {"mobilenet_v2": _v2(1.0)}
  for size, side in (("large", 1280), ("small", 1024)):
    rows[f"mobilenet_v3_{size}"] = {**_v3(size), "hidden": side, "norm_eps": 1e-3}
  for name, width in (("0_5", 0.5), ("0_75", 0.75), ("1_0", 1.0), ("1_3", 1.3)):
    rows[f"mnasnet{name}"] = _mnasnet(width)
  for name, scale in _SCALES.items():
    # torchvision gives the larger ones the epsilon of TensorFlow.
    rows[f"efficientnet_{name}"] = {
      **_efficient(*scale),
      **({"norm_eps": 1e-3} if name >= "b5" else {}),
    }
  for size, side in (("s", 384), ("m", 480), ("l", 480)):
    rows[f"efficientnet_v2_{size}"] = {**_efficient_v2(size, side), "norm_eps": 1e-3}
  return rows


def _timm() -> dict[str, Fields]:
  rows: dict[str, Fields] = {}
  for name, width in (("035", 0.35), ("050", 0.5), ("075", 0.75), ("100", 1.0), ("140", 1.4)):
    rows[f"mobilenetv2_{name}"] = _v2(width)
  rows["mobilenetv2_110d"] = _v2(1.1, 1.2, fixed=True)
  rows["mobilenetv2_120d"] = _v2(1.2, 1.4, fixed=True)
  for name, width in (("050", 0.5), ("075", 0.75), ("100", 1.0), ("140", 1.4)):
    rows[f"mnasnet_{name}"] = _mnasnet(width)
    rows[f"semnasnet_{name}"] = _mnasnet(width, squeeze=True)
  for size, widths in (("large", (75, 100)), ("small", (50, 75, 100))):
    for width in widths:
      rows[f"mobilenetv3_{size}_{width:03}"] = _v3(size, width / 100)
      if width > 50:
        name = f"tf_mobilenetv3_{size}_{width:03}"
        rows[name] = {**_v3(size, width / 100), **_TENSORFLOW}
  for name, scale in _SCALES.items():
    rows[f"tf_efficientnet_{name}"] = {**_efficient(*scale), **_TENSORFLOW}
  for name, scale in _LITE.items():
    rows[f"efficientnet_{name}"] = _efficient(*scale, lite=True)
    rows[f"tf_efficientnet_{name}"] = {**_efficient(*scale, lite=True), **_TENSORFLOW}
  for size, side in (("s", 384), ("m", 416), ("l", 480), ("xl", 512)):
    rows[f"efficientnetv2_{size}"] = _efficient_v2(size, side)
    rows[f"tf_efficientnetv2_{size}"] = {**_efficient_v2(size, side), **_TENSORFLOW}
  for name, width, depth, side in (
    *(("b0", 1.0, 1.0, 224), ("b1", 1.0, 1.1, 240)),
    *(("b2", 1.1, 1.2, 260), ("b3", 1.2, 1.4, 300)),
  ):
    fields = _efficient_v2("b", side, width, depth)
    rows[f"tf_efficientnetv2_{name}"] = {**fields, **_TENSORFLOW}
  return rows


VARIANTS = {**_named(), **_timm()}

_TINY_BLOCKS = (
  (("separable", 3, 1, 8, 8, 4, "relu6"),),
  (("inverted", 3, 2, 16, 12, 0, "relu6"), ("inverted", 3, 1, 16, 12, 4, "hard_swish")),
)
TEST_VARIANTS = {
  "mobile_net_tiny": {
    "stem": 8,
    "stages": _TINY_BLOCKS,
    "features": 24,
    "activation": "relu6",
    "image_size": 32,
    "num_classes": 10,
  },
  "efficient_net_tiny": {
    "stem": 8,
    "stages": (
      (("plain", 3, 1, 0, 8, 0, "silu"),),
      (("fused", 3, 2, 16, 12, 0, "silu"), ("separable", 3, 1, 12, 12, 3, "silu")),
    ),
    "features": 24,
    "hidden": 16,
    **_SE,
    "squeeze_gate": "hard_sigmoid",
    **_TENSORFLOW,
    "image_size": 32,
    "num_classes": 10,
  },
}
