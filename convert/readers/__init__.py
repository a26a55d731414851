"""Configuration readers: from the files beside a checkpoint to an architecture's fields."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from bcos_jax import models
from bcos_jax.errors import InputError, requires, unknown_name
from bcos_jax.ops import StandardOps

from ..sources import Checkpoint
from . import open_clip, timm
from .hf_config import Config, ConfigReader
from .preprocessing import Reading, of_transformers


def config_readers() -> dict[str, ConfigReader]:
  """Returns how to read each `model_type` of Hugging Face."""
  return {
    model_type: reader
    for found in models.architectures()
    for model_type, reader in found.config_readers().items()
    if model_type != timm.KIND
  }


@dataclasses.dataclass(frozen=True)
class Described:
  """The description of a network in the files beside its weights.

  Attributes:
    architecture: Name of a variant; None if not stated.
    fields: What to replace in it.
    layout: How the weights name their tensors; None if not stated.
    labels: Names of the classes, or ().
    num_labels: Number of classes; None if not stated.
    reading: Preprocessing of pictures; None if not stated.
    of_imagenet: Whether the files say that the classes are those of ImageNet-1k.
    named: Whether the user named the architecture of a configuration that names one itself.
  """

  architecture: str | None = None
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  layout: str | None = None
  labels: tuple[str, ...] = ()
  num_labels: int | None = None
  reading: Reading | None = None
  of_imagenet: bool = False
  named: bool = False


def describe(
  checkpoint: Checkpoint, architecture: str | None = None, *, default_preprocess: bool = False
) -> Described:
  """Reads configuration, labels and preprocessing.

  Args:
    checkpoint: The source.
    architecture: Given by the user: it is then not read from the configuration.
    default_preprocess: Leaves the preprocessing to the architecture.

  Raises:
    InputError: An unknown model type, or anything in the configuration that is not understood.
  """
  config = checkpoint.config
  if config is None:
    return Described()
  if "pretrained_cfg" in config:
    return Described(layout=timm.KIND, **vars(timm.describe(config, default_preprocess)))
  if "model_cfg" in config:
    name, fields = open_clip.describe(config, architecture)
    side = fields.get("image_size") or _side(name)
    return Described(
      name,
      fields,
      "open_clip",
      reading=None if default_preprocess or side is None else open_clip.reading(config, side),
    )
  reading = None
  if checkpoint.preprocessor is not None and not default_preprocess:
    reading = of_transformers(checkpoint.preprocessor)
  labels, count = _labels(config)
  if architecture is not None:
    if (tower := _text_tower(config, architecture)) is not None:
      reader, whole, given = tower
      return Described(architecture, reader.read(whole, given), "huggingface")
    _check_same(config, architecture)
    return Described(
      architecture, labels=labels, num_labels=count, reading=reading, named="model_type" in config
    )
  reader, whole = _reader(config)
  fields = reader.read(whole, config)
  layout = "aloe" if str(config["model_type"]).startswith("aloe") else "huggingface"
  return Described(reader.architecture, fields, layout, labels, count, reading)


_UNREAD = (
  *("num_classes", "norm_eps", "image_size", "position_resize", "layer_scale", "drop_path"),
  *("pool", "pooler", "projection", "final_norm", "norm_after_pool", "distillation_head", "task"),
  *("context_length", "vocab_size"),
)
"""Fields that a given architecture may have otherwise: the keys, or rounding, settle them."""


def _check_same(config: Config, architecture: str) -> None:
  """Raises InputError where a configuration that is understood is one of another function."""
  try:
    reader, whole = _reader(config)
    fields = reader.read(whole, config)
  except InputError:
    return  # not understood, which is why the user names the architecture
  theirs, ours = (models.architecture(name) for name in (reader.architecture, architecture))
  stated, given = {**theirs.full(reader.architecture), **fields}, ours.full(architecture)
  differing = [
    f"{field} {stated[field]!r} for {given[field]!r}"
    for field in given
    if theirs is ours and field not in _UNREAD and stated[field] != given[field]
  ]
  if theirs is not ours:
    differing = [f"a {theirs.module.__name__} for a {ours.module.__name__}"]
  if differing:
    raise InputError(
      f"config.json contradicts the architecture {architecture!r}: {'; '.join(differing)}.",
      "Omit --architecture, or pass the weights file itself if config.json is wrong.",
    )


def _text_tower(config: Config, architecture: str) -> tuple[ConfigReader, Config, Config] | None:
  """Returns how to read the text tower of a network with two; None if it was not requested.

  The second configuration is what the file itself states.
  """
  model = models.create(architecture, ops=StandardOps())
  kind = f"{config.get('model_type')}_text_model"
  readers = config_readers()
  if not model.is_text_tower or kind not in readers:
    return None
  given = dict(config.get("text_config") or {})
  if kind == "clip_text_model":
    given |= {"architectures": ["CLIPTextModelWithProjection"]}
    given["projection_dim"] = complete(config)["projection_dim"]
  return readers[kind], complete({**given, "model_type": kind}), given


def _side(name: str) -> int | None:
  """Returns the side of an architecture's pictures; None for a text tower."""
  return getattr(models.create(name, ops=StandardOps()), "image_size", None)


def _reader(config: Config) -> tuple[ConfigReader, Config]:
  """Returns the reader of a model type, and the configuration with all defaults filled in."""
  kind = config.get("model_type")
  if kind is None:
    raise InputError(
      "The configuration has no model_type.", "Give --architecture, a name of `bcos-jax models`."
    )
  readers = config_readers()
  if kind not in readers:
    raise unknown_name("model_type", kind, readers)
  return readers[kind], complete(config)


def complete(config: Config) -> Config:
  """Returns a Hugging Face configuration with the defaults of transformers filled in.

  Raises:
    InputError: transformers refuses a value.
  """
  requires("text", "Configurations of Hugging Face")
  from transformers import AutoConfig

  kind = config["model_type"]
  given = {key: value for key, value in config.items() if key != "model_type"}
  try:
    filled = AutoConfig.for_model(kind, **given).to_dict()
  except ValueError as error:
    if "Unrecognized model identifier" in str(error):
      return config  # a model type of this package's own readers, such as ALOE's
    raise _refused(kind, error) from error
  except Exception as error:  # any error of a configuration class on damaged values
    raise _refused(kind, error) from error
  return {**filled, "model_type": kind}


def _refused(kind: str, error: Exception) -> InputError:
  return InputError(
    f"transformers refuses the configuration of {kind!r}: {' '.join(str(error).split())[:300]}",
    "Correct config.json, or download it again.",
  )


def _labels(config: Config) -> tuple[tuple[str, ...], int | None]:
  names = config.get("id2label")
  if names is None:
    return (), config.get("num_labels")
  try:
    ordered = {int(key): str(value) for key, value in names.items()}
  except (ValueError, AttributeError) as error:
    raise InputError(
      f"id2label in config.json is not a mapping from numbers to names: {error}.",
      "Correct config.json.",
    ) from error
  if sorted(ordered) != list(range(len(ordered))):
    raise InputError(
      f"id2label in config.json numbers its {len(ordered)} classes {sorted(ordered)[:5]}...",
      "Number them from 0 without gaps.",
    )
  labels = tuple(ordered[i] for i in range(len(ordered)))
  unnamed = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
  return (() if unnamed else labels), len(labels)
