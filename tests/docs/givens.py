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
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import write_safetensors
from bcos_jax.models.published import ZOO
from bcos_jax.train.data.text import reviews, vocabularies

from .. import tokenizers
from ..common import filled, photos
from . import checkpoints

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
HUB = "hub-cache"  # folder of huggingface_hub's cache
Space = dict[str, Any]

_MAKERS: dict[str, Callable[[pathlib.Path, Space], None]] = {}


def names() -> set[str]:
  """Returns what can be made."""
  return set(_MAKERS)


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
      if not path.exists():
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


def _values(name: str):
  """Registers what returns values by their names; it is called with the working directory."""

  def register(maker):
    _MAKERS[name] = lambda place, space: space.update(maker(place))
    return maker

  return register


# Pictures.


def _picture(path: pathlib.Path, size: tuple[int, int] = (131, 90), seed: int = 0) -> None:
  pixels = np.random.RandomState(seed).randint(0, 256, (6, 6, 3), np.uint8)
  Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


for _name in ("a.png", "photo.jpg", "cat.jpg", "photos/a.jpg"):
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


@_values("images")
def _images(place):
  return {"images": photos(2, side=64)}


@_values("masks")
def _masks(place):
  masks = np.zeros((4, 32, 32), bool)
  masks[:, 4:20, 6:18] = True
  return {"masks": masks}


# Networks.

_LABELS = ("cat", "coffee", "flower")
_STUDIED = ("runs/studies/networks/reviews-seed0/bcosified.bundle",)
_VERBS = ("hated", "loved", "despised", "enjoyed", "disliked", "admired")


@_file("runs/mine/bundle")
def _mine(path):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=len(_LABELS))
  bcos_jax.save(path, model, filled(model), labels=_LABELS)


@_file("runs/quickstart/bcosified")
@_file("runs/shapes/bcosified/bundle")
def _bcosified(path):
  _digits(path, BcosOps())


@_file("runs/quickstart/conventional")
@_file("runs/shapes/conventional/bundle")
def _conventional(path):
  _digits(path, StandardOps())


def _digits(path: pathlib.Path, family: bcos_jax.ops.Ops) -> None:
  model = bcos_jax.create("resnet_tiny", ops=family, num_classes=10, image_size=32)
  bcos_jax.save(path, model, filled(model), labels=[str(i) for i in range(10)])


@_values("student")
def _student(place):
  model = bcos_jax.create("dinov3_test", ops=BcosOps(b=1.5), image_size=64)
  return {"student": make_bundle(model, filled(model))}


@_values("a conventional network and unlabelled pictures")
def _conventional(place):
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), image_size=32)
  pictures = photos(64, side=32)
  return {"conventional": make_bundle(model, filled(model)), "images": pictures}


@_values("probe")
def _probe(place):
  width = bcos_jax.create("dinov3_test", ops=BcosOps()).width
  return {"probe": np.random.RandomState(0).standard_normal(width).astype(np.float32)}


@_values("a network of pictures")
def _pictures_network(place):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=3, image_size=32)
  values = {"model": model, "variables": filled(model), "images": photos(4, side=32)}
  return values | {"targets": np.array([0, 1, 2, 0])}


@_values("state_dict")
def _state_dict(place):
  return {"state_dict": checkpoints.state("resnet50", "torchvision")}


# Networks of texts.

for _name in ("bundles/reviews", "runs/reviews/bundle", "runs/sst2/bundle", *_STUDIED):

  @_file(_name)
  def _reviews(path):
    """Reads the words of the studies' reviews."""
    vocabularies.save_words(path.parent / "words", reviews.vocabulary())
    family = BcosOps.lm(b=1.5)
    _text_network(path, path.parent / "words", "bert_tiny", family, num_classes=2)


def _text_network(path, words, name: str, family, **fields: Any) -> None:
  tokenizer = {file.name: file.read_bytes() for file in words.iterdir()}
  size = len(json.loads(tokenizer["tokenizer.json"])["model"]["vocab"])
  fields = {"vocab_size": size, "context_length": 128, **fields}
  model = bcos_jax.create(name, ops=family, **fields)
  labels = reviews.LABELS if getattr(model, "num_classes", 0) else ()
  variables = filled(model)
  if labels:  # so sure of what it says that pairs of texts can be made
    last = variables["params"][f"encoder_{model.depth - 1}"]
    last["norm2"]["scale"] = last["norm2"]["scale"] * 30
  bcos_jax.save(path, model, variables, tokenizer=tokenizer, labels=labels)


@_file("bundles/bert")
def _bert(path):
  """A conventional network of texts."""
  vocabularies.save_words(path.parent / "words", reviews.vocabulary())
  _text_network(path, path.parent / "words", "bert_tiny", StandardOps(), num_classes=2)


