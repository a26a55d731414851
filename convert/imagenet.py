"""Class names of ImageNet-1k, in the order of all published heads of 1000 classes.

The names are facts about the data set (arXiv 1409.0575). `imagenet1k.txt` has one plain name per
class, in the order of the WordNet ids (n01440764 first), as torchvision 0.28 lists them for its
weights; where WordNet has one word for two classes, they are told apart.
"""

from __future__ import annotations

import functools
import importlib.resources

COUNT = 1000
LAYOUTS = ("torchvision", "timm", "bcos_v2", "bcosification")
"""Layouts whose published networks of 1000 classes are all of ImageNet-1k."""


@functools.cache
def names() -> tuple[str, ...]:
  """Returns the names of the classes."""
  text = importlib.resources.files("bcos_jax.convert").joinpath("imagenet1k.txt").read_text("utf-8")
  return tuple(text.splitlines())
