"""Views: one explanation of one image, taken from a batch and prepared for drawing."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, unknown_name
from ..ops import Ops
from . import color

PROBABILITIES = ("sigmoid", "softmax")


@dataclasses.dataclass(frozen=True)
class Options:
  """How explanations are drawn; shared by figures and reports.

  Attributes:
    smooth: Odd width of the opacity's averaging window in the coloured explanation. 15 pixels is
      the published choice for 224-pixel images; smaller images need less, down to 1.
    percentile: Where opacity and contributions saturate.
    probability: "sigmoid" (networks trained with binary cross-entropy, as B-cos networks are) or
      "softmax".
    top: Number of classes to list.
    background: Grey level in [0, 1] behind the coloured explanation. White (1) is published; what
      is white in the picture shows only on a darker one, e.g. 0.5 for white strokes on black.
  """

  smooth: int = 15
  percentile: float = 99.5
  probability: str = "sigmoid"
  top: int = 5
  background: float = 1.0

  def __post_init__(self):
    color.check_window(self.smooth)
    color.check_percentile(self.percentile)
    if self.probability not in PROBABILITIES:
      raise unknown_name("probability", self.probability, PROBABILITIES)
    if self.top < 1:
      raise InputError(f"top={self.top}, expected at least one class to list.", "Use top=5.")
    if not 0 <= self.background <= 1:
      raise InputError(
        f"background={self.background}, expected a grey level in [0, 1].", "Use 1 for white."
      )


def options_for(ops: Ops, side: int) -> Options:
  """Returns how to draw explanations of pictures of this many pixels per side."""
  # The published averaging window of 15 is for pictures of 224 pixels.
  smooth = max(1, round(15 * side / 224)) | 1
  return Options(smooth=smooth, probability=ops.probability)


@dataclasses.dataclass(frozen=True)
class View:
  """Everything a picture of one explanation shows, as NumPy.

  Attributes:
    picture: [H, W, 3] floats in [0, 1].
    colored: [H, W, 3] floats in [0, 1], the coloured explanation on its background; None where
      the encoding has no complement channels.
    contributions: [H, W] floats.
    cutoff: Contribution at which the map's colour saturates.
    target: The explained class; None for another scalar.
    name: The explained class in words.
    value: The explained output.
    terms: What adds up to `value`: contributions, each residual source, the rest.
    classes: (class, name, probability), most probable first.
  """

  picture: np.ndarray
  colored: np.ndarray | None
  contributions: np.ndarray
  cutoff: float
  target: int | None
  name: str
  value: float
  terms: dict[str, float]
  classes: tuple[tuple[int, str, float], ...]

  @property
  def probability(self) -> float | None:
    """Probability of the explained class, where it is listed."""
    return next((p for c, _, p in self.classes if c == self.target), None)


def view(
  ex,
  index: int | tuple[int, int],
  labels: Sequence[str] | None = None,
  options: Options | None = None,
) -> View:
  """Takes one explanation out of the batch `ex`.

  Args:
    ex: An `Explanation` of N images, with one or K targets per image.
    index: The image, or (image, which of its targets); an image alone means its first target.
    labels: Class names, one per output; None or () for numbers.
    options: How to draw.

  Raises:
    InputError: The index or the number of labels does not fit, or the explanation has NaN.
  """
  options = options or Options()
  where = _position(ex, index)
  image = where[0]
  if getattr(ex.logits, "ndim", None) != 2:
    raise InputError(
      "The explained network has no logits [N, C], so there are no classes to list.",
      "Draw its contributions with contribution_map.",
    )
  logits = np.asarray(ex.logits[image], np.float64)
  names = _names(labels, logits.shape[-1])
  contributions = np.asarray(ex.contributions[where], np.float32)
  if not (np.isfinite(contributions).all() and np.isfinite(logits).all()):
    raise InputError(
      f"The explanation of image {image} contains NaN or infinite values.",
      "Look for NaN among the network's weights.",
    )
  inputs, weights = ex.inputs[image], ex.weights[where]
  paired = weights.shape[-1] in (2, 6)
  target = None if ex.target is None else int(np.asarray(ex.target)[where])
  picture = np.clip(np.asarray(ex.images[image], np.float32), 0, 1)
  return View(
    picture=np.broadcast_to(picture, (*picture.shape[:2], 3)),
    colored=colored(inputs, weights, options) if paired else None,
    contributions=contributions,
    cutoff=float(color.cutoff_of(contributions, options.percentile)),
    target=target,
    name="the chosen output" if target is None else names[target],
    value=float(ex.value[where]),
    terms=_terms(ex, where, contributions),
    classes=_classes(logits, names, target, options),
  )


def _position(ex, index: int | tuple[int, int]) -> tuple[int, ...]:
  """The place of one explanation in `ex.contributions`: (image,) or (image, target)."""
  leading = ex.contributions.shape[:-2]
  where = tuple(map(int, index)) if isinstance(index, tuple) else (int(index),)
  where += (0,) * (len(leading) - len(where))
  if len(where) != len(leading) or not all(0 <= i < n for i, n in zip(where, leading, strict=True)):
    raise InputError(
      f"index={index!r} is outside explanations of shape {list(leading)}.",
      "Count from 0: an image, or (image, target) with several targets per image.",
    )
  return where


def colored(inputs, weights, options: Options) -> np.ndarray:
  """The coloured explanation, opaque: transparency would show the page, dark for some readers."""
  rgba = np.asarray(color.rgba_from(inputs, weights, options.smooth, options.percentile))
  return rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]) * np.float32(options.background)


def _names(labels: Sequence[str] | None, num_classes: int) -> list[str]:
  if labels is None or not len(labels):
    return [f"class {i}" for i in range(num_classes)]
  if len(labels) != num_classes:
    raise InputError(f"{len(labels)} labels for {num_classes} classes.", "Give one per class.")
  return [str(label) for label in labels]


def _terms(ex, where: tuple[int, ...], contributions: np.ndarray) -> dict[str, float]:
  """What adds up to the explained value, in reading order, down to the rounding error."""
  terms = {"pixels": float(contributions.sum(dtype=np.float64))}
  for source, amount in ex.residuals.items():
    if source != "unexplained":
      terms[source.replace("_", " ")] = float(amount[where])
  rest = float(ex.value[where]) - sum(terms.values())
  small = abs(rest) <= 1e-3 * max(1.0, float(np.abs(contributions).sum()), abs(ex.value[where]))
  return {**terms, "rounding" if small else "unexplained": rest}


def _classes(
  logits: np.ndarray, names: list[str], target: int | None, options: Options
) -> tuple[tuple[int, str, float], ...]:
  """The most probable classes; the explained one replaces the last if it is not among them."""
  function = jax.nn.sigmoid if options.probability == "sigmoid" else jax.nn.softmax
  probabilities = np.asarray(function(jnp.asarray(logits, jnp.float32)))
  order = np.argsort(-logits, kind="stable")[: options.top].tolist()
  if target is not None and target not in order:
    order[-1] = target
  return tuple((c, names[c], float(probabilities[c])) for c in order)
