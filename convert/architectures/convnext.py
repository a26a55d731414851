"""Key tables of ConvNeXts (V1 and V2): torchvision, timm, Hugging Face and B-cos v2."""

from __future__ import annotations

from bcos_jax.ops import BcosOps, StandardOps

from ..readers import timm
from ..readers.hf_config import BARE, ConfigReader, Setting, activation, by_class
from ..tables.axes import (
  CONV,
  DENSE,
  DENSE_AS_1X1,
  DENSE_AS_CONV,
  PER_CHANNEL,
  PER_CHANNEL_LAST,
  Axes,
)
from ..tables.keys import Keys
from ..tables.parts import Rules, biased, norm, uncentered_batch_norm, weight
from ..tables.rules import Rule, Table

_STAGES = 4
_BLOCK = "stage{i}_block{j}"


def _torchvision() -> Table:
  rules: Rules = [
    *biased("features.0.0", "stem_conv", CONV),
    *norm("features.0.1", "stem_norm"),
    *norm("classifier.0", "head_norm"),
    *biased("classifier.2", "head", DENSE),
  ]
  for i in range(_STAGES):
    block, ours = f"features.{2 * i + 1}.{{j}}", f"stage{i}_block{{j}}"
    rules += biased(f"{block}.block.0", f"{ours}/dwconv", CONV)
    rules += norm(f"{block}.block.2", f"{ours}/norm")
    rules += biased(f"{block}.block.3", f"{ours}/pwconv1", DENSE_AS_CONV)
    rules += biased(f"{block}.block.5", f"{ours}/pwconv2", DENSE_AS_CONV)
    rules.append(Rule(f"{block}.layer_scale", f"params/{ours}/layer_scale/scale", PER_CHANNEL))
  for i in range(1, _STAGES):
    rules += norm(f"features.{2 * i}.0", f"downsample{i}_norm")
    rules += biased(f"features.{2 * i}.1", f"downsample{i}_conv", CONV)
  return tuple(rules)


def _bcos_v2() -> Table:
  """Norms of positions are vectors, norms of the batch have statistics in addition."""
  rules: Rules = [
    weight("features.0.linear", "stem_conv", CONV),
    *uncentered_batch_norm("features.1", "stem_norm"),
    *uncentered_batch_norm("classifier.0", "head_norm"),
    weight("classifier.1.linear", "head", DENSE_AS_1X1),
  ]
  for i in range(_STAGES):
    block, ours = f"features.{2 * i + 2}.{{j}}", f"stage{i}_block{{j}}"
    rules.append(weight(f"{block}.block.0.linear", f"{ours}/dwconv", CONV))
    rules += uncentered_batch_norm(f"{block}.block.1", f"{ours}/norm")
    rules.append(weight(f"{block}.block.2.linear", f"{ours}/pwconv1", CONV))
    rules.append(weight(f"{block}.block.3.linear", f"{ours}/pwconv2", CONV))
    rules.append(Rule(f"{block}.layer_scale", f"params/{ours}/layer_scale/scale", PER_CHANNEL))
  for i in range(1, _STAGES):
    rules += uncentered_batch_norm(f"features.{2 * i + 1}.0", f"downsample{i}_norm")
    rules.append(weight(f"features.{2 * i + 1}.1.linear", f"downsample{i}_conv", CONV))
  return tuple(rules)


def _timm(version: int, mlp: Axes = DENSE_AS_CONV) -> Table:
  """Its smaller networks have 1x1 convolutions for the dense maps."""
  block = "stages.{i}.blocks.{j}"
  return (
    *biased("stem.0", "stem_conv", CONV),
    *norm("stem.1", "stem_norm"),
    *norm("stages.{i}.downsample.0", "downsample{i}_norm"),
    *biased("stages.{i}.downsample.1", "downsample{i}_conv", CONV),
    *biased(f"{block}.conv_dw", f"{_BLOCK}/dwconv", CONV),
    *norm(f"{block}.norm", f"{_BLOCK}/norm"),
    *biased(f"{block}.mlp.fc1", f"{_BLOCK}/pwconv1", mlp),
    *biased(f"{block}.mlp.fc2", f"{_BLOCK}/pwconv2", mlp),
    *(
      [Rule(f"{block}.gamma", f"params/{_BLOCK}/layer_scale/scale")]
      if version == 1
      else norm(f"{block}.mlp.grn", f"{_BLOCK}/grn")
    ),
    *norm("head.norm", "head_norm"),
    *biased("head.fc", "head", DENSE),
  )


