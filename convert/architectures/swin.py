"""Key tables and configurations of Swin Transformers: Hugging Face, torchvision, timm.

Both versions are named alike but for the biases: V2 has none for its keys, makes its table of
relative positions by a small network, and scales its logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.ops import StandardOps

from ..readers import timm
from ..readers.hf_config import (
  GENERATION,
  Config,
  ConfigReader,
  Setting,
  activation,
  by_class,
  side,
)
from ..tables.axes import AS_IS, DENSE, PATCHES, Axes
from ..tables.keys import Keys
from ..tables.rules import Rule, Skip, Table

Entries = list[Rule | Skip]
Pairs = tuple[tuple[str, str], ...]

_STAGES = 4
_PATCHES = "patch_embedding"
_BLOCK = "stage{i}_{j}"
_PARTS = ("query", "key", "value")

PER_HEAD = Axes("H11 <-> H", lambda x: x[:, 0, 0], lambda x: x[:, None, None], rank=3)
"""A number for each head."""


def _without_keys(bias: np.ndarray) -> np.ndarray:
  q, k, v = np.split(bias, 3)
  if k.any():
    raise InputError(
      "A Swin V2 checkpoint of torchvision has biases of keys other than zero.",
      "Its network treats them as zero: set the middle third of each qkv.bias to zero.",
    )
  return np.concatenate([q, v])


def _with_keys(bias: np.ndarray) -> np.ndarray:
  q, v = np.split(bias, 2)
  return np.concatenate([q, np.zeros_like(q), v])


QUERY_VALUE = Axes("(Q0V) <-> (QV)", _without_keys, _with_keys, rank=1, keeps_size=False)
"""Biases of queries, keys and values, those of keys being zero."""


def _map(source: str, target: str, axes: Axes = DENSE) -> Entries:
  return [
    Rule(f"{source}.weight", f"params/{target}/kernel", axes),
    Rule(f"{source}.bias", f"params/{target}/bias"),
  ]


def _norm(source: str, target: str) -> Entries:
  return [
    Rule(f"{source}.weight", f"params/{target}/scale"),
    Rule(f"{source}.bias", f"params/{target}/bias"),
  ]


def _merging(source: str, target: str) -> Entries:
  return [
    *_norm(f"{source}.norm", f"{target}/norm"),
    Rule(f"{source}.reduction.weight", f"params/{target}/reduction/kernel", DENSE),
  ]


def _positions(version: int, source: str, network: str, block: str) -> Entries:
  """What attention adds to its logits; `network` is V2's name of the small network."""
  attn = f"params/{block}/attn"
  unused = [
    Skip(f"{source}.{name}", "follows from the window", beside=f"{attn}/out/kernel", optional=True)
    for name in ("relative_position_index", "relative_coords_table")
  ]
  if version == 1:
    return [
      Rule(f"{source}.relative_position_bias_table", f"{attn}/relative_position_bias"),
      *unused,
    ]
  return [
    Rule(f"{source}.logit_scale", f"{attn}/logit_scale", PER_HEAD),
    *_map(f"{source}.{network}.0", f"{block}/attn/position_bias/hidden"),
    Rule(f"{source}.{network}.2.weight", f"{attn}/position_bias/out/kernel", DENSE),
    *unused,
  ]


def _hugging_face(version: int, prefix: str) -> Table:
  stage = f"{prefix}encoder.layers.{{i}}"
  block, attn = f"{stage}.blocks.{{j}}", f"params/{_BLOCK}/attn"
  own = f"{block}.attention.self"
  biased, bias = (_PARTS, f"{attn}/qkv/bias") if version == 1 else (_PARTS[::2], f"{attn}/bias")
  return (
    *_map(f"{prefix}embeddings.patch_embeddings.projection", _PATCHES, PATCHES),
    *_norm(f"{prefix}embeddings.norm", "patch_norm"),
    Skip(
      f"{prefix}embeddings.mask_token",
      "stands for masked patches while pretraining",
      beside=f"params/{_PATCHES}/kernel",
      optional=True,
    ),
    *_norm(f"{block}.layernorm_before", f"{_BLOCK}/norm1"),
    Rule(tuple(f"{own}.{part}.weight" for part in _PARTS), f"{attn}/qkv/kernel", DENSE),
    Rule(tuple(f"{own}.{part}.bias" for part in biased), bias),
    *_positions(version, own, "continuous_position_bias_mlp", _BLOCK),
    *_map(f"{block}.attention.output.dense", f"{_BLOCK}/attn/out"),
    *_norm(f"{block}.layernorm_after", f"{_BLOCK}/norm2"),
    *_map(f"{block}.intermediate.dense", f"{_BLOCK}/mlp_linear1"),
    *_map(f"{block}.output.dense", f"{_BLOCK}/mlp_linear2"),
    *_merging(f"{stage}.downsample", "merge{i}"),
    *_norm(f"{prefix}layernorm", "norm"),
    *_map("classifier", "head"),
  )


