"""Explanations of pictures for a user's text prompts with saved towers: figures, a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib

import jax
import numpy as np

from .. import render
from ..errors import InputError
from ..inputs import of_pictures
from ..io import bundles
from ..network import Network
from ..text.towers import TextTower
from ..zero_shot import Similarity, Towers
from ..zero_shot.classifier import probabilities
from ..zero_shot.explanation import explain_text
from .explain_images import prepared

_SIMILARITY = """Each column of a figure is one text. Its similarity is the cosine between what \
the network makes of the picture and of the text{pooled}; the percentage is {kind}.

"""
_SEEN = """What the network sees: its own computation for this text, turned back into colours; \
faded places do not matter.

"""
_CONTRIBUTIONS = """Contributions: how much each pixel adds to the similarity, red for it, blue \
against it, on one scale for all texts of a picture. The contributions and the network's constants \
add up to the similarity: the largest remainder here is {error:.0e} of what is added up."""


def explain_prompts(
  image: Network,
  pictures: Sequence[str | os.PathLike],
  texts: Sequence[str],
  *,
  text_tower: Network,
  tokenizer: str | os.PathLike,
  output: str | os.PathLike = "explanations",
  unpooled: bool = False,
  power: float = 1.0,
  batch_size: int = 16,
  frame: int = 0,
  say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes one figure per picture, with a column per text, and a report of all.

  Args:
    image: The image tower.
    pictures: Files of any common kind and size, folders, patterns and lists.
    texts: What to look for.
    text_tower: The text tower.
    tokenizer: Folder of its tokenizer.
    output: Folder for the results.
    unpooled: Compares texts with every position of a CLIP ResNet, without its pooling.
    power: Of the cosines at these positions; see `Similarity`.
    batch_size: Pictures at a time.
    frame: Of animated pictures and files of several pages.
    say: Function that prints one line of output.

  Returns:
    The figures' paths and, last, the report's.

  Raises:
    InputError: Towers, tokenizer, pictures or texts that cannot be used or do not fit; a folder
      that cannot be written.
  """
  output, names, stems = prepared(image, pictures, output)
  towers = _towers(image, text_tower, tokenizer, unpooled, power)
  network = towers.image
  images = np.stack([of_pictures(network.preprocess)(name, frame) for name in names])
  ex = explain_text(
    network.model,
    network.variables,
    images,
    towers.text_features(texts),
    power=power,
    batch_size=batch_size,
  )
  shares = probabilities(towers.scale * ex.value + towers.bias, towers.sigmoid)
  options = render.options_of(network)
  figures = {}
  for i, picture in enumerate(map(pathlib.PurePath, names)):
    path = output / f"{stems[i]}.png"
    drawn = {"probabilities": shares[i], "title": picture.name, "options": options}
    figures[path.stem] = render.prompts(ex, i, texts, path, **drawn)
    say("\n".join([picture.name, *_ranked(texts, ex.value[i], shares[i]), f"  figure: {path}"]))
  report = output / "report.html"
  _report(report, towers, ex, texts, figures, unpooled)
  say(f"report: {report}")
  return [*(output / f"{stem}.png" for stem in figures), report]


def _ranked(
  texts: Sequence[str], similarities: jax.Array | np.ndarray, shares: np.ndarray
) -> list[str]:
  """Returns a line for each text, the most similar first."""
  order = np.argsort(-np.asarray(similarities), kind="stable").tolist()
  return [f"  {similarities[k]:+.4f}  {shares[k]:7.2%}  {texts[k]}" for k in order]


def _towers(image, text_tower, tokenizer, unpooled: bool, power: float) -> Towers:
  if unpooled:
    image = _without_pooling(image)
  text = TextTower.load(text_tower, tokenizer)
  return Towers.of(image, text, similarity=Similarity(power))


def _without_pooling(image: bundles.Bundle) -> bundles.Bundle:
  if not image.model.localises_text:
    raise InputError(
      f"A {type(image.model).__name__} cannot be applied without pooling.",
      "Leave out --unpooled, which is for CLIP ResNets.",
    )
  return dataclasses.replace(image, model=image.model.unpooled())


def _report(path, towers: Towers, ex, texts, figures, unpooled: bool):
  rows = [
    [name, *(f"{value:.3f}".replace("-", "−") for value in ex.value[i])]
    for i, name in enumerate(figures)
  ]
  intro = _SIMILARITY.format(
    pooled=", averaged over the positions of the picture" if unpooled else "",
    kind="the probability of each text" + ("" if towers.sigmoid else " among those given"),
  )
  intro += _SEEN if towers.image.model.ops.encoding.pairing != "none" else ""
  intro += _CONTRIBUTIONS.format(error=float(ex.completeness_error.max()))
  render.report(
    path,
    f"What {towers.image.config['architecture']} sees of {len(texts)} texts",
    [],
    intro=intro,
    summary=[["similarity", *texts], *rows],
    plots=figures,
  )
