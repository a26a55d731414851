"""Key tables of ResNets: torchvision, timm, Hugging Face, B-cos v2 and B-cosification."""

from __future__ import annotations

from typing import Any

from bcos_jax.errors import InputError
from bcos_jax.ops import BcosOps, StandardOps

from ..readers import timm
from ..readers.hf_config import BARE, Config, ConfigReader, by_class
from ..tables.axes import CONV, DENSE, DENSE_AS_1X1, TAPS
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, uncentered_batch_norm, weight
from ..tables.rules import Rule, Table

Pairs = tuple[tuple[str, str], ...]

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
  return (*_convolutions(_CONVS, _NORMS), *biased("fc", "head", DENSE))


def _convolutions(convs: Pairs, norms: Pairs) -> Rules:
  rules: Rules = [weight(source, target, CONV) for source, target in convs]
  for source, target in norms:
    rules += batch_norm(source, target)
  return rules


def _timm(average_shortcut: bool) -> Table:
  """timm's variants: a deep stem, pooling before the shortcut, channel attention."""
  block, ours = "layer{i}.{j}", "layer{i}_{j}"
  convs: Pairs = (*_CONVS[:2], *((f"conv1.{3 * i}", f"conv1_{i}") for i in range(3)))
  norms: Pairs = (*_NORMS[:2], *((f"conv1.{3 * i + 1}", f"bn1_{i}") for i in range(2)))
  convs, norms = (*convs, ("maxpool.0", "pool_conv")), (*norms, ("maxpool.1", "pool_bn"))
  # Anti-aliased, a pool lies between the two.
  place = int(average_shortcut)
  convs = (*convs, (f"{block}.downsample.{place}", f"{ours}/downsample_conv"))
  norms = (*norms, (f"{block}.downsample.{place + 1}", f"{ours}/downsample_bn"))
  attention = (
    *(
      rule for k in (1, 2) for rule in biased(f"{block}.se.fc{k}", f"{ours}/se/fc{k}", DENSE_AS_1X1)
    ),
    Rule(f"{block}.se.conv.weight", f"params/{ours}/se/kernel", TAPS),
  )
  return (*_convolutions(convs, norms), *attention, *biased("fc", "head", DENSE))


def _plain(model: Any) -> bool:
  """Whether a network is one of torchvision's kind."""
  plain = {"stem_pool": "max", "downsampling": "stride", "channel_attention": "none"}
  same = all(getattr(model, field) == value for field, value in plain.items())
  return same and not model.deep_stem and not model.average_shortcut


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
  Keys("torchvision", StandardOps(), STANDARD, MODULES, fits=_plain),
  Keys("timm", StandardOps(), STANDARD, MODULES, fits=_plain),
  Keys(
    "timm",
    StandardOps(),
    _timm(False),
    MODULES[1:],
    "timm_variant",
    fits=lambda model: not model.average_shortcut and not _plain(model),
  ),
  Keys(
    "timm",
    StandardOps(),
    _timm(True),
    MODULES[1:],
    "timm_average_shortcut",
    fits=lambda model: model.average_shortcut,
  ),
  Keys(
    "huggingface",
    StandardOps(),
    _huggingface("resnet."),
    _huggingface_modules("resnet."),
    fits=lambda model: model.num_classes > 0 and _plain(model),
  ),
  Keys(
    "huggingface",
    StandardOps(),
    _huggingface(""),
    _huggingface_modules(""),
    fits=lambda model: model.num_classes == 0 and _plain(model),
  ),
  Keys("bcos_v2", BcosOps.v2(), BCOS_V2, fits=_plain),
  Keys("bcosification", BcosOps(), BCOSIFICATION, fits=_plain),
  # B-cosification starts from conventional networks, so it has their keys too.
  Keys("bcosification", StandardOps(), STANDARD, fits=_plain),
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
  timm.KIND: timm.reader(
    {"global_pool": timm.cnn_pool},
    only={
      "act_layer": (None, "relu"),
      "norm_layer": (None, "batchnorm", "batchnorm2d"),
      "block_reduce_first": (1,),
      "down_kernel_size": (1,),
      "avg_down": (False,),
      "aa_layer": (None,),
      "stem_type": ("",),
      "replace_stem_pool": (False,),
    },
  ),
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
  ),
}
