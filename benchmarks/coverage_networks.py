"""Networks of torchvision, timm and transformers for `coverage.py`, saved as users do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import sys
import types
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch

from bcos_jax import models
from bcos_jax.convert import readers
from bcos_jax.io.tensor_files import write_safetensors

CLASSES = 5
_SMALL = ("test", "nano", "atto", "femto", "pico", "xxs", "tiny", "_s0", "10t", "18", "xs", "small")
_LARGEST_GUESS = 4  # networks of a family whose parameters are counted


@dataclasses.dataclass(frozen=True)
class Trial:
  """A network to try: `make` writes it into a folder and returns (source, architecture, it)."""

  library: str
  family: str
  network: str
  make: Callable[[pathlib.Path], tuple[pathlib.Path, str | None, Any]]


class NotMade(Exception):
  """The library cannot make the network here."""


def torchvision() -> types.ModuleType:
  """Returns torchvision, also where its compiled operators do not fit the installed PyTorch."""
  try:
    import torchvision
  except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
      raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
      del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    _KEPT.append(library)
    for operator in ("nms", "qnms"):
      library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
  return torchvision


_KEPT: list[Any] = []  # a library is gone with its object


Create = Callable[..., Any]


def torchvision_families() -> tuple[dict[str, list[str]], Create]:
  """Returns the networks by the module that defines them, and what makes one."""
  registry = torchvision().models
  families: dict[str, list[str]] = {}
  for name in registry.list_models(module=registry):
    module = registry.get_model_builder(name).__module__.rpartition(".")[2]
    families.setdefault(module, []).append(name)

  def create(name: str, **options: Any) -> Any:
    extra = {"init_weights": False} if "inception" in name or "googlenet" in name else {}
    return registry.get_model(name, num_classes=CLASSES, **extra, **options)

  return families, create


def timm_families() -> tuple[dict[str, list[str]], Create]:
  """Returns the networks by the module that defines them, and what makes one."""
  torchvision()
  import timm
  from timm.models import _registry

  families: dict[str, list[str]] = {}
  for name in timm.list_models():
    families.setdefault(_registry._model_to_module[name], []).append(name)
  return families, functools.partial(timm.create_model, num_classes=CLASSES)


def torchvision_trials(every: bool) -> Iterator[Trial]:
  """Yields classifiers of torchvision."""
  families, create = torchvision_families()

  def maker(name: str):
    def make(folder: pathlib.Path):
      network = stirred(create(name))
      torch.save(network.state_dict(), folder / "network.pth")
      return folder / "network.pth", name if name in models.names() else None, network

    return make

  for family, names in sorted(families.items()):
    for name in names if every else [smallest(names, create)]:
      yield Trial("torchvision", family, name, maker(name))


def timm_trials(every: bool) -> Iterator[Trial]:
  """Yields networks of timm, as folders that its `save_for_hf` writes."""
  families, create = timm_families()
  from timm.models import _hub

  def maker(name: str):
    def make(folder: pathlib.Path):
      if name not in models.names():
        with torch.device("meta"):
          _hub.save_config_for_hf(create(name), folder / "config.json")
        return _with_one_tensor(folder), None, None
      network = stirred(create(name))
      arguments = {"num_classes": CLASSES}
      _hub.save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
      return folder, None, network

    return make

  for family, names in sorted(families.items()):
    for name in names if every else [smallest(names, create)]:
      yield Trial("timm", family, name, maker(name))


_REDUCED = {
  "hidden_size": 32,
  "dim": 32,
  "d_model": 32,
  "num_hidden_layers": 2,
  "n_layers": 2,
  "num_attention_heads": 2,
  "num_key_value_heads": 2,
  "n_heads": 2,
  "intermediate_size": 64,
  "hidden_dim": 64,
  "vocab_size": 64,
  "max_position_embeddings": 64,
  "n_embd": 32,
  "n_layer": 2,
  "n_head": 2,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
}


def reduced(kind: str) -> Any:
  """Returns a small configuration, with the relative positions of all fine-tuned BEiTs."""
  from transformers import AutoConfig

  default = AutoConfig.for_model(kind).to_dict()
  given = {key: value for key, value in _REDUCED.items() if isinstance(default.get(key), int)}
  given |= {"use_relative_position_bias": True} if "use_relative_position_bias" in default else {}
  for part in ("vision_config", "text_config"):
    if isinstance(default.get(part), dict):
      own = default[part]
      given[part] = {k: v for k, v in _REDUCED.items() if isinstance(own.get(k), int)}
  return AutoConfig.for_model(kind, **given, num_labels=CLASSES)


def transformers_trials(every: bool) -> Iterator[Trial]:
  """Yields image and text classifiers of transformers, at reduced sizes."""
  torchvision()
  import transformers
  from transformers.models.auto import modeling_auto

  known = readers.config_readers()

  def maker(kind: str, class_name: str):
    def make(folder: pathlib.Path):
      config = transformers.AutoConfig.for_model(kind)
      config.num_labels = CLASSES
      if kind not in known:
        config.architectures = [class_name]
        config.save_pretrained(folder)
        return _with_one_tensor(folder), None, None
      network = stirred(getattr(transformers, class_name)(reduced(kind)))
      network.save_pretrained(folder)
      return folder, None, None

    return make

  for library, mapping in (
    ("transformers, images", modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
    ("transformers, texts", modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
  ):
    for kind, names in mapping.items():
      listed = [names] if isinstance(names, str) else list(names)
      for name in listed if every else listed[:1]:
        yield Trial(library, kind, name, maker(kind, name))


def _with_one_tensor(folder: pathlib.Path) -> pathlib.Path:
  write_safetensors(folder / "model.safetensors", {"weight": np.zeros(1, np.float32)})
  return folder


def num_parameters(name: str, create: Callable[[str], Any]) -> float:
  """Returns how many parameters a network has; infinity if it cannot be made."""
  with contextlib.suppress(Exception), torch.device("meta"):
    return sum(tensor.numel() for tensor in create(name).parameters())
  return float("inf")


def smallest(names: list[str], create: Callable[[str], Any], guesses: int = 1) -> str:
  """Returns the network with the fewest parameters among those that sound smallest.

  Args:
    names: The networks.
    create: Makes one.
    guesses: How many are counted where this package knows none of them.
  """

  def sound(name: str) -> tuple[int, int, str]:
    ranks = [i for i, word in enumerate(_SMALL) if word in name]
    sizes = [int(n) for n in re.findall(r"\d+", name)]
    return (min(ranks, default=len(_SMALL)), sum(sizes), name)

  known = [name for name in names if name in models.names()]
  guessed = sorted(known or names, key=sound)[: _LARGEST_GUESS if known else guesses]
  return (
    min(guessed, key=lambda name: num_parameters(name, create)) if len(guessed) > 1 else guessed[0]
  )


def stirred(network: torch.nn.Module) -> torch.nn.Module:
  """Moves norms, scales and tables off their trivial initial values; evaluation mode."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, tensor in network.state_dict().items():
      if tensor.is_floating_point():
        noise = torch.randn(tensor.shape, generator=generator)
        if key.endswith("running_var"):
          tensor.copy_(1 + 0.5 * noise.abs())
        else:
          tensor.add_(0.1 * noise if tensor.ndim == 1 else 0.02 * noise)
  return network.eval()