def _block(
  version: int, source: str, target: str, mlp: tuple[str, str], biases: Entries
) -> Entries:
  """A block as torchvision and timm name it, but for the biases of V2."""
  if version == 1:
    biases = [Rule(f"{source}.attn.qkv.bias", f"params/{target}/attn/qkv/bias")]
  return [
    *_norm(f"{source}.norm1", f"{target}/norm1"),
    Rule(f"{source}.attn.qkv.weight", f"params/{target}/attn/qkv/kernel", DENSE),
    *biases,
    *_positions(version, f"{source}.attn", "cpb_mlp", target),
    *_map(f"{source}.attn.proj", f"{target}/attn/out"),
    *_norm(f"{source}.norm2", f"{target}/norm2"),
    *_map(f"{source}.mlp.{mlp[0]}", f"{target}/mlp_linear1"),
    *_map(f"{source}.mlp.{mlp[1]}", f"{target}/mlp_linear2"),
  ]


def _torchvision(version: int) -> Table:
  """Stages and the merging between them count on together: features.1, .2, .3, ..."""
  rules: Entries = [
    *_map("features.0.0", _PATCHES, PATCHES),
    *_norm("features.0.2", "patch_norm"),
    *_norm("norm", "norm"),
    *_map("head", "head"),
  ]
  for i in range(_STAGES):
    source, target = f"features.{2 * i + 1}.{{j}}", f"stage{i}_{{j}}"
    bias = Rule(f"{source}.attn.qkv.bias", f"params/{target}/attn/bias", QUERY_VALUE)
    rules += _block(version, source, target, ("0", "3"), [bias])
    if i:
      rules += _merging(f"features.{2 * i}", f"merge{i - 1}")
  return tuple(rules)


def _timm(version: int) -> Table:
  """The merging stands at the start of the stage behind it."""
  block = "layers.{i}.blocks.{j}"
  biases = (f"{block}.attn.q_bias", f"{block}.attn.v_bias")
  rules: Entries = [
    *_map("patch_embed.proj", _PATCHES, PATCHES),
    *_norm("patch_embed.norm", "patch_norm"),
    *_block(
      version, block, _BLOCK, ("fc1", "fc2"), [Rule(biases, f"params/{_BLOCK}/attn/bias", AS_IS)]
    ),
    Skip(
      f"{block}.attn_mask",
      "follows from the window",
      beside=f"params/{_BLOCK}/attn/out/kernel",
      optional=True,
    ),
    *_norm("norm", "norm"),
    *_map("head.fc", "head"),
  ]
  for i in range(1, _STAGES):
    rules += _merging(f"layers.{i}.downsample", f"merge{i - 1}")
  return tuple(rules)


def _hugging_face_keys() -> tuple[Keys, ...]:
  entries = []
  for version, name in ((1, "swin"), (2, "swinv2")):
    for prefix, form in ((f"{name}.", name), ("", f"{name}_model")):
      modules = (
        (f"{prefix}embeddings", "patch_norm"),
        (f"{prefix}encoder.layers.{{i}}.blocks.{{j}}", _BLOCK),
        (f"{prefix}encoder.layers.{{i}}.downsample", "merge{i}"),
        (f"{prefix}layernorm", "norm"),
      )
      table = _hugging_face(version, prefix)
      entries.append(Keys("huggingface", StandardOps(), table, modules, form))
  return tuple(entries)


_TORCHVISION_MODULES: Pairs = (
  ("features.0", "patch_norm"),
  *((f"features.{2 * i + 1}.{{j}}", f"stage{i}_{{j}}") for i in range(_STAGES)),
  *((f"features.{2 * i}", f"merge{i - 1}") for i in range(1, _STAGES)),
  ("norm", "norm"),
)
_TIMM_MODULES: Pairs = (
  ("patch_embed", "patch_norm"),
  ("layers.{i}.blocks.{j}", _BLOCK),
  *((f"layers.{i}.downsample", f"merge{i - 1}") for i in range(1, _STAGES)),
  ("norm", "norm"),
)

