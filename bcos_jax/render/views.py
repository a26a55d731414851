"""Views: one explanation of one image, taken from a batch and prepared for drawing."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from ..errors import InputError, unknown_name
from ..ops import Ops
from . import color, kinds

PROBABILITIES = ("sigmoid", "softmax")
_GREY = 0.5
_DARK = 0.4  # of the way from the darkest to the lightest part of a picture


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
    background: Grey level in [0, 1] behind the coloured explanation. None takes white, as
      published, and a middle grey for pictures most of which is dark: light strokes would not show
      on white. See `ground`.
    origin: Where the network's weights come from, which pictures say if it was not trained.
  """

  smooth: int = 15
  percentile: float = 99.5
  probability: str = "sigmoid"
  top: int = 5
  background: float | None = None
  origin: kinds.Origin = kinds.Origin.TRAINED

  def __post_init__(self):
    color.check_window(self.smooth)
    color.check_percentile(self.percentile)
    if self.probability not in PROBABILITIES:
      raise unknown_name("probability", self.probability, PROBABILITIES)
    if self.top < 1:
      raise InputError(f"top={self.top}, expected at least one class to list.", "Use top=5.")
    if self.background is not None and not 0 <= self.background <= 1:
      raise InputError(
        f"background={self.background}, expected a grey level in [0, 1].", "Use 1 for white."
      )


def options_for(ops: Ops, side: int) -> Options:
  """Returns how to draw explanations of pictures of this many pixels per side."""
  # The published averaging window of 15 is for pictures of 224 pixels.
  smooth = max(1, round(15 * side / 224)) | 1
  return Options(smooth=smooth, probability=ops.probability)