def _huggingface(prefix: str, version: int) -> Table:
  stage, block = f"{prefix}encoder.stages.{{i}}", f"{prefix}encoder.stages.{{i}}.layers.{{j}}"
  rules: Rules = [
    *biased(f"{prefix}embeddings.patch_embeddings", "stem_conv", CONV),
    *norm(f"{prefix}embeddings.layernorm", "stem_norm"),
    *norm(f"{stage}.downsampling_layer.0", "downsample{i}_norm"),
    *biased(f"{stage}.downsampling_layer.1", "downsample{i}_conv", CONV),
    *biased(f"{block}.dwconv", f"{_BLOCK}/dwconv", CONV),
    *norm(f"{block}.layernorm", f"{_BLOCK}/norm"),
    *biased(f"{block}.pwconv1", f"{_BLOCK}/pwconv1", DENSE_AS_CONV),
    *biased(f"{block}.pwconv2", f"{_BLOCK}/pwconv2", DENSE_AS_CONV),
    *norm(f"{prefix}layernorm", "head_norm"),
  ]
  if version == 1:
    rules.append(Rule(f"{block}.layer_scale_parameter", f"params/{_BLOCK}/layer_scale/scale"))
  else:
    for leaf, ours in (("weight", "scale"), ("bias", "bias")):
      target = f"params/{_BLOCK}/grn/{ours}"
      rules.append(Rule(f"{block}.grn.{leaf}", target, PER_CHANNEL_LAST))
  return (*rules, *(biased("classifier", "head", DENSE) if prefix else ()))


def _modules(stem: str, block: str, first: int = 0, step: int = 1) -> tuple[tuple[str, str], ...]:
  return (
    (stem, "stem_conv"),
    *((block.format(i=first + step * i, j="{j}"), f"stage{i}_block{{j}}") for i in range(_STAGES)),
  )


def _version(number: int):
  return lambda model: model.norm == "position" and model.response_norm == (number == 2)


def _huggingface_keys(version: int) -> list[Keys]:
  name, fits = {1: "convnext.", 2: "convnextv2."}[version], _version(version)
  return [
    Keys(
      "huggingface",
      StandardOps(),
      _huggingface(prefix, version),
      _modules(f"{prefix}embeddings.patch_embeddings", prefix + "encoder.stages.{i}.layers.{j}"),
      fits=lambda model, headless=not prefix: fits(model) and headless == (model.num_classes == 0),
    )
    for prefix in (name, "")
  ]


KEYS = (
  Keys(
    "torchvision",
    StandardOps(),
    _torchvision(),
    _modules("features.0.0", "features.{i}.{j}", first=1, step=2),
    fits=_version(1),
  ),
  *(
    Keys(
      "timm",
      StandardOps(),
      _timm(version, mlp),
      _modules("stem.0", "stages.{i}.blocks.{j}"),
      form,
      fits=_version(version),
    )
    for version in (1, 2)
    for mlp, form in ((DENSE_AS_CONV, ""), (CONV, "timm_conv_mlp"))
  ),
  *_huggingface_keys(1),
  *_huggingface_keys(2),
  Keys("bcos_v2", BcosOps.v2(), _bcos_v2(), fits=lambda model: not model.response_norm),
)

_FIELDS: dict[str, Setting] = {
  "patch_size": "patch_size",
  "hidden_sizes": lambda sizes, config: {"widths": tuple(sizes)},
  "depths": lambda depths, config: {"stages": tuple(depths)},
  "hidden_act": activation,
  "layer_norm_eps": "head_norm_eps",
  "image_size": "image_size",
}
_IGNORED = {
  "num_stages": "counts `depths`",
  "stage_names": "names of the stages",
  "out_features": "of backbones, which return other features of the same network",
  "out_indices": "of backbones, which return other features of the same network",
}


def _classes(name: str) -> Setting:
  return by_class({None: BARE, f"{name}Model": BARE, f"{name}ForImageClassification": {}})


READERS = {
  timm.KIND: timm.reader(
    {
      "global_pool": timm.cnn_pool,
      "patch_size": timm.square("patch_size", "patch_size"),
      "depths": lambda depths, config: {"stages": tuple(depths)},
      "dims": lambda widths, config: {"widths": tuple(widths)},
      "act_layer": timm.activation,
    },
    only={
      "stem_type": ("patch",),
      "kernel_sizes": (7, [7, 7, 7, 7]),
      "head_norm_first": (False,),
      "head_hidden_size": (None,),
      "conv_bias": (True,),
      "norm_layer": (None,),
      "norm_eps": (None, 1e-6),
    },
    ignored={"conv_mlp": "another order of axes"},
  ),
  "convnext": ConfigReader(
    "convnext_tiny",
    fields={
      **_FIELDS,
      "architectures": _classes("ConvNext"),
      "layer_scale_init_value": lambda value, config: {"layer_scale": value > 0},
    },
    only={"num_channels": (3,)},
    ignored=_IGNORED,
  ),
  "convnextv2": ConfigReader(
    "convnextv2_tiny",
    fields={**_FIELDS, "architectures": _classes("ConvNextV2")},
    only={"num_channels": (3,)},
    ignored=_IGNORED,
  ),
}
