"""Explanations that a network shows of itself: of its examples, or of what it is given."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import render
from ..explain.images import Explanation
from ..explain.texts import TextExplanation
from ..models import is_language_model
from ..render import canvas, kinds
from ..text.words import strongest

if TYPE_CHECKING:
  from .network import Network

FIGURE = "explanations.png"
_DRAWN = 4
"""Explanations in the figure; all are measured."""
_TEXTS = (".txt",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
  """Explanations, measured and drawn.

  Attributes:
    count: Number of explanations.
    error: The largest of their completeness errors.
    kind: What kind of explanations they are, in words; see `kinds`.
    markdown: The explanations, or a line that shows the figure.
    figure: The figure, a PNG named `FIGURE`; empty for texts.
  """

  count: int
  error: float
  kind: str
  markdown: str
  figure: bytes = b""


def show(network: Network, inputs: Any = None) -> Shown | None:
  """Returns explanations of what is given, or else of the network's own examples.

  Args:
    network: The network.
    inputs: Pictures or texts, as `Network.explain` takes them; None takes the examples.

  Returns:
    The explanations; None if there are no examples, or nothing that could be explained.

  Raises:
    InputError: Inputs that cannot be read.
  """
  if network.model.predicts == "features":
    return None
  texts = is_language_model(network.model)
  source = "given" if inputs is not None else "that come with it"
  if inputs is None:
    inputs = _examples(network, texts)
    if not inputs:
      return None
  if texts:
    ex = network.explain(inputs)
    assert isinstance(ex, TextExplanation)
    return _shown_texts(ex, source)
  return _shown_pictures(network, inputs, source)


def _examples(network: Network, texts: bool) -> list[Any]:
  if not texts:
    return [path for path in network.examples if path.suffix.lower() not in _TEXTS]
  found = [path for path in network.examples if path.suffix.lower() in _TEXTS]
  read = [path.read_text(encoding="utf-8", errors="replace").strip() for path in found]
  return [text for text in read if text]


def _shown_texts(ex: TextExplanation, source: str) -> Shown:
  lines = [f"Of {len(ex)} texts {source}, the words that contribute most:"]
  for i in range(min(len(ex), _DRAWN)):
    text = " ".join(ex.text_batch.texts[i].split())
    lines += ["", f"> {text}", "", f"{ex.heading(i)}: {strongest(ex.words(i))}."]
  return Shown(
    count=len(ex),
    error=float(np.max(ex.completeness_error)),
    kind=kinds.kind([kinds.account(ex, (i,)) for i in range(len(ex))], ex.origin),
    markdown="\n".join(lines),
  )


def _shown_pictures(network: Network, inputs: Any, source: str) -> Shown:
  accounts, error, drawn = [], 0.0, None
  for ex in network.explanations(inputs):
    accounts += [kinds.account(ex, (i,)) for i in range(len(ex))]
    error = max(error, float(np.max(ex.completeness_error)))
    drawn = drawn or ex
  assert isinstance(drawn, Explanation)  # there is at least one picture
  figure = render.figures(
    drawn, range(min(len(drawn), _DRAWN)), drawn.labels, options=drawn.options
  )
  first = "The first " if len(accounts) > _DRAWN else ""
  said = f"{first}{min(len(accounts), _DRAWN)} of {len(accounts)} pictures {source}"
  return Shown(
    count=len(accounts),
    error=error,
    kind=kinds.kind(accounts, kinds.origin_of(network.config)),
    markdown=f"![Explanations of pictures]({FIGURE})\n\n{said}.",
    figure=canvas.encoded(figure, "png"),
  )
