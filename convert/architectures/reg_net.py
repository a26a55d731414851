"""Key tables of RegNets: torchvision, timm and Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bcos_jax.ops import StandardOps

from ..readers import timm
from ..readers.hf_config import BARE, ConfigReader, by_class
from ..tables.axes import CONV, DENSE, DENSE_AS_1X1
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, weight
from ..tables.rules import Table

Pairs = tuple[tuple[str, str], ...]


def _table(
  model: Any,
  stem: tuple[str, str],
  block: Callable[[int, int], str],
  layers: Callable[[bool], dict[str, tuple[str, ...]]],
  head: str,
) -> tuple[Table, Pairs]:
  """Returns the rules of one network.

  Args:
    model: The network.
    stem: Sources of the stem's convolution and norm.
    block: Source of a block, by stage and place in it.
    layers: Names within a block, by whether it squeezes: of each of our layers the convolution and
      the norm, of 'se' its two maps.
    head: Source of the classifier; '' for none.
  """
  rules: Rules = [weight(stem[0], "stem", CONV), *batch_norm(stem[1], "stem_bn")]
  modules = []
  for i, depth in enumerate(model.depths):
    for j in range(depth):
      source, ours = block(i, j), f"stage{i}_{j}"
      for name, (first, second) in layers(model.squeeze_ratio > 0).items():
        first, second = f"{source}.{first}", f"{source}.{second}"
        if name == "se":
          rules += biased(first, f"{ours}/se/fc1", DENSE_AS_1X1)
          rules += biased(second, f"{ours}/se/fc2", DENSE_AS_1X1)
        elif j == 0 or name != "downsample_conv":
          norm = "downsample_bn" if name == "downsample_conv" else name.replace("conv", "bn")
          rules += [weight(first, f"{ours}/{name}", CONV), *batch_norm(second, f"{ours}/{norm}")]
      modules.append((source, ours))
  return (*rules, *(biased(head, "head", DENSE) if head else [])), tuple(modules)


def _torchvision(model: Any) -> tuple[Table, Pairs]:
  def layers(squeezes: bool) -> dict[str, tuple[str, ...]]:
    parts = dict(zip(("conv1", "conv2", "conv3"), "abc", strict=True))
    named = {ours: (f"f.{part}.0", f"f.{part}.1") for ours, part in parts.items()}
    named["downsample_conv"] = ("proj.0", "proj.1")
    return {**named, "se": ("f.se.fc1", "f.se.fc2")} if squeezes else named

  def block(i: int, j: int) -> str:
    return f"trunk_output.block{i + 1}.block{i + 1}-{j}"

  return _table(model, ("stem.0", "stem.1"), block, layers, "fc")


def _timm(model: Any) -> tuple[Table, Pairs]:
  def layers(squeezes: bool) -> dict[str, tuple[str, ...]]:
    named = {f"conv{k}": (f"conv{k}.conv", f"conv{k}.bn") for k in (1, 2, 3)}
    named["downsample_conv"] = ("downsample.conv", "downsample.bn")
    return {**named, "se": ("se.fc1", "se.fc2")} if squeezes else named

  return _table(
    model, ("stem.conv", "stem.bn"), lambda i, j: f"s{i + 1}.b{j + 1}", layers, "head.fc"
  )


def _huggingface(prefix: str) -> Callable[[Any], tuple[Table, Pairs]]:
  def pair(name: str) -> tuple[str, str]:
    return f"{name}.convolution", f"{name}.normalization"

  def layers(squeezes: bool) -> dict[str, tuple[str, ...]]:
    numbers = (0, 1, 3) if squeezes else (0, 1, 2)
    named = {f"conv{k + 1}": pair(f"layer.{number}") for k, number in enumerate(numbers)}
    named["downsample_conv"] = pair("shortcut")
    squeeze = ("layer.2.attention.0", "layer.2.attention.2")
    return {**named, "se": squeeze} if squeezes else named

  return lambda model: _table(
    model,
    pair(f"{prefix}embedder.embedder"),
    lambda i, j: f"{prefix}encoder.stages.{i}.layers.{j}",
    layers,
    "classifier.1" if prefix else "",
  )


KEYS = (
  Keys("torchvision", StandardOps(), per=_torchvision),
  Keys("timm", StandardOps(), per=_timm),
  Keys(
    "huggingface",
    StandardOps(),
    per=_huggingface("regnet."),
    fits=lambda model: model.num_classes > 0,
  ),
  Keys(
    "huggingface", StandardOps(), per=_huggingface(""), fits=lambda model: model.num_classes == 0
  ),
)

READERS = {
  timm.KIND: timm.reader({"global_pool": timm.cnn_pool}),
  "regnet": ConfigReader(
    "regnet_y_400mf",
    fields={
      "embedding_size": "stem",
      "hidden_sizes": lambda sizes, config: {"widths": tuple(sizes)},
      "depths": lambda depths, config: {"depths": tuple(depths)},
      "groups_width": "group_width",
      "layer_type": lambda kind, config: {"squeeze_ratio": 0.25 if kind == "y" else 0.0},
      "architectures": by_class(
        {None: BARE, "RegNetModel": BARE, "RegNetForImageClassification": {}}
      ),
    },
    only={"num_channels": (3,), "hidden_act": ("relu",), "downsample_in_first_stage": (True,)},
  ),
}
