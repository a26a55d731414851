"""Repositories of timm: `model_args` and `pretrained_cfg`, attribute by attribute.

`timm.models.save_for_hf` writes the arguments with which a network was made. What they mean depends
on its architecture, whose reader is registered under the model type 'timm'.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from bcos_jax import models
from bcos_jax.errors import InputError, unknown_name

from .hf_config import Config, ConfigReader, Fields, Setting
from .preprocessing import Reading, of_timm

KIND = "timm"
_TRAINING = "training only"
_IGNORED = {
  "num_classes": "the head tells",
  "in_chans": "the first map tells",
  "pretrained": "what was loaded before",
  "checkpoint_path": "what was loaded before",
  "zero_init_last": "initialisation",
  "head_init_scale": "initialisation",
  "weight_init": "initialisation",
  "fix_init": "initialisation",
  "memory_efficient": "memory while training",
  **dict.fromkeys(
    (
      *("drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate"),
      *("attn_drop_rate", "pos_drop_rate", "patch_drop_rate", "pre_drop_rate", "drop"),
    ),
    _TRAINING,
  ),
}
ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_tanh": "gelu_tanh",
  "quick_gelu": "quick_gelu",
  "relu": "relu",
  "silu": "silu",
  "swish": "silu",
}
"""Names of timm -> names of `functional.GATES`."""
CNN_POOLS = {"avg": "mean", "fast": "mean", "fastavg": "mean"} | {
  f"{prefix}{name}": pool
  for prefix in ("", "fast")
  for name, pool in {"max": "max", "avgmax": "mean_max", "catavgmax": "mean_and_max"}.items()
}
"""Names of timm's pooling over space -> names of `layers.GLOBAL_POOLS`."""


def reader(
  fields: Mapping[str, Setting] | None = None,
  *,
  only: Mapping[str, tuple[Any, ...]] | None = None,
  ignored: Mapping[str, str] | None = None,
) -> ConfigReader:
  """Returns how the arguments of timm's networks change an architecture.

  Args:
    fields: Argument -> field, or a function (value, config) -> fields, where `config` has all
      arguments, and under 'variant' the fields of the network before they are applied.
    only: Argument -> the values with which the network computes what ours does.
    ignored: Argument -> why it changes nothing here.
  """
  settings = {"global_pool": only_mean, **(fields or {})}
  return ConfigReader(
    "", settings, {"output_stride": (32,), **(only or {})}, {**_IGNORED, **(ignored or {})}
  )


def only_mean(value: str, config: Config) -> Fields:
  """The pooling of architectures that have the mean only."""
  if CNN_POOLS.get(value) != "mean":
    raise _refused("global_pool", value, "this architecture pools by the mean, 'avg'")
  return {}


def cnn_pool(value: str, config: Config) -> Fields:
  """The pooling over space of architectures with a field `global_pool`."""
  if value not in CNN_POOLS:
    raise _refused("global_pool", value, f"supported are {', '.join(map(repr, CNN_POOLS))}")
  return {"global_pool": CNN_POOLS[value]}


def activation(value: str | None, config: Config) -> Fields:
  """The activation of the hidden layers."""
  if value is None:
    return {}
  if value not in ACTIVATIONS:
    raise unknown_name("act_layer", value, ACTIVATIONS)
  return {"activation": ACTIVATIONS[value]}


def image_size(value: int | list[int] | None, config: Config) -> Fields:
  """Height and width in pixels; one number where they are equal."""
  if value is None:
    return {}
  sides = _pair("img_size", value)
  return {"image_size": sides[0] if sides[0] == sides[1] else sides}


def square(argument: str, field: str) -> Setting:
  """Reads a length that may be given twice."""

  def read(value: Any, config: Config) -> Fields:
    sides = _pair(argument, value)
    if sides[0] != sides[1]:
      raise _refused(argument, value, "supported are squares")
    return {field: sides[0]}

  return read


def _pair(argument: str, value: Any) -> tuple[int, int]:
  sides = (value, value) if isinstance(value, int) else tuple(value)
  if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
    raise _refused(argument, value, "expected one or two lengths in pixels")
  return sides


def _refused(name: str, value: Any, what: str) -> InputError:
  return InputError(
    f"{name} is {value!r} in this timm network; {what}.",
    "Convert a network without it; bcos-jax models lists what there is.",
  )


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a timm repository says of its network.

  Attributes:
    architecture: Name of a variant.
    fields: What to replace in it.
    labels: Names of the classes, or ().
    num_labels: Number of classes; None if not stated.
    reading: How pictures are read; None if that was not requested.
    of_imagenet: Whether the weights' tag says that the classes are those of ImageNet-1k.
  """

  architecture: str
  fields: Fields
  labels: tuple[str, ...]
  num_labels: int | None
  reading: Reading | None
  of_imagenet: bool


def describe(config: Config, default_preprocess: bool) -> Contents:
  """Reads a `config.json` of timm.

  Raises:
    InputError: An unknown architecture, or an argument that is not understood, by name.
  """
  details = config["pretrained_cfg"]
  name = architecture_of(config)
  if name not in models.names():
    raise unknown_name("architecture", name, models.names())
  arguments = config.get("model_args") or {}
  if not isinstance(arguments, Mapping) or not isinstance(details, Mapping):
    raise InputError("model_args or pretrained_cfg is not an object.", "Correct config.json.")
  fields = _fields(name, arguments)
  count = config.get("num_classes", details.get("num_classes"))
  colors = arguments.get("in_chans", 3)
  if colors not in (1, 3):
    raise _refused("in_chans", colors, "pictures are grey, 1, or RGB, 3")
  sized = {"input_size": (colors, *details.get("input_size", (3, 224, 224))[1:])}
  reading = None if default_preprocess else of_timm({**details, **sized})
  if reading is not None and "img_size" not in arguments:
    fields |= image_size(list(reading.preprocess.size), config) if _sized(name) else {}
  tag = str(details.get("tag", "")) or str(config.get("architecture", "")).partition(".")[2]
  of_imagenet = count == 1000 and tag.split("_")[-1] == "in1k"
  return Contents(name, fields, _labels(config, details), count, reading, of_imagenet)


def architecture_of(config: Config) -> str:
  """Returns the name of the network, without the tag of its weights."""
  return str(config.get("architecture", "")).partition(".")[0]


def _sized(name: str) -> bool:
  return "image_size" in models.fields_of(models.architecture(name).module)


def _fields(name: str, arguments: Config) -> Fields:
  """Returns the fields that the arguments replace."""
  found = models.architecture(name)
  own = found.config_readers().get(KIND) or reader()
  whole = {**arguments, "model_type": KIND, "variant": found.full(name)}
  try:
    return own.read(whole, arguments)
  except (TypeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(
      f"model_args of {name!r} cannot be read: {error}.", "Correct config.json."
    ) from error


def _labels(config: Config, details: Config) -> tuple[str, ...]:
  """Returns the names of the classes: their descriptions, where there are any."""
  names = config.get("label_names") or details.get("label_names") or ()
  about = config.get("label_descriptions") or details.get("label_descriptions") or {}
  if isinstance(names, Mapping):
    numbered = {int(key): name for key, name in names.items()}
    names = [numbered.get(i, "") for i in range(max(numbered) + 1)] if numbered else []
  return tuple(str(about.get(name, name)) for name in names)
