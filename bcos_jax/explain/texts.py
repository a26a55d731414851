"""Result types of explanations of language models."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np

from .. import render
from ..errors import InputError
from ..text.words import TextBatch, Word, merged
from . import display

Array = jax.Array
ClassChoice = int | str | Sequence[str] | Array | np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Contrast:
  """A target: how much more one logit is than another.

  Attributes:
    target: A class or token, one for all texts or ints [N]; None for the predicted one. A
      `TextReader` takes labels and tokens as text, too.
    foil: Likewise; None for the mean of all logits (the `relative` mode of B-cos LM).
  """

  target: ClassChoice = None
  foil: ClassChoice = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextExplanation:
  """Explanations of N texts of L tokens; with K targets per text, an axis K follows N at (K).

  Attributes:
    ids: Token ids, [N, L].
    mask: 1 for tokens, 0 for padding, [N, L].
    logits: The outputs, [N, C]; of language models those at `at`, [N, vocab_size].
    value: The explained scalar, [N(, K)].
    target: The explained class or token, int [N(, K)]; None if the target was a function or a
      `Contrast`.
    at: Places whose token is predicted, [N]; None for classifiers.
    inputs: Output of the embedding module, [N, L, D].
    weights: W(x) at `inputs`, [N(, K), L, D].
    contributions: sum over channels of inputs * weights, [N(, K), L]; zero exactly for padding.
    parts: What of the contributions came from each part of the embedding, [N(, K), L] each: `word`,
      `position`, `token_type` as far as the network has them, and `norm_bias`, the bias of the
      embedding module's norm.
    residual: value - contributions.sum(), [N(, K)]: what no token accounts for.
    residuals: The residual by source, each [N(, K)]: `bias`, `logit_bias`, and `unexplained`, the
      rest: rounding.
    batch: The texts, where they are known.
    conventional: Whether the network is a conventional one, so that the explanation is post hoc.
    labels: Names of the classes; () where they are not known.
    explained: What was explained of each text, in words; () where it is not known.
    predicted: What was predicted for each text and how surely, in words.
    network: What the network is called in headings.
    origin: Where the network's weights come from.
  """

  ids: Array
  mask: Array
  logits: Any
  value: Array
  target: Array | None
  at: Array | None
  inputs: Array
  weights: Array
  contributions: Array
  parts: dict[str, Array]
  residual: Array
  residuals: dict[str, Array]
  batch: TextBatch | None = dataclasses.field(default=None, metadata={"static": True})
  conventional: bool = dataclasses.field(default=False, metadata={"static": True})
  labels: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  explained: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  predicted: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  network: str = dataclasses.field(default="the network", metadata={"static": True})
  origin: render.Origin = dataclasses.field(
    default=render.Origin.TRAINED, metadata={"static": True}
  )

  def __len__(self) -> int:
    return len(self.ids)

  def __repr__(self) -> str:
    return display.text_summary(self)

  def heading(self, index: int) -> str:
    """Returns what was predicted for a text, and what is explained of it."""
    said = f"predicted {self.predicted[index]}; " if self.predicted else ""
    name = self.explained[index] if self.explained else "the output"
    return f"{said}{name} has the value {display.number(self.value[index])}"

  def heat(self, index: int) -> render.TextHeat:
    """Returns a text's words with their contributions, for the functions of `render`."""
    return display.heat(self, index)

  def show(self) -> None:
    """Shows the texts with coloured words: in a notebook, else in the terminal."""
    display.show_texts(self)

  def save(self, folder: str | os.PathLike, *, own_scales: bool = False) -> list[pathlib.Path]:
    """Writes a report, JSON lines, a CSV of the words and the arrays (NPZ) into a folder.

    Args:
      folder: Where to.
      own_scales: Whether each text has its own scale of colours, instead of one for all.

    Returns:
      The files, the report first.

    Raises:
      InputError: The folder cannot be written, or the explanation does not know the texts.
    """
    from . import saved_texts

    return saved_texts.save(self, folder, own_scales=own_scales)

  def _repr_html_(self) -> str | None:
    return display.text_page(self)

  @property
  def mean_contributions(self) -> Array:
    """Means over channels in place of sums, as published (`Bcos_absolute_ixg_mean`)."""
    return self.contributions / self.inputs.shape[-1]

  @property
  def completeness_error(self) -> np.ndarray:
    """|unexplained| relative to the largest of |value| and the absolute contributions' mass."""
    mass = np.abs(self.contributions).sum(axis=-1)
    least = np.maximum(np.maximum(np.abs(self.value), mass), np.finfo(np.float32).tiny)
    return np.abs(self.residuals["unexplained"]) / least

  def counting(self, *names: str) -> TextExplanation:
    """Returns the explanation in which only these parts count as contributions.

    The others become residuals. `counting("word")` is how the published code explains decoders.

    Raises:
      InputError: A part that the network does not have.
    """
    for name in names:
      if name not in self.parts:
        raise InputError(
          f"The embeddings have no part {name!r}, expected {', '.join(self.parts)}.",
          "Name parts that the network has.",
        )
    counted = sum((self.parts[name] for name in names), np.float32(0))
    others = {k: part.sum(axis=-1) for k, part in self.parts.items() if k not in names}
    return dataclasses.replace(
      self,
      contributions=counted,
      residual=self.value - counted.sum(axis=-1),
      residuals={**others, **self.residuals},
    )

  @property
  def text_batch(self) -> TextBatch:
    """The texts.

    Raises:
      InputError: The explanation does not know them.
    """
    if self.batch is None:
      raise InputError(
        "The explanation has ids, but no texts.", "Explain texts with TextReader.explain."
      )
    return self.batch

  def words(self, index: int, target: int | None = None) -> list[Word]:
    """Returns the contributions of one text by word, special tokens as words of their own.

    Args:
      index: Which text.
      target: Which of K targets; None where there is one.

    Raises:
      InputError: The explanation does not know the texts, or has no such target.
    """
    batch = self.text_batch
    scores = np.asarray(self.contributions[index])
    several = scores.ndim == 2
    wrong = not several if target is not None else several
    if wrong or (target is not None and not 0 <= target < len(scores)):
      expected = f"0 to {len(scores) - 1}" if several else "None: each text has one"
      raise InputError(f"The target is {target}, expected {expected}.", "Pass one of these.")
    return merged(batch, index, scores[target] if several else scores)
