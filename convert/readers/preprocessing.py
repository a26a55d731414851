"""Image preprocessing of transformers and timm configurations, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Preprocess

Config = Mapping[str, Any]
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_CLIP = {
  "image_mean": (0.48145466, 0.4578275, 0.40821073),
  "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_PLAIN = {"image_mean": _HALF, "image_std": _HALF, "do_center_crop": False}
_SQUARE = {"height": 224, "width": 224}
_CROPPED = {
  "size": {"shortest_edge": 224},
  "crop_size": _SQUARE,
  "do_center_crop": True,
  "resample": 3,
  **_CLIP,
}
_ON = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_PROCESSORS: dict[str, Config] = {
  "ViT": {**_PLAIN, "size": _SQUARE, "resample": 2},
  "DINOv3ViT": {**_PLAIN, **_IMAGENET, "size": _SQUARE, "resample": 2},
  "Siglip": {**_PLAIN, "size": _SQUARE, "resample": 3},
  "Aloe": {**_PLAIN, "size": _SQUARE, "resample": 2},
  "DeiT": {
    **_PLAIN,
    "size": {"height": 256, "width": 256},
    "crop_size": _SQUARE,
    "do_center_crop": True,
    "resample": 3,
  },
  "CLIP": _CROPPED,
  "Bit": _CROPPED,
  "ConvNext": {**_PLAIN, "size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 224 / 256},
}
"""Kind of image processor -> what it does unless its file says otherwise."""
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Numbers of PIL -> names."""
_HARMLESS = {
  "do_convert_rgb": "pictures are always read as RGB",
  "image_processor_type": "chooses the defaults",
  "feature_extractor_type": "chooses the defaults",
  "processor_class": "names a class",
  "auto_map": "names a class",
  "data_format": "layout of arrays",
  "input_data_format": "layout of arrays",
  "default_to_square": "the size says which it is",
  "device": "where it runs",
  "return_tensors": "form of the outputs",
  "disable_grouping": "speed",
}
_OFF = ("do_pad", "do_reduce_labels", "do_flip_channel_order", "do_split_image", "do_thumbnail")


@dataclasses.dataclass(frozen=True)
class Reading:
  """How pictures become what the network sees.

  Attributes:
    preprocess: From a picture to colours in [0, 1].
    mean: Subtracted from each colour.
    std: Then divided by.
  """

  preprocess: Preprocess
  mean: tuple[float, ...]
  std: tuple[float, ...]


def of_transformers(config: Config) -> Reading:
  """Reads a `preprocessor_config.json`.

  Raises:
    InputError: An image processor or an attribute that is not understood.
  """
  name = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
  kind = name
  for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
    kind = kind.removesuffix(suffix)
  if kind not in _PROCESSORS:
    raise unknown_name("image processor", name, [f"{k}ImageProcessor" for k in _PROCESSORS])
  settings = {**_ON, **_PROCESSORS[kind]}
  problems = []
  for key, value in config.items():
    if key in settings or key in ("crop_size", "size"):
      settings[key] = settings.get(key) if value is None else value
    elif value and key not in _HARMLESS:
      problems.append(f"{key} is {value!r}, " + ("" if key in _OFF else "which is ") + _expect(key))
  settings["crop_pct"] = settings.get("crop_pct")
  problems += [f"{key} is False" for key in ("do_resize", "do_rescale") if not settings[key]]
  if abs(settings["rescale_factor"] - 1 / 255) > 1e-9:
    problems.append(f"rescale_factor is {settings['rescale_factor']!r}, supported is 1/255")
  if settings["resample"] not in FILTERS:
    problems.append(f"resample is {settings['resample']!r}, supported are {list(FILTERS)}")
  if problems:
    raise not_understood(name, problems)
  try:
    size, resize = _geometry(settings)
    mean, std = (tuple(map(float, settings[f"image_{what}"])) for what in ("mean", "std"))
  except (TypeError, ValueError, KeyError) as error:
    raise not_understood(name, [f"{type(error).__name__}: {error}"]) from error
  if not settings["do_normalize"]:
    mean, std = (0.0,) * 3, (1.0,) * 3
  filter_name = FILTERS[settings["resample"]]
  return Reading(Preprocess(size, resize, filter_name, center="floor"), mean, std)


def _expect(key: str) -> str:
  return "supported is False" if key in _OFF else "not understood"


def not_understood(name: str, problems: list[str]) -> InputError:
  return InputError(
    f"The preprocessing of {name} does not fit: {'; '.join(problems)}.",
    "Pass --default_preprocess to use the architecture's default instead.",
  )


def _geometry(settings: Config) -> tuple[tuple[int, int], int | tuple[int, int]]:
  """Returns the size of the result and what the picture is scaled to first."""
  size, shorter = _pair(settings["size"]), _shortest(settings["size"])
  if settings["crop_pct"] is not None:
    # ConvNeXt: below 384 pixels a crop of the scaled picture, from there on the whole picture.
    side = shorter or size[0]
    return (side, side), (int(side / settings["crop_pct"]) if side < 384 else 0)
  if settings["do_center_crop"]:
    crop = _pair(settings["crop_size"])
    return crop, shorter or size
  if shorter:
    raise ValueError("the shorter side is scaled without a crop, which leaves sizes open")
  return size, 0


def _shortest(size: Any) -> int | None:
  return (
    int(size["shortest_edge"]) if isinstance(size, Mapping) and "shortest_edge" in size else None
  )


def _pair(size: Any) -> tuple[int, int]:
  if isinstance(size, Mapping):
    if "shortest_edge" in size:
      return int(size["shortest_edge"]), int(size["shortest_edge"])
    return int(size["height"]), int(size["width"])
  if isinstance(size, int):
    return size, size
  height, width = size
  return int(height), int(width)


def of_timm(config: Config) -> Reading:
  """Reads the `pretrained_cfg` of a timm repository.

  Raises:
    InputError: A setting that is not understood.
  """
  try:
    colors, height, width = config["input_size"]
    crop = config.get("crop_pct") or 0.875
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    mode = config.get("crop_mode") or "center"
    if colors not in (1, 3) or mode not in ("center", "squash"):
      raise ValueError(f"input_size {config['input_size']}, crop_mode {mode!r}")
    if len(mean) != colors:  # as timm does for networks of other colours
      mean, std = ((sum(values) / len(values),) * colors for values in (mean, std))
    # timm scales the shorter side (or, squashing, both) to size / crop_pct, rounded down.
    scaled = (math.floor(height / crop), math.floor(width / crop))
    square = height == width and mode == "center"
    preprocess = Preprocess(
      (height, width),
      scaled[0] if square else scaled,
      config.get("interpolation") or "bicubic",
      colors,
      cover=mode == "center" and not square,
    )
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise not_understood("timm", [f"{type(error).__name__}: {error}"]) from error
  return Reading(preprocess, mean, std)
