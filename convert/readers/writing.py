"""Configurations of transformers for networks that are written back; each is read back as proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from flax import linen as nn

from bcos_jax import models
from bcos_jax.errors import InputError, requires
from bcos_jax.io.bundles import Bundle
from bcos_jax.ops import StandardOps
from bcos_jax.variables import abstract_variables

from ..sources import Checkpoint
from . import config_readers, describe
from .hf_config import ACTIVATIONS
from .preprocessing import FILTERS, Reading, of_transformers

LAYOUT = "huggingface"
_ANY = ("widths", "position_resize", "drop_path", "drop_rate")
"""Fields that may differ between networks of the same shapes that compute the same function: widths
that are stated or follow from the first, the resizing of tables for other image sizes, training."""


def config_of(bundle: Bundle) -> dict[str, Any] | None:
  """Returns the `config.json` with which transformers opens the weights of a network.

  It is the one that the network, or what it was trained from, came with, as far as that still
  describes it; or else one that is made of the network's fields. Reading it back gives the network.

  Returns:
    None if transformers has no such network.

  Raises:
    MissingExtra: transformers is not installed.
  """
  requires("text", "Configurations of transformers")
  for config in (*_inherited(bundle.config["provenance"]), *_made(bundle.model)):
    if (fitted := _fitted(config, bundle)) is not None:
      return fitted
  return None


def preprocessor_of(bundle: Bundle) -> dict[str, Any] | None:
  """Returns the `preprocessor_config.json` that reads pictures as a network's evaluation does.

  Where a margin is odd, transformers may cut out a picture that is a pixel off: its rounding is
  another one than that of timm and torchvision.

  Returns:
    None for networks of texts, and where no image processor of transformers does the same.
  """
  if bundle.preprocess is None or bundle.model.ops.encoding.pairing != "none":
    return None
  encoding = bundle.model.ops.encoding
  wanted = Reading(
    dataclasses.replace(bundle.preprocess, center="floor"), encoding.mean, encoding.std
  )
  for config in (
    *_inherited(bundle.config["provenance"], "source_preprocessor"),
    _processor(wanted),
  ):
    try:
      if config is not None and of_transformers(config) == wanted:
        return dict(config)
    except InputError:
      continue
  return None


def _inherited(about: Mapping[str, Any], key: str = "source_config") -> Iterator[dict[str, Any]]:
  """Yields what a network came with, and then what those came with that it was trained from."""
  if about.get("source") == LAYOUT and about.get(key) is not None:
    yield dict(about[key])
  for older in (about.get("init"), about.get("network")):
    if isinstance(older, Mapping):
      yield from _inherited(older, key)


def _fitted(config: Mapping[str, Any], bundle: Bundle) -> dict[str, Any] | None:
  """Returns a configuration with the classes of a network, if it describes the network."""
  model = bundle.model
  fitted = {**config, **classes_of(bundle, config)}
  for name in ("image_size", "vocab_size"):
    if name in fitted and isinstance(getattr(model, name, None), int):
      fitted[name] = getattr(model, name)
  try:
    described = describe(Checkpoint("", {}, config=fitted))
  except InputError:
    return None
  fields = {name: tuple(v) if isinstance(v, list) else v for name, v in described.fields.items()}
  own = models.fields_of(type(model))
  for name in {"num_classes", "image_size"} & set(own) - fields.keys():
    fields[name] = getattr(model, name)  # the head's shape and the pictures tell them
  if described.architecture is None:
    return None
  read = models.create(described.architecture, ops=StandardOps(), **fields)
  return fitted if _equal(read.clone(ops=model.ops), model) else None


def _equal(read: nn.Module, model: nn.Module) -> bool:
  if type(read) is not type(model):
    return False
  free = {name: getattr(model, name) for name in _ANY if hasattr(model, name)}
  return read.clone(**free) == model and abstract_variables(read) == abstract_variables(model)


def classes_of(bundle: Bundle, config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the class of transformers that reads a classifier, and the names of its classes."""
  model, names = bundle.model, config.get("architectures") or [""]
  texts = models.is_language_model(model)
  if (texts and model.predicts_tokens) or not getattr(model, "num_classes", 0):
    return {}
  kind = "SequenceClassification" if texts else "ImageClassification"
  named = {}
  if names[0] and f"For{kind}" not in names[0]:
    family = names[0].removesuffix("Model").partition("For")[0]
    named = {"architectures": [f"{family}For{kind}"]}
  labels = bundle.labels or [f"LABEL_{i}" for i in range(model.num_classes)]
  # Classes of equal names share a number in the one direction, as transformers has it.
  numbers = {label: i for i, label in enumerate(labels)}
  return {**named, "id2label": dict(enumerate(labels)), "label2id": numbers}


def _made(model: nn.Module) -> Iterator[dict[str, Any]]:
  """Yields configurations of a network of images, made of its fields, for each kind it may be."""
  if model.reads != "images" or not model.ops.conventional:
    return
  # Names alone, which need no torch.
  from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS,
  )
  from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES as BARE

  mapping = dict[Any, Any](CLASSIFIERS if model.num_classes else BARE)
  known = _attributes(model)
  for kind, reader in config_readers().items():
    named = mapping.get(kind)
    if models.architecture(reader.architecture).module is not type(model) or named is None:
      continue
    own = {key: known[key] for key in reader.fields if key in known}
    own |= {
      key: getattr(model, field)
      for key, field in reader.fields.items()
      if isinstance(field, str) and hasattr(model, field)
    }
    cls = named if isinstance(named, str) else named[0]
    yield {"model_type": kind, "architectures": [cls], **own}


def _attributes(model: nn.Module) -> dict[str, Any]:
  """Returns what configurations call the parts of a network that its own fields call otherwise."""
  fields = {name: getattr(model, name) for name in models.fields_of(type(model))}
  found = {name: fields[name] for name in ("image_size", "patch_size") if name in fields}
  inverse = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
  if fields.get("activation") in inverse:
    found["hidden_act"] = inverse[fields["activation"]]
  if "stages" in fields:
    found["depths"] = list(fields["stages"])
    widths = fields["widths"] or [fields["width"] * 2**i for i in range(len(fields["stages"]))]
    expansion = 4 if fields.get("block") == "bottleneck" else 1
    found["hidden_sizes"] = [expansion * width for width in widths]
  if isinstance(fields.get("layer_scale"), bool):
    found["layer_scale_init_value"] = 1e-6 if fields["layer_scale"] else 0.0
  for name in ("depths", "num_heads"):
    if isinstance(fields.get(name), tuple):
      found[name] = list(fields[name])
  return found


def _processor(reading: Reading) -> dict[str, Any] | None:
  """Returns an image processor of transformers that reads pictures so; None if there is none."""
  preprocess = reading.preprocess
  if preprocess.colors != 3 or preprocess.cover:
    return None
  height, width = preprocess.size
  size = {"height": height, "width": width}
  numbers = {name: key for key, name in FILTERS.items()}
  common = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(reading.mean),
    "image_std": list(reading.std),
    "resample": numbers[preprocess.interpolation],
  }
  if not preprocess.resize:
    return {"image_processor_type": "ViTImageProcessor", "size": size, **common}
  cut = {"do_center_crop": True, "crop_size": size, **common}
  if isinstance(preprocess.resize, int):
    shorter = {"shortest_edge": preprocess.resize}
    return {"image_processor_type": "CLIPImageProcessor", "size": shorter, **cut}
  first = dict(zip(("height", "width"), preprocess.resize, strict=True))
  return {"image_processor_type": "DeiTImageProcessor", "size": first, **cut}
