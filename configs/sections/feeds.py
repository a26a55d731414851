"""Typed sections of the data of a recipe: what all feeds read, texts, pictures, augmentation."""

from __future__ import annotations

import dataclasses

from .conditions import (
  CROPPED,
  CROPS,
  DRAWN,
  FOLDER,
  MOST_STEPS,
  NAMED,
  OWN_SIZE,
  POLICIES,
  SPLIT,
  SUPERVISED,
  TAUGHT,
  UNSPLIT,
)
from .keys import absent, chosen, key


@dataclasses.dataclass(frozen=True)
class Data:
  """What every feed reads."""

  folder: str = key(
    "",
    "the user's pictures: DIR/class/..., or DIR/{train,val}/class/...; of texts: a file, or a "
    "folder with {train,test}.{csv,tsv,jsonl}, or of Hugging Face's save_to_disk",
  )
  name: str = key("", "TFDS name", when=NAMED)
  data_dir: str = key("", 'of TFDS; "" for $BCOS_JAX_DATA_DIR, or the cache folder', when=NAMED)
  train_split: str = key("train", "of TFDS, or of a folder of texts", when=SPLIT)
  test_split: str = key("test", "of TFDS, or of a folder of texts", when=SPLIT)
  held_out: float = key(
    0.2,
    "share of the folder to evaluate on, where it is not split itself",
    least=0,
    most=1,
    when=UNSPLIT,
  )
  batch_size: int = key(64, "of all devices together", least=1, most=MOST_STEPS, open=0)
  eval_batch_size: int = key(256, "of all devices together", least=1, most=MOST_STEPS)
  workers: int = key(0, "decoding processes; 0 decodes in threads", least=0, most=4096, open=-1)


@dataclasses.dataclass(frozen=True)
class TextData:
  """What the feed of texts reads."""

  text: str = key("text", "column or key of texts")
  label: str = key(
    "label",
    "column or key of their labels; TFDS knows its own",
    when=chosen("objective.name", "text") & FOLDER,
  )
  tokenizer: str = key("", 'folder, or "reviews" for their words; "" for that of `init`')
  max_length: int = key(
    0, "maximum number of tokens of a text; 0: the network's context", least=0, most=2**24
  )
  truncate: bool = key(False, "truncate longer texts instead of refusing them")
  hidden_share: float = key(
    0.15,
    "of the tokens, for masked_lm",
    least=0,
    most=1,
    when=chosen("objective.name", "masked_lm"),
  )


@dataclasses.dataclass(frozen=True)
class PictureData:
  """What the feed of pictures reads."""

  unlabelled: bool = key(
    False,
    "the folder is any pictures and tar files of them, without classes",
    when=TAUGHT & FOLDER,
  )
  labels: str = key(
    "",
    "table of the folder's files: name, one label or several separated by |",
    when=FOLDER & absent("data.unlabelled"),
  )
  balance: float = key(
    0.0,
    "0 draws every picture of the folder equally often, 1 every class",
    least=0,
    when=FOLDER & absent("data.unlabelled"),
  )
  label_noise: float = key(
    0.0,
    "share of the training labels drawn at random, for sanity checks",
    least=0,
    most=1,
    when=SUPERVISED,
  )
  image_size: int = key(
    224, "of evaluation, and of training unless train_size is set", least=1, most=2**24, open=0
  )
  train_size: int = key(0, "side of training images; 0: image_size", least=0, most=2**24)
  train_sizes: tuple = key((), "sides, one drawn per step; pictures are cropped at the largest")
  resize: int = key(
    256,
    "shorter side before the central crop; 0: straight to image_size",
    least=0,
    most=2**24,
    when=OWN_SIZE,
  )
  interpolation: str = key("bilinear", "PIL's anti-aliased filter", when=OWN_SIZE)
  damaged: str = key(
    "fail",
    "at pictures that cannot be read: fail, or skip, which counts them",
    names=("fail", "skip"),
  )
  cache: bool = key(False, "keep decoded images in memory")


@dataclasses.dataclass(frozen=True)
class Augment:
  """Variations of training pictures."""

  crop: str = key("none", "none, shift or random_resized", names=CROPS)
  shift: float = key(
    0.125,
    "largest shift each way, as a share of the side, rounded down to pixels",
    least=0,
    most=1,
    when=chosen("data.augment.crop", "shift"),
  )
  scale: tuple = key((0.08, 1.0), "share of the picture's area in a random crop", when=CROPPED)
  flip: float = key(0.0, "probability of a horizontal flip", least=0, most=1)
  policy: str = key("none", " or ".join(POLICIES), names=POLICIES, when=CROPPED)
  policy_operations: int = key(2, "number of operations", least=0, most=100, when=DRAWN)
  policy_magnitude: int = key(10, "of the operations, 0 to 30", least=0, most=30, when=DRAWN)
  erase: float = key(
    0.0, "probability of random erasing with a black box", least=0, most=1, when=CROPPED
  )
  mixup: float = key(0.0, "alpha of the blend of two pictures; 0: off", least=0, when=SUPERVISED)
  cutmix: float = key(
    0.0, "alpha of the box from another picture; 0: off", least=0, when=SUPERVISED
  )
  repeats: int = key(1, "variations of each picture in a row", least=1, most=1000)