def options_of(bundle: Any) -> Options:
  """Returns how to draw explanations by the network of a bundle, from its config too."""
  options = options_for(bundle.model.ops, bundle.preprocess.size[0])
  return dataclasses.replace(options, origin=kinds.origin_of(bundle.config))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
  """What is known of one explanation of one image, in numbers and words.

  Attributes:
    target: The explained class; None for another scalar.
    name: The explained class in words.
    value: The explained output.
    terms: What adds up to `value`: contributions, each residual source, the rest.
    classes: (class, name, probability), most probable first.
    account: What adds up to `value`, and how it came about.
    kind: What kind of explanation it is, in words.
  """

  target: int | None
  name: str
  value: float
  terms: dict[str, float]
  classes: tuple[tuple[int, str, float], ...]
  account: kinds.Account
  kind: str

  @property
  def probability(self) -> float | None:
    """Probability of the explained class, where it is listed."""
    return next((p for c, _, p in self.classes if c == self.target), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class View(Facts):
  """Everything a picture of one explanation shows, as NumPy.

  Attributes:
    picture: [H, W, 3] floats in [0, 1].
    colored: [H, W, 3] floats in [0, 1], the coloured explanation on its background; None where
      the encoding has no complement channels.
    contributions: [H, W] floats.
    cutoff: Contribution at which the map's colour saturates; far above all contributions where
      they are negligible, so that their noise stays pale.
  """

  picture: np.ndarray
  colored: np.ndarray | None
  contributions: np.ndarray
  cutoff: float

  @property
  def heat(self) -> np.ndarray:
    """The contributions as colours, [H, W, 3]."""
    return np.asarray(color.on_scale(self.contributions, self.cutoff))

  @property
  def overlay(self) -> np.ndarray:
    """The contributions on a pale copy of the picture, [H, W, 3]."""
    return np.asarray(color.overlay_on_scale(self.picture, self.contributions, self.cutoff))


def facts(
  ex: Any,
  index: int | tuple[int, int],
  labels: Sequence[str] | None = None,
  options: Options | None = None,
) -> Facts:
  """Returns what is known of one explanation of the batch `ex`; arguments and errors of `view`."""
  options = options or Options()
  where = place(ex, index)
  image = where[0]
  if getattr(ex.logits, "ndim", None) != 2:
    raise InputError(
      "The explained network has no logits [N, C], so there are no classes to list.",
      "Draw its contributions with contribution_map.",
    )
  logits = np.asarray(ex.logits[image], np.float64)
  names = _names(labels, logits.shape[-1])
  if not (np.isfinite(ex.contributions[where]).all() and np.isfinite(logits).all()):
    raise InputError(
      f"The explanation of image {image} contains NaN or infinite values.",
      "Look for NaN among the network's weights.",
    )
  target = None if ex.target is None else int(np.asarray(ex.target)[where])
  account = kinds.account(ex, where)
  return Facts(
    target=target,
    name="the chosen output" if target is None else names[target],
    value=float(ex.value[where]),
    terms=_terms(account),
    classes=_classes(logits, names, target, options),
    account=account,
    kind=kinds.kind([account], options.origin),
  )


def view(
  ex: Any,
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
  known = facts(ex, index, labels, options)
  where = place(ex, index)
  contributions = np.asarray(ex.contributions[where], np.float32)
  picture = np.clip(np.asarray(ex.images[where[0]], np.float32), 0, 1)
  return View(
    picture=np.broadcast_to(picture, (*picture.shape[:2], 3)),
    colored=seen(ex, where, known.account, options),
    contributions=contributions,
    cutoff=cutoff(contributions, known.account, options),
    **{field.name: getattr(known, field.name) for field in dataclasses.fields(known)},
  )


def seen(
  ex: Any, where: tuple[int, ...], account: kinds.Account, options: Options
) -> np.ndarray | None:
  """Returns what the network sees in one image of `ex`, see `View.colored`."""
  inputs, weights = ex.inputs[where[0]], ex.weights[where]
  if weights.shape[-1] not in (2, 6):
    return None
  picture = np.clip(np.asarray(ex.images[where[0]], np.float32), 0, 1)
  return colored(picture, inputs, weights, options, account.strength)


def place(ex: Any, index: int | tuple[int, int]) -> tuple[int, ...]:
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


def cutoff(contributions: np.ndarray, account: kinds.Account, options: Options) -> float:
  """Returns the contribution [H, W] at full colour; above all of them where they are negligible."""
  own = float(color.cutoff_of(contributions, options.percentile))
  return own / account.strength if account.strength else own


def colored(
  picture: np.ndarray,
  inputs: np.ndarray,
  weights: np.ndarray,
  options: Options,
  strength: float = 1.0,
) -> np.ndarray:
  """The coloured explanation, opaque: transparency would show the page, dark for some readers.

  Args:
    picture: [H, W, colors] in [0, 1], which decides on the ground.
    inputs: Encoded, [H, W, 2 * colors].
    weights: Of the same shape.
    options: How to draw.
    strength: Factor of the opacity, see `kinds.Account`.
  """
  rgba = np.asarray(
    color.rgba_from(jnp.asarray(inputs), jnp.asarray(weights), options.smooth, options.percentile)
  )
  alpha = np.float32(strength) * rgba[..., 3:]
  level = ground(picture) if options.background is None else options.background
  return alpha * rgba[..., :3] + (1 - alpha) * np.float32(level)


def ground(picture: np.ndarray) -> float:
  """Returns the grey level in [0, 1] behind what the network sees in a picture [H, W, colors].

  White (1), as published, unless most of the picture is much darker than its lightest parts: white
  strokes on black would vanish on white. Then a middle grey, on which both black and white show.
  """
  light = np.asarray(picture, np.float32).mean(axis=-1)
  darkest, lightest = float(light.min()), float(light.max())
  return _GREY if np.median(light) < darkest + _DARK * (lightest - darkest) else 1.0


def _names(labels: Sequence[str] | None, num_classes: int) -> list[str]:
  if labels is None or not len(labels):
    return [f"class {i}" for i in range(num_classes)]
  if len(labels) != num_classes:
    raise InputError(f"{len(labels)} labels for {num_classes} classes.", "Give one per class.")
  return [str(label) for label in labels]


def _terms(account: kinds.Account) -> dict[str, float]:
  """What adds up to the explained value, in reading order, down to the rounding error."""
  named = {source.replace("_", " "): amount for source, amount in account.constants.items()}
  rest = "rounding" if account.complete else "unexplained"
  return {"pixels": account.total, **named, rest: account.unexplained}


def _classes(
  logits: np.ndarray, names: list[str], target: int | None, options: Options
) -> tuple[tuple[int, str, float], ...]:
  """The most probable classes; the explained one replaces the last if it is not among them."""
  # By NumPy: JAX could wait for a batch that it is computing meanwhile.
  probabilities = special.expit(logits)
  if options.probability == "softmax":
    probabilities = special.softmax(logits)
  order = np.argsort(-logits, kind="stable")[: options.top].tolist()
  if target is not None and target not in order:
    order[-1] = target
  return tuple((c, names[c], float(probabilities[c])) for c in order)
