"""Repositories of open_clip: strict reading of `open_clip_config.json`."""

from __future__ import annotations

import dataclasses
from typing import Any

from bcos_jax import models
from bcos_jax.errors import InputError
from bcos_jax.inputs import CLIP_MEAN, CLIP_STD, Preprocess
from bcos_jax.ops import StandardOps

from .hf_config import Config, ConfigReader, Fields, side
from .preprocessing import Reading, not_understood

# What open_clip assumes for what a file does not state.
_VISION = {
  "layers": 12,
  "width": 768,
  "head_width": 64,
  "mlp_ratio": 4.0,
  "patch_size": 16,
  "image_size": 224,
}
_PICTURES = {
  "mode": "RGB",
  "mean": CLIP_MEAN,
  "std": CLIP_STD,
  "interpolation": "bicubic",
  "resize_mode": "shortest",
}

READER = ConfigReader(
  "clip_vit_base_patch32",
  fields={
    "layers": "depth",
    "width": lambda width, config: {
      "width": width,
      "num_heads": width // config["head_width"],
      "mlp_dim": int(width * config["mlp_ratio"]),
    },
    "image_size": side("image_size"),
    "patch_size": side("patch_size"),
    "embed_dim": "projection",
    "quick_gelu": lambda quick, config: {"activation": "quick_gelu" if quick else "gelu"},
  },
  only={
    "ls_init_value": (None,),
    "attentional_pool": (False,),
    "input_patchnorm": (False,),
    "global_average_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "final_ln_after_pool": (False,),
    "pool_type": ("tok",),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
  },
  ignored={
    "head_width": "read with the width",
    "mlp_ratio": "read with the width",
    "patch_dropout": "training only",
    "output_tokens": "form of the outputs",
  },
)
"""Of the plain vision transformers; other towers are named by the user."""


def describe(config: Config, architecture: str | None) -> tuple[str, Fields]:
  """Returns the architecture of the image tower and what to replace in it.

  Args:
    config: The content of `open_clip_config.json`.
    architecture: Given by the user; only the activation is then read from the file.

  Raises:
    InputError: A tower that must be named, or an attribute that is not understood.
  """
  about = config["model_cfg"]
  vision = about.get("vision_cfg") or {}
  quick = bool(about.get("quick_gelu", False))
  if architecture is not None:
    known = {f.name for f in dataclasses.fields(models.create(architecture, ops=StandardOps()))}
    clips = "timm_model_name" not in vision and "activation" in known
    return architecture, {"activation": "quick_gelu" if quick else "gelu"} if clips else {}
  if "timm_model_name" in vision or not isinstance(vision.get("layers", 0), int):
    tower = vision.get("timm_model_name", "a ResNet")
    raise InputError(
      f"The image tower of this open_clip repository is {tower!r}.",
      "Give --architecture, a name of `bcos-jax models`, such as clip_resnet50.",
    )
  given = {**vision, "embed_dim": about["embed_dim"], "quick_gelu": quick}
  whole = {**_VISION, **given, "model_type": "open_clip"}
  return READER.architecture, READER.read(whole, given)


def reading(config: Config, image_size: int) -> Reading:
  """Returns how open_clip's evaluation reads pictures.

  Args:
    config: The content of `open_clip_config.json`, or {} for a file without one.
    image_size: Of the network, where the configuration states none.

  Raises:
    InputError: A setting that is not understood.
  """
  given = config.get("preprocess_cfg") or {}
  settings: dict[str, Any] = {**_PICTURES, **given}
  size = settings.pop("size", None) or image_size
  height, width = (size, size) if isinstance(size, int) else size
  problems = [
    f"{key} is {value!r}"
    for key, value in given.items()
    if key not in (*_PICTURES, "size", "fill_color")
  ]
  if settings["mode"] != "RGB" or settings["resize_mode"] not in ("shortest", "squash"):
    problems.append(f"mode {settings['mode']!r}, resize_mode {settings['resize_mode']!r}")
  if height != width and settings["resize_mode"] == "shortest":
    problems.append(f"size is {size!r}")
  if problems:
    raise not_understood("open_clip", problems)
  resize = height if settings["resize_mode"] == "shortest" else 0
  return Reading(
    Preprocess((height, width), resize, settings["interpolation"]),
    tuple(map(float, settings["mean"])),
    tuple(map(float, settings["std"])),
  )
