"""Explanations of a user's texts with a saved language model: terminal, HTML and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib
import sys

from .. import render
from ..errors import InputError
from ..explain import saved_texts, saving
from ..explain.text_reader import TextReader
from ..explain.texts import Contrast, TextExplanation
from ..network import Network
from ..text.words import strongest


def read_lines(path: str | os.PathLike) -> list[str]:
  """Returns the texts of a file, one per line, without empty lines.

  Raises:
    InputError: The file cannot be read, or holds no text.
  """
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f"Cannot read {str(path)!r}: {error}.", "Give a text file in UTF-8, with a text per line."
    ) from error
  texts = [line for line in lines if line.strip()]
  if not texts:
    raise InputError(f"{str(path)!r} holds no text.", "Write one text per line.")
  return texts


def explain_sentences(
  network: Network,
  texts: Sequence[str],
  *,
  tokenizer: str | os.PathLike | None = None,
  target: str | None = None,
  foil: str | None = None,
  truncate: bool = False,
  output: str | os.PathLike = "explanations",
  batch_size: int = 16,
  own_scales: bool = False,
  colors: bool | None = None,
  say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes a page of coloured texts and files of numbers, and prints both in short.

  Args:
    network: A language model.
    texts: What to explain.
    tokenizer: Folder of a tokenizer; None takes the one in the bundle.
    target: Class, by label or number, or next token to explain; None the predicted one.
    foil: Explains how much more the target's logit is than this one's.
    truncate: Whether texts over the network's length are cut; their number is printed.
    output: Folder for the results.
    batch_size: Texts at a time.
    own_scales: Whether each text has its own scale of colours, instead of one for all.
    colors: Whether the terminal has colours; None detects it.
    say: Function that prints one line of output.

  Returns:
    The files, the page first; see `saved_texts.save`.

  Raises:
    InputError: A bundle, text, class or folder that cannot be used.
  """
  output = saving.checked_output(output, (), ())
  reader = TextReader.load(network, tokenizer, truncate=truncate)
  asked = target if foil is None else Contrast(target, foil)
  ex = reader.explain(texts, asked, batch_size=batch_size)
  _say_truncated(ex, say)
  colored = sys.stdout.isatty() if colors is None else colors
  heats = [ex.heat(i) for i in range(len(ex))]
  cutoff = None if own_scales else render.common_cutoff(heats)
  for i, heat in enumerate(heats):
    say(render.text_terminal(heat, cutoff) if colored else f"{ex.heading(i)}\n  {texts[i]}")
    say(f"  {strongest(ex.words(i))}")
    if not colored:
      say(f"  {heat.kind}")
  named = {} if foil is None or target is None else {"target_name": target}
  paths = saved_texts.save(ex, output, own_scales=own_scales, **named, foil=foil)
  say(f"report: {paths[0]}")
  return paths


def _say_truncated(ex: TextExplanation, say: Callable[[str], None]) -> None:
  dropped = ex.text_batch.dropped
  if cut := int((dropped > 0).sum()):
    say(f"{cut} of {len(dropped)} texts were truncated, by {int(dropped.sum())} tokens in all")
