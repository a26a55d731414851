"""Key tables of MobileNets, MNASNets and EfficientNets: torchvision and timm.

Keys number the layers of a block, so that the rules are made for each network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bcos_jax.ops import StandardOps

from ..readers import timm
from ..tables.axes import CONV, DENSE, DENSE_AS_1X1
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, weight
from ..tables.rules import Table

# Source of a convolution, source of its norm, and what both are called here.
Layer = tuple[str, str, str]
Pairs = tuple[tuple[str, str], ...]


def _layers(block: tuple) -> list[str]:
  """Returns the names of a block's layers in their order; 'se' is the squeeze-and-excite."""
  kind, squeeze = block[0], block[5]
  first = {"inverted": ["expand", "depthwise"], "separable": ["depthwise"], "fused": ["expand"]}
  if kind == "plain":
    return ["conv"]
  return [*first[kind], *(["se"] if squeeze else []), "project"]


def _rules(layers: list[Layer], squeezes: list[Layer]) -> Rules:
  rules: Rules = []
  for conv, norm, ours in layers:
    rules.append(weight(conv, ours, CONV))
    rules += batch_norm(norm, f"{ours}_bn")
  for first, second, ours in squeezes:
    rules += biased(first, f"{ours}/fc1", DENSE_AS_1X1)
    rules += biased(second, f"{ours}/fc2", DENSE_AS_1X1)
  return rules


def _blocks(model: Any) -> Iterator[tuple[int, int, int, tuple]]:
  """Yields stage, place in it, and place among all blocks, of each block."""
  count = 0
  for i, stage in enumerate(model.stages):
    for j, block in enumerate(stage):
      yield i, j, count, block
      count += 1


def _numbered(base: str, ours: str, block: tuple) -> tuple[list[Layer], list[Layer]]:
  """Layers as torchvision numbers them: each convolution with its norm is a sequence of two."""
  layers, squeezes = [], []
  for k, name in enumerate(_layers(block)):
    source = f"{base}.block.{k}"
    if name == "se":
      squeezes.append((f"{source}.fc1", f"{source}.fc2", f"{ours}/se"))
    else:
      layers.append((f"{source}.0", f"{source}.1", f"{ours}/{name}"))
  return layers, squeezes


def _staged(model: Any) -> tuple[Table, Pairs]:
  """EfficientNet of torchvision: a sequence for each stage."""
  end = f"features.{len(model.stages) + 1}"
  layers: list[Layer] = [("features.0.0", "features.0.1", "stem")]
  layers.append((f"{end}.0", f"{end}.1", "conv_head"))
  squeezes, modules = [], []
  for i, j, _, block in _blocks(model):
    base, ours = f"features.{i + 1}.{j}", f"stage{i}_{j}"
    own = _numbered(base, ours, block)
    layers, squeezes = layers + own[0], squeezes + own[1]
    modules.append((base, ours))
  return (*_rules(layers, squeezes), *biased("classifier.1", "head", DENSE)), tuple(modules)


def _flat(model: Any) -> tuple[Table, Pairs]:
  """MobileNetV3 of torchvision: all blocks in one sequence, and a classifier of two maps."""
  end = f"features.{sum(map(len, model.stages)) + 1}"
  layers: list[Layer] = [("features.0.0", "features.0.1", "stem")]
  layers.append((f"{end}.0", f"{end}.1", "conv_head"))
  squeezes, modules = [], []
  for i, j, count, block in _blocks(model):
    base, ours = f"features.{count + 1}", f"stage{i}_{j}"
    own = _numbered(base, ours, block)
    layers, squeezes = layers + own[0], squeezes + own[1]
    modules.append((base, ours))
  head = (*biased("classifier.0", "hidden", DENSE), *biased("classifier.3", "head", DENSE))
  return (*_rules(layers, squeezes), *head), tuple(modules)


def _v2(model: Any) -> tuple[Table, Pairs]:
  """MobileNetV2 of torchvision: the last map of a block is in no sequence of its own."""
  end = f"features.{sum(map(len, model.stages)) + 1}"
  layers: list[Layer] = [("features.0.0", "features.0.1", "stem")]
  layers.append((f"{end}.0", f"{end}.1", "conv_head"))
  modules = []
  for i, j, count, block in _blocks(model):
    base, ours = f"features.{count + 1}.conv", f"stage{i}_{j}"
    names = _layers(block)
    for k, name in enumerate(names[:-1]):
      layers.append((f"{base}.{k}.0", f"{base}.{k}.1", f"{ours}/{name}"))
    k = len(names) - 1
    layers.append((f"{base}.{k}", f"{base}.{k + 1}", f"{ours}/project"))
    modules.append((f"features.{count + 1}", ours))
  return (*_rules(layers, []), *biased("classifier.1", "head", DENSE)), tuple(modules)


