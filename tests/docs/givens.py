"""What the reader of a page brings: files that the commands name, values that the code uses.

Each maker writes a file or folder below the working directory, or defines a name for the Python
blocks; the pages say which they need in `<!-- given: ... -->`.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

import bcos_jax
from bcos_jax import BcosOps, StandardOps
from bcos_jax.io.tensor_files import write_safetensors
from bcos_jax.models.published import ZOO

from .. import tokenizers
from ..common import filled, photos
from . import checkpoints

HUB = "hub-cache"  # folder of huggingface_hub's cache
Space = dict[str, Any]

_MAKERS: dict[str, Callable[[pathlib.Path, Space], None]] = {}


def make(name: str, place: pathlib.Path, space: Space) -> None:
  """Makes one of them.

  Args:
    name: As the page names it; `hub:OWNER/NAME` is a repository in the hub's cache.
    place: The working directory.
    space: Where values go.
  """
  assert name in _MAKERS, f"nothing makes {name!r}"
  _MAKERS[name](place, space)


def _file(name: str):
  """Registers what makes a file or folder, called with its path."""

  def register(maker):
    def write(place, space):
      path = place / name
      path.parent.mkdir(parents=True, exist_ok=True)
      maker(path)

    _MAKERS[name] = write
    return maker

  return register


def _hub(name: str):
  """Registers what makes a repository of the hub, called with its folder in the cache."""

  def register(maker):
    _MAKERS[f"hub:{name}"] = lambda place, space: maker(checkpoints.cached(place / HUB, name))
    return maker

  return register


def _value(name: str):
  """Registers what returns a value, called with the values that are there."""

  def register(maker):
    _MAKERS[name] = lambda place, space: space.update({name: maker(space)})
    return maker

  return register


# Pictures.


def _picture(path: pathlib.Path, size: tuple[int, int] = (131, 90), seed: int = 0) -> None:
  pixels = np.random.RandomState(seed).randint(0, 256, (6, 6, 3), np.uint8)
  Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


for _name in ("a.png", "b.png", "photo.jpg", "cat.jpg"):
  _file(_name)(_picture)


@_file("my-digit.png")
def _digit(path):
  from sklearn.datasets import load_digits

  pixels = np.uint8(255 - 15 * load_digits().images[7])
  Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)


@_file("pictures")
def _pictures(path):
  path.mkdir()
  for i in range(4):
    _picture(path / f"{i}.png", seed=i)


@_file("photos")
def _photos(path):
  """A folder for each class of `runs/mine/bundle`."""
  for i, label in enumerate(_LABELS):
    (path / label).mkdir(parents=True)
    for k in range(4):
      _picture(path / label / f"{k}.png", seed=4 * i + k)


@_value("images")
def _images(space):
  return photos(2, side=64)


# Networks.

_LABELS = ("cat", "coffee", "flower")


@_file("runs/mine/bundle")
def _mine(path):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=len(_LABELS))
  bcos_jax.save(path, model, filled(model), labels=_LABELS)


@_file("runs/quickstart/bcosified")
def _quickstart(path):
  for name, family in (("bcosified", BcosOps()), ("conventional", StandardOps())):
    model = bcos_jax.create("resnet_tiny", ops=family, num_classes=10, image_size=32)
    labels = [str(i) for i in range(10)]
    bcos_jax.save(path.with_name(name), model, filled(model), labels=labels)


@_file("bundles/reviews")
def _reviews(path):
  _text_network(path)


@_file("runs/reviews/bundle")
def _reviews_run(path):
  _text_network(path)


def _text_network(path: pathlib.Path) -> None:
  """A network of texts that reads the studies' reviews."""
  from bcos_jax.train.data.text import reviews, vocabularies

  del reviews, vocabularies
  raise NotImplementedError


@_value("state_dict")
def _state_dict(space):
  return checkpoints.state("resnet50", "torchvision")


# Checkpoints: repositories.


