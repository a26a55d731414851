"""Explanations on the screen: short summaries, and pictures or coloured words where one looks."""

from __future__ import annotations

from collections.abc import Sequence
import io
import os
import pathlib
import sys
import tempfile
from typing import Any

import jax
from jax import core
import numpy as np

from .. import render
from ..errors import InputError
from ..render import kinds

_SHOWN = 6
"""Pictures in one figure; more are in what `save` writes."""


def image_summary(ex: Any) -> str:
  """Returns an `Explanation` of images in one or two lines."""
  if _traced(ex) or not np.size(ex.value):
    return f"Explanation(images {list(ex.images.shape)}, not computed)"
  count = len(ex.images)
  names = [target_name(ex, i) for i in np.ndindex(np.shape(ex.value))]
  if ex.images.ndim != 4:
    return f"Explanation of inputs {list(ex.images.shape)}\n{_values(ex, names)}"
  side = " x ".join(map(str, ex.images.shape[2:0:-1]))
  what = (
    f"{count} pictures"
    if count > 1
    else repr(_short(pathlib.PurePath(ex.names[0]).name))
    if ex.names
    else "a picture"
  )
  return f"Explanation of {what} ({side} pixels)\n{_values(ex, names)}"


def text_summary(ex: Any) -> str:
  """Returns a `TextExplanation` in one or two lines."""
  if _traced(ex) or not np.size(ex.value):
    return f"TextExplanation(ids {list(ex.ids.shape)}, not computed)"
  count, batch = len(ex.ids), ex.batch
  what = f"{count} texts" if count > 1 else repr(_short(batch.texts[0])) if batch else "a text"
  if ex.explained:
    names = list(ex.explained)
  else:
    names = [target_name(ex, i) for i in np.ndindex(np.shape(ex.value))]
  return f"TextExplanation of {what}\n{_values(ex, names)}"


def _values(ex: Any, names: Sequence[str]) -> str:
  values = np.ravel(ex.value)
  shown = ", ".join(
    f"{_short(name, 32)} {number(value)}"
    for name, value in zip(names[:3], values[:3], strict=False)
  )
  more = f", and {len(values) - 3} more" if len(values) > 3 else ""
  return f"  {shown}{more}; completeness error {np.max(ex.completeness_error):.0e}"


def target_name(ex: Any, where: tuple[int, ...]) -> str:
  """Returns the name of an explained class, `where` in `ex.value`, for a sentence."""
  if ex.target is None:
    return "the chosen output"
  target = int(np.asarray(ex.target)[where])
  return repr(ex.labels[target]) if ex.labels else f"class {target}"


def number(value: Any) -> str:
  """Returns a value with its sign, to three places."""
  return f"{float(value):+.3f}".replace("-", "−")


def _traced(ex: Any) -> bool:
  arrays = jax.tree.leaves(ex)
  return any(isinstance(a, core.Tracer) or not hasattr(a, "__array__") for a in arrays)


def _short(text: str, most: int = 60) -> str:
  return text if len(text) <= most else text[: most - 1] + "…"


def image_png(ex: Any) -> bytes | None:
  """Returns a figure of an `Explanation`; None for what are no pictures, or without classes."""
  pictures = ex.images.ndim == 4 and ex.images.shape[-1] in (1, 3)
  if _traced(ex) or getattr(ex.logits, "ndim", 0) != 2 or not pictures:
    return None
  if len(ex.images) == 1:
    figure = ex.figure(0)
  else:
    shown = range(min(len(ex.images), _SHOWN))
    left = len(ex.images) - len(shown)
    title = f"the first {len(shown)} of {len(ex.images)} pictures" if left else ""
    figure = render.figures(ex, list(shown), ex.labels, title=title, options=ex.options)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", facecolor="white", bbox_inches="tight", pad_inches=0.12)
  return buffer.getvalue()


def show(ex: Any, png: bytes | None) -> None:
  """Shows a figure; in the end there is always a line that says where it is."""
  if _in_notebook(ex):
    return
  if png is None:
    raise InputError(
      "The explained inputs are no pictures, or the network has no classes to name: there is no "
      "figure.",
      "Draw its contributions with bcos_jax.render.contribution_map.",
    )
  with tempfile.NamedTemporaryFile(prefix="explanation-", suffix=".png", delete=False) as file:
    file.write(png)
  print(ex, f"figure: {file.name}", sep="\n")
  if _has_screen():
    from PIL import Image

    Image.open(pathlib.Path(file.name)).show()


def show_texts(ex: Any) -> None:
  """Shows texts: as HTML in a notebook, else in the terminal, in colours where it has them."""
  if _in_notebook(ex):
    return
  heats = [heat(ex, index) for index in range(len(ex))]
  cutoff = render.common_cutoff(heats)
  for one in heats:
    print(render.text_terminal(one, cutoff, colors=sys.stdout.isatty()))


def _in_notebook(ex: Any) -> bool:
  """Shows an object in a notebook, if this is one."""
  shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
  if shell is None or not hasattr(shell, "kernel"):
    return False
  from IPython import display

  display.display(ex)
  return True


def _has_screen() -> bool:
  if sys.platform in ("darwin", "win32"):
    return True
  return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def heat(ex: Any, index: int) -> render.TextHeat:
  """Returns the heat map of a text, of its first target where there are several."""
  words = ex.words(index, 0 if np.ndim(ex.value) == 2 else None)
  text = ex.text_batch.texts[index]
  where = (index, 0) if np.ndim(ex.value) == 2 else (index,)
  kind = kinds.kind_of(ex, where)
  return render.text_heat(text, words, title=ex.heading(index), note=_note(ex, index), kind=kind)


def _note(ex: Any, index: int) -> str:
  """Says what adds up to the value of a text."""

  def total(numbers):
    return float(np.sum(_first(numbers[index], np.ndim(ex.value) == 2)))

  special = ex.text_batch.special[index] & (ex.mask[index] > 0)
  scores = _first(ex.contributions[index], np.ndim(ex.value) == 2)
  cut = int(ex.text_batch.dropped[index])
  said = [f"its last {cut} tokens were truncated"] if cut else []
  said += [f"value {total(ex.value):+.4f}", f"tokens {scores.sum():+.4f}"]
  said += [f"special tokens among them {scores[special].sum():+.4f}"]
  said += [f"{name} {total(part):+.4f}" for name, part in ex.parts.items()]
  said += [
    f"{name} {total(value):+.4f}" for name, value in ex.residuals.items() if name != "unexplained"
  ]
  return "; ".join(said)


def _first(numbers: Any, several: bool) -> np.ndarray:
  return np.asarray(numbers)[0] if several else np.asarray(numbers)


def text_page(ex: Any) -> str | None:
  """Returns explained texts as HTML for a notebook; None if the texts are not known."""
  if _traced(ex) or ex.batch is None:
    return None
  heats = [heat(ex, index) for index in range(len(ex))]
  cutoff = render.common_cutoff(heats)
  return "".join(render.text_fragment(one, cutoff) for one in heats)
