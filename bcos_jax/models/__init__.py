"""Architectures, each defined once for every layer family, and their published variants."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import numpy as np

from ..errors import InputError, unknown_name
from ..ops import Ops
from . import (
  clip_resnet,
  convnext,
  densenet,
  resnet,
  simple_vit,
  swin,
  text_decoder,
  text_encoder,
  text_tower,
  vgg,
  vision_transformer_variants,
)
from .clip_resnet import ClipResNet as ClipResNet
from .convnext import ConvNeXt as ConvNeXt
from .densenet import DenseNet as DenseNet
from .language_model import LanguageModel as LanguageModel
from .resnet import ResNet as ResNet
from .simple_vit import SimpleViT as SimpleViT
from .swin import Swin as Swin
from .text_decoder import TextDecoder as TextDecoder
from .text_encoder import TextEncoder as TextEncoder
from .text_tower import TextTransformer as TextTransformer
from .vgg import VGG as VGG
from .vision_transformer import VisionTransformer as VisionTransformer

_VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  **{name: (ResNet, fields) for name, fields in resnet.VARIANTS.items()},
  **{name: (DenseNet, fields) for name, fields in densenet.VARIANTS.items()},
  **{name: (VGG, fields) for name, fields in vgg.VARIANTS.items()},
  **{name: (ConvNeXt, fields) for name, fields in convnext.VARIANTS.items()},
  **{name: (SimpleViT, fields) for name, fields in simple_vit.VARIANTS.items()},
  **{name: (ClipResNet, fields) for name, fields in clip_resnet.VARIANTS.items()},
  **{name: (Swin, fields) for name, fields in swin.VARIANTS.items()},
  **{name: (TextTransformer, fields) for name, fields in text_tower.VARIANTS.items()},
  **{name: (TextEncoder, fields) for name, fields in text_encoder.VARIANTS.items()},
  **{name: (TextDecoder, fields) for name, fields in text_decoder.VARIANTS.items()},
  **{
    name: (VisionTransformer, fields)
    for name, fields in vision_transformer_variants.VARIANTS.items()
  },
}


def names() -> tuple[str, ...]:
  """Returns the names that `create` accepts, in order."""
  return tuple(_VARIANTS)


def create(name: str, *, ops: Ops, **fields: Any) -> nn.Module:
  """Returns an architecture as a Flax module, without parameters.

  Args:
    name: One of `names()`: as in torchvision, timm and B-cos v2.
    ops: The layer family, e.g. `StandardOps()` or `BcosOps()`.
    **fields: Replaces fields of the variant, e.g. `num_classes=10`. Lists become tuples, NumPy
      scalars Python numbers.

  Raises:
    InputError: Unknown name or field, with the nearest one; or a value that cannot be used.
  """
  if name not in _VARIANTS:
    raise unknown_name("architecture", name, _VARIANTS)
  if not isinstance(ops, Ops):
    raise InputError(
      f"ops is {ops!r}, expected a layer family.", "Give StandardOps() or BcosOps()."
    )
  cls, variant = _VARIANTS[name]
  known = _fields(cls)
  for field in fields:
    if field not in known:
      raise unknown_name(f"field of {name!r}", field, known)
  fields = {field: _plain(value) for field, value in fields.items()}
  for field, (least, fix) in _LEAST.items():
    value = fields.get(field, least)
    if not isinstance(value, int) or value < least:
      raise InputError(f"{field} is {value!r}, expected an integer of at least {least}.", fix)
  return cls(ops=ops, **{**variant, **fields})


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
  """Returns the variant nearest to a model, and the fields that differ from it.

  `create(name, ops=model.ops, **fields)` makes the model again.
  """
  own = {name: getattr(model, name) for name in _fields(type(model))}
  candidates = []
  for name, (cls, variant) in _VARIANTS.items():
    if cls is type(model):
      full = {**_fields(cls), **variant}
      candidates.append((name, {k: v for k, v in own.items() if v != full[k]}))
  if not candidates:
    raise InputError(
      f"{type(model).__name__} is not an architecture of bcos_jax.",
      "Pass a network made by create().",
    )
  return min(candidates, key=lambda candidate: len(candidate[1]))


_LEAST = {
  "num_classes": (0, "Give the number of classes of your data, or 0 for a network without head."),
  "image_size": (1, "Give the side of the images in pixels."),
  "patch_size": (1, "Give the side of a patch in pixels; 1 makes every position a token."),
}


def _plain(value: Any) -> Any:
  """Returns a field as Python values: a module is a key of compiled functions, thus hashable."""
  if isinstance(value, list | tuple):
    return tuple(map(_plain, value))
  return value.item() if isinstance(value, np.generic) else value


def _fields(cls: type[nn.Module]) -> dict[str, Any]:
  hidden = {"ops", "parent", "name"}
  return {f.name: f.default for f in dataclasses.fields(cls) if f.name not in hidden}