@_file("my-vit")
@_hub("google/vit-base-patch16-224")
def _vit(path):
  checkpoints.repository(path, checkpoints.VIT, preprocessor=checkpoints.PICTURES)


@_file("convnext-pico")
def _convnext(path):
  checkpoints.repository(path, checkpoints.CONVNEXT)


@_hub("facebook/dinov3-vitl16-pretrain-lvd1689m")
def _dinov3(path):
  checkpoints.repository(path, checkpoints.DINOV3)


@_hub("google/siglip2-base-patch16-224")
def _siglip(path):
  tensors = checkpoints.repository(path, checkpoints.SIGLIP)
  _two_towers(path, tensors, "siglip2_text_base")


def _two_towers(path: pathlib.Path, tensors: checkpoints.State, text: str) -> None:
  """Adds the weights of a text tower, which the same configuration describes."""
  config = json.loads((path / "config.json").read_text(encoding="utf-8"))
  both = tensors | checkpoints.repository(path, config, tower=text)
  write_safetensors(path / "model.safetensors", both, {"format": "pt"})


@_file("downloads/clip")
@_hub("openai/clip-vit-base-patch32")
def _clip(path):
  tensors = checkpoints.repository(path, checkpoints.CLIP)
  _two_towers(path, tensors, "clip_text_vit_base")


@_file("laion-clip")
@_hub("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
def _open_clip(path):
  names = {"name": "open_clip_config.json", "weights": "open_clip_model.safetensors"}
  checkpoints.repository(path, checkpoints.OPEN_CLIP, **names)


@_file("my-timm")
@_hub("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
def _timm_vit(path):
  sizes = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 64}
  checkpoints.repository(path, checkpoints.timm("vit_tiny_patch16_224", **sizes))


@_hub("timm/resnet18.a1_in1k")
def _timm_resnet(path):
  checkpoints.repository(path, checkpoints.timm("resnet18", classes=1000))


@_file("aloe-student")
def _aloe(path):
  checkpoints.repository(path, checkpoints.ALOE)


@_file("hub/bert-base-uncased")
@_hub("google-bert/bert-base-uncased")
def _bert(path):
  checkpoints.repository(path, checkpoints.BERT)
  tokenizers.wordpieces(path)


# Checkpoints: files.


def _torch(name: str, architecture: str, layout: str, family=None, **entry: Any) -> None:
  prefix = entry.pop("prefix", "")

  @_file(name)
  def write(path):
    tensors = checkpoints.state(architecture, layout, family)
    checkpoints.torch_file(path, {prefix + key: t for key, t in tensors.items()}, **entry)


for _architecture in (
  *("resnet50", "densenet121", "convnext_tiny_bnu", "simple_vit_ti_patch16_224"),
  *("vitc_ti_patch1_14", "standard_vitc_ti_patch1_14"),
):
  _of_zoo = ZOO[_architecture]
  _torch(_of_zoo.file, _architecture, "bcos_v2", bcos_jax.ops.from_dict({"family": _of_zoo.ops}))

_LIGHTNING: dict[str, Any] = {"entry": "state_dict", "epoch": 89, "prefix": "model."}
for _folder, _architecture in (
  ("bcosified_resnet18", "resnet18"),
  ("bcosified_vitc_ti", "vitc_ti_patch1_14"),
  ("bcosified_clip", "clip_resnet50"),
):
  _torch(f"{_folder}/last.ckpt", _architecture, "bcosification", BcosOps(), **_LIGHTNING)

for _name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
  _torch(_name, "resnet50", "torchvision")
for _name in ("resnet18-f37072fd.pth", "resnet18.pth"):
  _torch(_name, "resnet18", "torchvision")
_torch("densenet121-a639ec97.pth", "densenet121", "torchvision")
_torch("RN50.pt", "clip_resnet50", "openai_clip")
_torch("ViT-B-32.pt", "clip_vit_base_patch32", "openai_clip")
