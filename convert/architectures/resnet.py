"""Key tables of ResNets: torchvision, timm, Hugging Face, B-cos v2 and B-cosification."""

from __future__ import annotations

from typing import Any

from bcos_jax.errors import InputError
from bcos_jax.ops import BcosOps, StandardOps

from ..readers.hf_config import BARE, Config, ConfigReader, by_class
from ..tables.axes import CONV, DENSE, DENSE_AS_1X1
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, uncentered_batch_norm, weight
from ..tables.rules import Table

_NORMS = (
  ("bn1", "bn1"),
  ("layer{i}.{j}.bn{k}", "layer{i}_{j}/bn{k}"),
  ("layer{i}.{j}.downsample.1", "layer{i}_{j}/downsample_bn"),
)
_CONVS = (
  ("conv1", "conv1"),
  ("layer{i}.{j}.conv{k}", "layer{i}_{j}/conv{k}"),
  ("layer{i}.{j}.downsample.0", "layer{i}_{j}/downsample_conv"),
)


def _standard() -> Table:
  rules: Rules = [weight(source, target, CONV) for source, target in _CONVS]
  for source, target in _NORMS:
    rules += batch_norm(source, target)
  return (*rules, *biased("fc", "head", DENSE))


def _bcos(prefix: str) -> Table:
  rules: Rules = [weight(f"{prefix}{source}.linear", target, CONV) for source, target in _CONVS]
  for source, target in _NORMS:
    rules += uncentered_batch_norm(prefix + source, target)
  return (*rules, weight(f"{prefix}fc.linear", "head", DENSE_AS_1X1))


_HF_STAGES, _HF_LAYERS = 8, 3


def _huggingface(prefix: str) -> Table:
  """Hugging Face counts stages and the layers of a block from zero."""
  pairs = [("embedder.embedder", "conv1", "bn1")]
  for i in range(_HF_STAGES):
    block, ours = f"encoder.stages.{i}.layers.{{j}}", f"layer{i + 1}_{{j}}"
    pairs.append((f"{block}.shortcut", f"{ours}/downsample_conv", f"{ours}/downsample_bn"))
    for k in range(_HF_LAYERS):
      pairs.append((f"{block}.layer.{k}", f"{ours}/conv{k + 1}", f"{ours}/bn{k + 1}"))
  rules: Rules = []
  for source, conv, norm in pairs:
    rules.append(weight(f"{prefix}{source}.convolution", conv, CONV))
    rules += batch_norm(f"{prefix}{source}.normalization", norm)
  return (*rules, *(biased("classifier.1", "head", DENSE) if prefix else ()))


def _huggingface_modules(prefix: str) -> tuple[tuple[str, str], ...]:
  return (
    (f"{prefix}embedder.embedder.normalization", "bn1"),
    *((f"{prefix}encoder.stages.{i}.layers.{{j}}", f"layer{i + 1}_{{j}}") for i in range(4)),
  )


STANDARD = _standard()
BCOS_V2 = _bcos("")
BCOSIFICATION = _bcos("model.")

MODULES = (
  ("conv1", "conv1"),
  ("bn1", "bn1"),
  ("layer{i}.{j}", "layer{i}_{j}"),
)
"""What torchvision's and our modules have in common."""

KEYS = (
  Keys("torchvision", StandardOps(), STANDARD, MODULES),
  Keys("timm", StandardOps(), STANDARD, MODULES),
  Keys(
    "huggingface",
    StandardOps(),
    _huggingface("resnet."),
    _huggingface_modules("resnet."),
    fits=lambda model: model.num_classes > 0,
  ),
  Keys(
    "huggingface",
    StandardOps(),
    _huggingface(""),
    _huggingface_modules(""),
    fits=lambda model: model.num_classes == 0,
  ),
  Keys("bcos_v2", BcosOps.v2(), BCOS_V2),
  Keys("bcosification", BcosOps(), BCOSIFICATION),
  # B-cosification starts from conventional networks, so it has their keys too.
  Keys("bcosification", StandardOps(), STANDARD),
)


def _widths(hidden_sizes: list[int], config: Config) -> dict[str, Any]:
  expansion = 4 if config["layer_type"] == "bottleneck" else 1
  if any(size % expansion for size in hidden_sizes):
    raise InputError(
      f"hidden_sizes is {hidden_sizes}, expected multiples of {expansion} in a network of "
      "bottlenecks.",
      "Convert a network whose bottlenecks have a quarter of its channels.",
    )
  return {"widths": tuple(size // expansion for size in hidden_sizes)}


READERS = {
  "resnet": ConfigReader(
    "resnet50",
    fields={
      "embedding_size": "width",
      "hidden_sizes": _widths,
      "depths": lambda depths, config: {"stages": tuple(depths)},
      "layer_type": "block",
      "architectures": by_class(
        {None: BARE, "ResNetModel": BARE, "ResNetForImageClassification": {}}
      ),
    },
    only={
      "num_channels": (3,),
      "hidden_act": ("relu",),
      "downsample_in_first_stage": (False,),
      "downsample_in_bottleneck": (False,),
    },
    ignored={
      "stage_names": "names of the stages",
      "out_features": "of backbones, which return other features of the same network",
      "out_indices": "of backbones, which return other features of the same network",
    },
  )
}
