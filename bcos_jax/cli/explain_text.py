"""Explanations of a user's texts with a saved language model: terminal, HTML and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import json
import os
import pathlib
import sys

import numpy as np

from .. import models, render
from ..errors import InputError
from ..explain.text_reader import TextReader
from ..io import bundles
from ..text.explanation import Contrast, TextExplanation
from ..text.influential_words import words_by_class
from ..text.words import Word


def is_language_bundle(bundle: str | os.PathLike) -> bool:
  """Whether a folder holds the bundle of a language model."""
  folder = pathlib.Path(bundle)
  if not bundles.is_bundle(folder):
    return False
  config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  name = config["architecture"]
  if name not in (*models.names(), *models.test_variants()):
    return False
  return getattr(models.architecture(name).module, "takes_embeddings", False)


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
  bundle: str | os.PathLike,
  texts: Sequence[str],
  *,
  tokenizer: str | os.PathLike | None = None,
  target: str | None = None,
  foil: str | None = None,
  truncate: bool = False,
  output: str | os.PathLike = "explanations",
  batch_size: int = 16,
  colors: bool | None = None,
  say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes a page of coloured texts and a file of numbers, and prints both in short.

  Args:
    bundle: Folder of a saved language model.
    texts: What to explain.
    tokenizer: Folder of a tokenizer; None takes the one in the bundle.
    target: Class, by label or number, or next token to explain; None the predicted one.
    foil: Explains how much more the target's logit is than this one's.
    truncate: Whether texts over the network's length are cut; their number is printed.
    output: Folder for the results.
    batch_size: Texts at a time.
    colors: Whether the terminal has colours; None detects it.
    say: Function that prints one line of output.

  Returns:
    The paths of the page and of the numbers.

  Raises:
    InputError: A bundle, text, class or folder that cannot be used.
  """
  output = bundles.check_writable(output)
  reader = TextReader.load(bundle, tokenizer, truncate=truncate)
  asked = target if foil is None else Contrast(target, foil)
  ex = reader.explain(texts, asked, batch_size=batch_size)
  _say_truncated(ex, say)
  words = [ex.words(i) for i in range(len(texts))]
  names = [_target_name(reader, ex, i, target) for i in range(len(texts))]
  against = "" if foil is None else f" rather than {foil!r}"
  explained = [f"{name!r}{against}" for name in names]
  headings = [_heading(reader, ex, i, explained[i]) for i in range(len(texts))]
  colored = sys.stdout.isatty() if colors is None else colors
  heats = []
  for i, text in enumerate(texts):
    heats.append(render.text_heat(text, words[i], title=headings[i], note=_note(ex, i)))
    say(render.text_terminal(heats[i]) if colored else f"{headings[i]}\n  {text}")
    say(_strongest(words[i]))
  page, numbers = output / "report.html", output / "explanations.jsonl"
  influential = words_by_class(words, explained) if len(texts) > 1 else {}
  what = "a text" if len(texts) == 1 else f"{len(texts)} texts"
  render.text_report(page, f"Explanation of {what}", heats, influential=influential)
  lines = [
    json.dumps({"target_name": name, "foil": foil, **_numbers(ex, i, words[i])})
    for i, name in enumerate(names)
  ]
  numbers.write_text("\n".join(lines) + "\n", encoding="utf-8")
  say(f"report: {page}")
  return [page, numbers]


def _say_truncated(ex: TextExplanation, say: Callable[[str], None]) -> None:
  dropped = ex.text_batch.dropped
  if cut := int((dropped > 0).sum()):
    say(f"{cut} of {len(dropped)} texts were truncated, by {int(dropped.sum())} tokens in all")


def _strongest(words: Sequence[Word]) -> str:
  """Returns a line of the words that contribute most, for or against."""
  strongest = sorted(words, key=lambda word: -abs(word.contribution))[:5]
  return "  " + ", ".join(f"{word.text} {word.contribution:+.3f}" for word in strongest)


def _target_name(reader: TextReader, ex: TextExplanation, index: int, target: str | None) -> str:
  """Returns the class or token that was explained of a text."""
  if ex.target is not None:
    return reader.name_of(int(ex.target[index]))
  return target or reader.name_of(int(np.argmax(ex.logits[index])))


def _heading(reader: TextReader, ex: TextExplanation, index: int, explained: str) -> str:
  logits, value = ex.logits[index], ex.value[index]
  best = int(np.argmax(logits))
  share = float(np.exp(logits[best] - np.logaddexp.reduce(logits)))
  said = f"predicted {reader.name_of(best)!r} ({share:.1%})"
  return f"{said}; {explained} has the value {value:+.3f}"


def _note(ex: TextExplanation, index: int) -> str:
  special = ex.text_batch.special[index] & (ex.mask[index] > 0)
  parts = {name: float(part[index].sum()) for name, part in ex.parts.items()}
  cut = int(ex.text_batch.dropped[index])
  said = [f"its last {cut} tokens were truncated"] if cut else []
  said += [f"value {ex.value[index]:+.4f}", f"tokens {ex.contributions[index].sum():+.4f}"]
  said += [f"special tokens among them {ex.contributions[index][special].sum():+.4f}"]
  said += [f"{name} {value:+.4f}" for name, value in parts.items()]
  said += [
    f"{name} {float(value[index]):+.4f}"
    for name, value in ex.residuals.items()
    if name != "unexplained"
  ]
  return "; ".join(said)


def _numbers(ex: TextExplanation, index: int, words: list[Word]) -> dict:
  target = None if ex.target is None else int(ex.target[index])
  count = int(ex.mask[index].sum())
  return {
    "text": ex.text_batch.texts[index],
    "target": target,
    "value": float(ex.value[index]),
    "residuals": {name: float(value[index]) for name, value in ex.residuals.items()},
    "parts": {name: float(part[index].sum()) for name, part in ex.parts.items()},
    "tokens": list(ex.text_batch.tokens[index]),
    "contributions": [float(c) for c in ex.contributions[index][:count]],
    "words": [[word.text, word.span, word.contribution] for word in words],
    "dropped_tokens": int(ex.text_batch.dropped[index]),
  }
