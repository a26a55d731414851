"""Explanations of texts in files: a report, lines of JSON, a table of words, arrays."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np

from .. import render
from ..io import files
from ..text.influential_words import words_by_class
from . import display, saving


def save(
  ex: Any, folder: str | os.PathLike, *, own_scales: bool = False, **fields: Any
) -> list[pathlib.Path]:
  """Writes a `TextExplanation`: report.html, explanations.jsonl, .csv (words) and .npz.

  Args:
    ex: The explanation.
    folder: Where to.
    own_scales: Whether each text has its own scale of colours, instead of one for all.
    **fields: Of each line of JSON, for all texts alike, such as the foil.

  Returns:
    The files, in this order.

  Raises:
    InputError: The folder cannot be written, or the explanation does not know the texts.
  """
  folder = saving.checked_output(folder, (), ())
  several = np.ndim(ex.value) == 2
  words = [ex.words(i, 0 if several else None) for i in range(len(ex))]
  heats = [display.heat(ex, i) for i in range(len(ex))]
  explained = ex.explained or ("the output",) * len(ex)
  influential = words_by_class(words, explained) if len(ex) > 1 else None
  what = "a text" if len(ex) == 1 else f"{len(ex)} texts"
  paths = [folder / name for name in (saving.REPORT, saving.LINES, saving.TABLE, saving.ARRAYS)]
  title = f"Explanation of {what}"
  render.text_report(paths[0], title, heats, influential=influential, own_scales=own_scales)
  lines = [json.dumps({**_numbers(ex, i, words[i]), **fields}) for i in range(len(ex))]
  files.write(paths[1], ("\n".join(lines) + "\n").encode())
  rows = [
    {"text": i, "word": word.text, "contribution": word.contribution, "explained": explained[i]}
    for i, of_text in enumerate(words)
    for word in of_text
  ]
  files.write(paths[2], saving.table(rows))
  arrays = {name: getattr(ex, name) for name in ("ids", "mask", "logits", "value", "contributions")}
  arrays |= {f"residuals/{name}": part for name, part in ex.residuals.items()}
  if ex.target is not None:
    arrays["target"] = ex.target
  files.write(paths[3], saving.archive({name: np.asarray(array) for name, array in arrays.items()}))
  return paths


def _numbers(ex: Any, index: int, words: Sequence[Any]) -> dict[str, Any]:
  count, pick = int(ex.mask[index].sum()), (index, 0) if np.ndim(ex.value) == 2 else (index,)
  target = None if ex.target is None else int(np.asarray(ex.target)[pick])
  name = ex.labels[target] if ex.labels and target is not None else ""
  return {
    "text": ex.text_batch.texts[index],
    "target": target,
    "target_name": name or (ex.explained[index] if ex.explained else ""),
    "value": float(np.asarray(ex.value)[pick]),
    "residuals": {source: float(np.asarray(v)[pick]) for source, v in ex.residuals.items()},
    "parts": {part: float(np.asarray(v)[pick].sum()) for part, v in ex.parts.items()},
    "tokens": list(ex.text_batch.tokens[index]),
    "contributions": [float(c) for c in np.asarray(ex.contributions)[pick][:count]],
    "words": [[word.text, word.span, word.contribution] for word in words],
    "dropped_tokens": int(ex.text_batch.dropped[index]),
  }