KEYS = (
  *_hugging_face_keys(),
  Keys("torchvision", StandardOps(), _torchvision(1), _TORCHVISION_MODULES, "swin"),
  Keys("torchvision", StandardOps(), _torchvision(2), _TORCHVISION_MODULES, "swin_v2"),
  Keys("timm", StandardOps(), _timm(1), _TIMM_MODULES, "swin"),
  Keys("timm", StandardOps(), _timm(2), _TIMM_MODULES, "swinv2"),
)


def _numbers(field: str) -> Setting:
  """One number per stage."""
  return lambda value, config: {field: tuple(value)}


def _pretrained(value: list[int] | None, config: Config) -> dict[str, Any]:
  # The default has four zeros, whatever the number of stages.
  sizes = tuple(value or ())[: len(config["depths"])]
  return {"pretrained_windows": sizes if any(sizes) else ()}


def _reader(architecture: str, name: str, fields: dict[str, Any], **more: Setting) -> ConfigReader:
  derived = "follows from the other sizes"
  return ConfigReader(
    architecture,
    fields={
      "model_type": lambda value, config: fields,
      "image_size": side("image_size"),
      "patch_size": side("patch_size"),
      "embed_dim": "width",
      "depths": _numbers("depths"),
      "num_heads": _numbers("num_heads"),
      "window_size": "window",
      "mlp_ratio": "mlp_ratio",
      "qkv_bias": "qkv_bias",
      "hidden_act": activation,
      "layer_norm_eps": "norm_eps",
      "architectures": by_class(
        {
          None: _bare,
          f"{name}Model": _bare,
          f"{name}ForImageClassification": {},
        }
      ),
      **more,
    },
    only={"num_channels": (3,), "use_absolute_embeddings": (False,)},
    ignored={
      "hidden_size": derived,
      "num_layers": derived,
      "num_hidden_layers": derived,
      "encoder_stride": "masked pretraining only",
      "path_norm": "no network reads it",
      **dict.fromkeys(
        ("out_features", "out_indices", "stage_names"), "form of the outputs of a backbone"
      ),
      **GENERATION,
    },
  )


def _bare(config: Config) -> dict[str, Any]:
  return {"num_classes": 0}


def _timm_window(value: Any, config: Config) -> dict[str, Any]:
  sides = {
    side for stage in ([value] if isinstance(value, int) else value) for side in _both(stage)
  }
  if len(sides) != 1:
    raise InputError(
      f"window_size is {value!r} in this timm network; supported is one square of all stages.",
      "Convert a network with one window size.",
    )
  return {"window": sides.pop()}


def _both(value: int | list[int]) -> tuple[int, ...]:
  return (value,) if isinstance(value, int) else tuple(value)


def _timm_image_size(value: Any, config: Config) -> dict[str, Any]:
  fields, own = timm.image_size(value, config), config["variant"]
  sides = _both(fields.get("image_size", own["image_size"]))
  window = _timm_window(config.get("window_size", own["window"]), config)["window"]
  stages = len(config.get("depths", own["depths"]))
  last = [side // own["patch_size"] // 2 ** (stages - 1) for side in sides]
  if len(set(sides)) > 1 and min(last) < window:
    raise InputError(
      f"img_size is {value!r} in this timm network: the last map, {last[0]}x{last[1]}, is smaller "
      f"than its window of {window} along one side.",
      "Supported are windows that fit into each map, or square images.",
    )
  return fields


READERS: dict[str, ConfigReader] = {
  timm.KIND: timm.reader(
    {
      "global_pool": timm.cnn_pool,
      "img_size": _timm_image_size,
      "window_size": _timm_window,
      "patch_size": timm.square("patch_size", "patch_size"),
      "embed_dim": "width",
      "depths": _numbers("depths"),
      "num_heads": _numbers("num_heads"),
      "mlp_ratio": "mlp_ratio",
      "qkv_bias": "qkv_bias",
      "pretrained_window_sizes": _pretrained,
      "act_layer": timm.activation,
    },
    only={
      "head_dim": (None,),
      "always_partition": (False,),
      "norm_layer": (None, "layernorm"),
      "window_ratio": (None,),
    },
    ignored=dict.fromkeys(
      ("strict_img_size", "dynamic_img_size"), "networks of this package take images of any size"
    ),
  ),
  "swin": _reader("swin_tiny_patch4_window7_224", "Swin", {"window_rule": "joint"}),
  # Its code adds the mask twice.
  "swinv2": _reader(
    "swinv2_tiny_window8_256",
    "Swinv2",
    {"window_rule": "fixed", "mask_value": -200.0},
    pretrained_window_sizes=_pretrained,
  ),
}
"""Model type -> reader."""