def _mnasnet(model: Any) -> tuple[Table, Pairs]:
  """MNASNet of torchvision: the first block and all activations are counted too."""
  end = 7 + len(model.stages)
  layers: list[Layer] = [
    ("layers.0", "layers.1", "stem"),
    ("layers.3", "layers.4", "stage0_0/depthwise"),
    ("layers.6", "layers.7", "stage0_0/project"),
    (f"layers.{end}", f"layers.{end + 1}", "conv_head"),
  ]
  modules = []
  for i, j, _, _ in _blocks(model):
    base, ours = f"layers.{i + 7}.{j}", f"stage{i}_{j}"
    if i:
      for k, name in ((0, "expand"), (3, "depthwise"), (6, "project")):
        layers.append((f"{base}.layers.{k}", f"{base}.layers.{k + 1}", f"{ours}/{name}"))
      modules.append((base, ours))
  return (*_rules(layers, []), *biased("classifier.1", "head", DENSE)), tuple(modules)


_TIMM = {
  "inverted": {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"},
  "separable": {"depthwise": "conv_dw", "project": "conv_pw"},
  "fused": {"expand": "conv_exp", "project": "conv_pwl"},
  "plain": {"conv": "conv"},
}


def _timm(model: Any) -> tuple[Table, Pairs]:
  """All of timm; MobileNetV3 counts its last convolution among the stages."""
  layers: list[Layer] = [("conv_stem", "bn1", "stem")]
  squeezes, modules = [], []
  for i, j, _, block in _blocks(model):
    base, ours = f"blocks.{i}.{j}", f"stage{i}_{j}"
    for k, (name, source) in enumerate(_TIMM[block[0]].items(), 1):
      layers.append((f"{base}.{source}", f"{base}.bn{k}", f"{ours}/{name}"))
    if block[5]:
      squeezes.append((f"{base}.se.conv_reduce", f"{base}.se.conv_expand", f"{ours}/se"))
    modules.append((base, ours))
  head: Rules = []
  if model.hidden:
    last = f"blocks.{len(model.stages)}.0"
    layers.append((f"{last}.conv", f"{last}.bn1", "conv_head"))
    head = biased("conv_head", "hidden", DENSE_AS_1X1)
  else:
    layers.append(("conv_head", "bn2", "conv_head"))
  return (*_rules(layers, squeezes), *head, *biased("classifier", "head", DENSE)), tuple(modules)


def _torchvision(form: str, per: Any, fits: Any) -> Keys:
  def of_torchvision(model: Any) -> bool:
    return model.padding == "symmetric" and model.features > 0 and fits(model)

  return Keys("torchvision", StandardOps(), form=form, per=per, fits=of_torchvision)


def _kinds(model: Any) -> set[str]:
  return {block[0] for *_, block in _blocks(model)}


def _has_mnasnets_form(model: Any) -> bool:
  kinds = [block[0] for *_, block in _blocks(model)]
  squeezes = any(block[5] for *_, block in _blocks(model))
  return kinds == ["separable", *["inverted"] * (len(kinds) - 1)] and not squeezes


def _epsilon(value: str, config: Any) -> dict[str, Any]:
  """timm gives its own larger EfficientNets the epsilon of PyTorch."""
  variant = config["variant"]
  return {} if variant["padding"] == "tensorflow" else {"norm_eps": 1e-5}


KEYS = (
  _torchvision("flat", _flat, lambda model: model.hidden > 0),
  _torchvision("mobile_net_v2", _v2, lambda model: model.activation == "relu6"),
  _torchvision(
    "mnasnet",
    _mnasnet,
    lambda model: model.activation == "relu" and not model.hidden and _has_mnasnets_form(model),
  ),
  _torchvision("staged", _staged, lambda model: model.activation == "silu" and not model.hidden),
  Keys("timm", StandardOps(), form="timm", per=_timm, fits=lambda model: bool(model.features)),
)

READERS = {
  timm.KIND: timm.reader(
    {"global_pool": timm.cnn_pool, "model_type": _epsilon},
    only={"act_layer": (None,), "norm_layer": (None,), "pad_type": ("",)},
  )
}