@_values("decoder")
def _decoder(place):
  words = tokenizers.letters(place / "letters")
  file = words / "tokenizer.json"
  content = json.loads(file.read_text(encoding="utf-8"))
  content["model"]["vocab"]["Ġare"] = len(content["model"]["vocab"])  # " are", a token of its own
  content["model"]["merges"].append(["Ġ", "are"])
  file.write_text(json.dumps(content), encoding="utf-8")
  _text_network(place / "decoder", words, "gpt2_tiny", BcosOps.lm_decoder())
  return {"decoder": bcos_jax.TextReader.load(place / "decoder")}


@_values("texts")
def _texts(place):
  return {"texts": ["the plot was never dull .", "i hated the music ."]}


@_values("a network of texts")
def _text_values(place):
  model = bcos_jax.create("bert_tiny", ops=BcosOps.lm(b=1.5))
  ids = np.random.RandomState(0).randint(5, 60, (2, 9)).astype(np.int32)
  return {"model": model, "variables": filled(model), "ids": ids, "mask": np.ones_like(ids)} | {
    "target": np.array([0, 1])
  }


@_file("reviews.txt")
def _review_lines(path):
  path.write_text("the plot was never dull .\ni hated the music .\n", encoding="utf-8")


@_file("unlabelled.txt")
def _many_lines(path):
  words, random = sorted(reviews.vocabulary()), np.random.RandomState(0)
  lines = (" ".join(random.choice(words, random.randint(4, 12))) for _ in range(40))
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@_file("sst2")
def _sst2(path):
  path.mkdir()
  rows = ["sentence,label", *(f"i {word} the plot .,{i % 2}" for i, word in enumerate(_VERBS))]
  (path / "dev.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@_file("tokenizers/clip")
def _clip_words(path):
  tokenizers.clip(path)


# Checkpoints: repositories.


@_file("small.pt2")
def _program(path: pathlib.Path) -> None:
  path.write_bytes((FIXTURES / "programs" / "small.pt2").read_bytes())


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
  checkpoints.repository(
    path,
    checkpoints.OPEN_CLIP,
    name="open_clip_config.json",
    weights="open_clip_model.safetensors",
  )


@_file("my-timm")
@_hub("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
def _timm_vit(path):
  sizes: dict[str, Any] = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": 64}
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


_torch("resnet50.pth", "resnet50", "bcos_v2", BcosOps.v2())
_torch("bcosified.ckpt", "resnet50", "bcosification", BcosOps(), **_LIGHTNING)


@_file("model.safetensors")
def _safetensors(path):
  write_safetensors(path, checkpoints.state("resnet50", "torchvision"))


@_file("last.ckpt")
def _averaged(path):
  """As Lightning writes, with the moving average of the weights beside them."""
  tensors = checkpoints.state("resnet18", "torchvision")
  both = {f"model.{key}": tensor for key, tensor in tensors.items()}
  both |= {f"ema.module.{key}": tensor for key, tensor in tensors.items()}
  checkpoints.torch_file(path, both, entry="state_dict", epoch=89)


@_file("sharded")
def _sharded(path):
  """A ViT-B/16 in the names of transformers, cut in two, with its index."""
  sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
  config = {**checkpoints.VIT, **sizes, "intermediate_size": 3072}
  config |= {"image_size": 224, "patch_size": 16, "id2label": {str(i): str(i) for i in range(1000)}}
  tensors = checkpoints.repository(path, config)
  (path / "model.safetensors").unlink()
  where = {}
  for i, keys in enumerate(np.array_split(sorted(tensors), 2)):
    file = f"model-0000{i + 1}-of-00002.safetensors"
    write_safetensors(path / file, {str(key): tensors[str(key)] for key in keys})
    where |= {str(key): file for key in keys}
  index = {"metadata": {}, "weight_map": where}
  (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@_file("my-adapter")
def _adapter(path):
  """A LoRA adapter of one map, which names the folder of its base network."""
  path.mkdir()
  base = path.with_name("vit-base")
  tensors = checkpoints.repository(base, checkpoints.timm("vit_base_patch16_224", img_size=224))
  rank, name = 2, "blocks.0.attn.qkv"
  outputs, inputs = tensors[f"{name}.weight"].shape
  adapted = {
    f"base_model.model.{name}.lora_A.weight": np.ones((rank, inputs), np.float32),
    f"base_model.model.{name}.lora_B.weight": np.ones((outputs, rank), np.float32),
  }
  write_safetensors(path / "adapter_model.safetensors", adapted)
  about = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "base_model_name_or_path": str(base)}
  (path / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")


@_file("plain.pth")
def _plain(path):
  """Of the network that docs/architectures.md adds, once it is imported."""
  checkpoints.torch_file(path, checkpoints.state("plain", "mine"))
