"""Text networks of the app: their loading, and explanations of one text at a time."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from .. import render
from ..errors import InputError
from ..explain.text_reader import TextReader
from ..io import bundles
from ..render.figure import percent

TOP = 5
MOST_CHARACTERS = 20_000


@dataclasses.dataclass(frozen=True)
class TextNetwork:
  """A network that reads texts.

  Attributes:
    name: As the page calls it.
    reader: The network with its tokenizer; its variables are on the device.
    architecture: Its name in the bundle.
    examples: Files that came with the network.
  """

  name: str
  reader: TextReader
  architecture: str
  examples: tuple[pathlib.Path, ...] = ()

  @property
  def labels(self) -> tuple[str, ...]:
    """Names of its classes; () for a network that predicts tokens."""
    model = self.reader.model
    if model.predicts_tokens:
      return ()
    return self.reader.labels or tuple(map(str, range(model.num_classes)))


@dataclasses.dataclass(frozen=True)
class TextAnswer:
  """An explained text.

  Attributes:
    heat: The text with the contributions of its words.
    target: The explained class or token.
    classes: (class or token, name, probability), most probable first.
    numbers: Plain values for programs.
  """

  heat: render.TextHeat
  target: int
  classes: tuple[tuple[int, str, float], ...]
  numbers: dict[str, Any]


def text_network(bundle: bundles.Bundle, name: str) -> TextNetwork:
  """Returns the language model of a bundle, to be asked.

  Raises:
    InputError: It has no tokenizer, or no output to explain.
  """
  reader = TextReader.load(bundle, truncate=True)
  if not reader.model.predicts_tokens and not getattr(reader.model, "num_classes", 0):
    raise InputError(
      f"The network {name!r} has no classes to explain.", "Use a network with classes."
    )
  # Explanations are requested repeatedly: the weights are copied to the device once.
  reader = dataclasses.replace(reader, variables=jax.device_put(reader.variables))
  return TextNetwork(name, reader, reader.config["architecture"], bundle.examples)


def checked_text(text: Any) -> str:
  """Returns a text that a user gave.

  Raises:
    InputError: No text, or one that is too long to be read.
  """
  if not isinstance(text, str) or not text.strip():
    raise InputError("There is no text.", "Write some words.")
  if len(text) > MOST_CHARACTERS:
    raise InputError(
      f"The text has {len(text)} characters, expected at most {MOST_CHARACTERS}.", "Shorten it."
    )
  return text


def answer(network: TextNetwork, text: str, target: int | str | None = None) -> TextAnswer:
  """Explains a class of a text, or a predicted token.

  Args:
    network: The network.
    text: The text.
    target: Class or token, by number or name; None takes the predicted one.

  Raises:
    InputError: A text that cannot be read, or an unknown class.
  """
  reader = network.reader
  classes = len(network.labels)
  if isinstance(target, int) and classes and not 0 <= target < classes:
    raise InputError(
      f"Class {target} does not exist, expected 0 to {classes - 1}.", "Choose one of the classes."
    )
  ex = reader.explain([checked_text(text)], target, batch_size=1)
  assert ex.target is not None  # a class, not a function
  explained, logits = int(ex.target[0]), np.asarray(ex.logits[0], np.float64)
  top = np.argsort(-logits, kind="stable")[:TOP].tolist()
  if explained not in top:
    top[-1] = explained
  shares = np.exp(logits - np.logaddexp.reduce(logits))
  listed = tuple((k, reader.name_of(k), float(shares[k])) for k in top)
  title = f"{reader.name_of(explained)}  ·  {percent(float(shares[explained]))}"
  cut = int(ex.text_batch.dropped[0])
  note = f"Its last {cut} tokens were cut off: the text is too long for the network." if cut else ""
  heat = render.explained_text(ex, 0, title=title, note=note)
  numbers = {
    "value": float(ex.value[0]),
    "residuals": {name: float(part[0]) for name, part in ex.residuals.items()},
    "words": [
      {
        "word": word.text,
        "span": word.span,
        "contribution": word.contribution,
        "unknown": word.unknown,
      }
      for word in ex.words(0)
    ],
  }
  return TextAnswer(heat, explained, listed, numbers)
