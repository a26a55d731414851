"""Colours of dynamic weights and contributions: pure, jittable functions of arrays.

Two pictures of one explanation:

* `rgba`: the B-cos authors' coloured explanation. The dynamic weights of a pixel, read as a colour
  (a weight on "red" and its complement decode like the encoded pixel itself), with the opacity
  growing with their length. It shows what the network looks for and finds.
* `contribution_map`: the signed share of each pixel in the explained output, red where it
  supports it and blue where it opposes it.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from ..errors import InputError

_EPS = 1e-12  # of the published recipe: the opacity of opposing pixels, and in both quotients
_PUBLISHED_WINDOW = 15  # pixels, for pictures of 224
_TINY = 1e-30  # keeps 0 / 0 away on all-zero maps; far below the smallest opacity of the recipe


def box_average(maps: Any, size: int) -> jax.Array:
  """Averages over `size` x `size` windows, stride 1, zeros outside the map counted.

  Args:
    maps: [..., H, W] floats.
    size: Odd width of the window; 0 and 1 return `maps` unchanged.

  Returns:
    [..., H, W] floats of the same type.

  Raises:
    InputError: If `size` is negative, even, not an integer (an even window has no center), or
      more than every pixel needs to see all others.
  """
  check_window(size, maps.shape[-2:])
  if size <= 1:
    return maps
  pad, last = (size - 1) // 2, maps.ndim - 1
  for axis in (last - 1, last):  # separable: 2 * size additions per pixel instead of size**2
    window = [size if a == axis else 1 for a in range(maps.ndim)]
    padding = [(pad, pad) if a == axis else (0, 0) for a in range(maps.ndim)]
    maps = lax.reduce_window(maps, 0.0, lax.add, window, (1,) * maps.ndim, padding)
  return maps / size**2


def rgba_from(
  inputs: jax.Array, weights: jax.Array, smooth: int = 15, percentile: float = 99.5
) -> jax.Array:
  """Colours dynamic weights, as published with B-cos networks (Boehle et al., B-cos v1 and v2).

  Per pixel, with weights w over 2C channels (C colours, then their complements) and
  contribution c = sum(inputs * w): colour = max(w, 0) of a channel divided by the sum of it and
  its complement; opacity = length of w where c >= 0 and 1e-12 elsewhere, averaged over
  `smooth` x `smooth` pixels, divided by its `percentile` over the image; all clipped to [0, 1].
  Only the weights enter the colours, so the recipe fits every encoding with complements.

  Where no pixel of an image supports the output, the division makes it opaque everywhere: the
  recipe shows relative opacity. `contribution_map` tells such images apart.

  Args:
    inputs: [..., H, W, 2C] floats, the encoded input; broadcast against `weights`.
    weights: [..., H, W, 2C] floats with C = 1 (grey) or 3.
    smooth: Odd width of the averaging window, 0 for none. 15 is published, for 224 pixels.
    percentile: In (0, 100]; the opacity from which a pixel is fully opaque.

  Returns:
    [..., H, W, 4] float32 in [0, 1]: red, green, blue, alpha. Grey is repeated to three colours.

  Raises:
    InputError: If the channels are not 2 or 6, the shapes disagree, or an option is out of range.
  """
  inputs, weights = jnp.asarray(inputs, jnp.float32), jnp.asarray(weights, jnp.float32)
  _check_encoded(inputs.shape, weights.shape)
  check_window(smooth)
  check_percentile(percentile)
  return _rgba(inputs, weights, smooth=int(smooth), percentile=float(percentile))


@functools.partial(jax.jit, static_argnames=("smooth", "percentile"))
def _rgba(inputs: jax.Array, weights: jax.Array, *, smooth: int, percentile: float) -> jax.Array:
  """The arithmetic of `rgba_from`."""
  colors = weights.shape[-1] // 2
  relative = weights / (jnp.max(jnp.abs(weights), axis=-1, keepdims=True) + _EPS)
  positive = jnp.maximum(relative, 0.0)
  rgb = positive[..., :colors] / (positive[..., :colors] + positive[..., colors:] + _EPS)
  supports = jnp.sum(inputs * weights, axis=-1) >= 0
  alpha = jnp.where(supports, jnp.sqrt(jnp.sum(weights * weights, axis=-1)), _EPS)
  alpha = box_average(alpha, smooth)
  full = jnp.percentile(alpha, percentile, axis=(-2, -1), keepdims=True)
  alpha = alpha / jnp.maximum(full, _TINY)
  rgb = jnp.broadcast_to(rgb, (*rgb.shape[:-1], 3))
  return jnp.clip(jnp.concatenate([rgb, alpha[..., None]], axis=-1), 0.0, 1.0)


def rgba(ex: Any, smooth: int = 15, percentile: float = 99.5) -> jax.Array:
  """The coloured explanation of every image of `ex`; see `rgba_from` for recipe and options.

  Args:
    ex: An `Explanation`: `inputs` [N, H, W, 2C] and `weights` [N, H, W, 2C], or
      [N, K, H, W, 2C] with K targets per image.
    smooth: Odd width of the averaging window, 0 for none.
    percentile: In (0, 100].

  Returns:
    [N, H, W, 4] float32 in [0, 1], or [N, K, H, W, 4].
  """
  inputs, weights = jnp.asarray(ex.inputs), jnp.asarray(ex.weights)
  if weights.ndim == inputs.ndim + 1:
    inputs = inputs[:, None]
  return rgba_from(inputs, weights, smooth, percentile)


@functools.partial(jax.jit, static_argnames="percentile")
def cutoff_of(contributions: jax.Array, percentile: float = 99.5) -> jax.Array:
  """[...]: the `percentile` of |contributions| [..., H, W]; their maximum if that is zero."""
  check_percentile(percentile)
  size = jnp.abs(jnp.asarray(contributions, jnp.float32))
  cutoff = jnp.percentile(size, percentile, axis=(-2, -1))
  return jnp.where(cutoff > 0, cutoff, jnp.max(size, axis=(-2, -1)))


@functools.partial(jax.jit, static_argnames="percentile")
def contribution_map(
  contributions: jax.Array, percentile: float = 99.5
) -> tuple[jax.Array, jax.Array]:
  """Blue-white-red picture of signed contributions, on a range symmetric about zero.

  White is zero, red supports the explained output, blue opposes it. Blue against red keeps apart
  for the common kinds of colour blindness. Published as `plot_contribution_map` of B-cos v2.

  Args:
    contributions: [..., H, W] floats.
    percentile: In (0, 100]; contributions beyond this percentile of |contributions| saturate.

  Returns:
    ([..., H, W, 3] float32 colours in [0, 1], [...] float32 contribution at full red).
  """
  cutoff = cutoff_of(contributions, percentile)
  return on_scale(contributions, cutoff), cutoff


@jax.jit
def on_scale(contributions: jax.Array, cutoff: jax.Array) -> jax.Array:
  """The picture of `contribution_map` on a given scale: full colours at plus and minus cutoff."""
  share = _share(contributions, cutoff)
  # The published colour map ("bwr") is linear from blue over white to red.
  rgb = [1 + jnp.minimum(share, 0), 1 - jnp.abs(share), 1 - jnp.maximum(share, 0)]
  return jnp.stack(rgb, axis=-1)


def diverging(share: float) -> tuple[float, float, float]:
  """The colour of `contribution_map` for one share of the full colour, in [-1, 1] or clipped."""
  share = min(max(share, -1.0), 1.0)
  return 1 + min(share, 0.0), 1 - abs(share), 1 - max(share, 0.0)


@functools.partial(jax.jit, static_argnames="percentile")
def overlay(images: jax.Array, contributions: jax.Array, percentile: float = 99.5) -> jax.Array:
  """Lays the contribution map over a pale grey copy of the picture.

  Args:
    images: [..., H, W, C] floats in [0, 1], C = 1 or 3.
    contributions: [..., H, W] floats.
    percentile: As in `contribution_map`.

  Returns:
    [..., H, W, 3] float32 in [0, 1]: the stronger a contribution, the more of its colour.
  """
  return overlay_on_scale(images, contributions, cutoff_of(contributions, percentile))


@jax.jit
def overlay_on_scale(images: jax.Array, contributions: jax.Array, cutoff: jax.Array) -> jax.Array:
  """The picture of `overlay` on a given scale: full colours at plus and minus cutoff."""
  share = _share(contributions, cutoff)[..., None]
  gray = jnp.mean(jnp.asarray(images, jnp.float32), axis=-1, keepdims=True)
  hue = jnp.where(share > 0, jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0]))
  strength = jnp.abs(share)
  return jnp.clip((1 - strength) * (0.35 + 0.65 * gray) + strength * hue, 0.0, 1.0)


def _share(contributions: jax.Array, cutoff: jax.Array) -> jax.Array:
  """Contributions [..., H, W] over their cutoff [...], in [-1, 1]."""
  scale = jnp.maximum(jnp.asarray(cutoff, jnp.float32), _TINY)[..., None, None]
  return jnp.clip(jnp.asarray(contributions, jnp.float32) / scale, -1.0, 1.0)


def check_window(size: int, shape: Sequence[int] | None = None) -> None:
  """Refuses windows that have no center, or reach far beyond a map [H, W] of this `shape`."""
  if size != int(size) or size < 0 or (size > 0 and size % 2 == 0):
    raise InputError(
      f"smooth={size!r}, expected 0 or an odd number of pixels.",
      f"Use {max(1, int(size) | 1)}, or 0 for no smoothing.",
    )
  if shape is not None and size > (most := max(_PUBLISHED_WINDOW, 2 * max(shape) - 1)):
    raise InputError(
      f"smooth={size}, expected at most {most} for a map of {shape[0]} x {shape[1]} pixels.",
      f"Published is {_PUBLISHED_WINDOW}, for 224 pixels.",
    )


def check_percentile(percentile: float) -> None:
  """Refuses percentiles outside (0, 100]."""
  if not 0 < percentile <= 100:
    raise InputError(
      f"percentile={percentile!r}, expected a number above 0 and at most 100.",
      "The published value is 99.5.",
    )


def _check_encoded(inputs: tuple[int, ...], weights: tuple[int, ...]) -> None:
  if weights[-1] not in (2, 6):
    raise InputError(
      f"The weights have {weights[-1]} channels, expected 2 (grey) or 6 (colour): "
      "each colour and its complement.",
      "Networks without complement channels have no coloured explanation; use contribution_map.",
    )
  try:
    fits = jnp.broadcast_shapes(inputs, weights) == weights
  except ValueError:
    fits = False
  if not fits or len(weights) < 3:
    raise InputError(
      f"inputs {inputs} do not fit weights {weights}.",
      "Both are [..., H, W, 2C], inputs broadcastable to weights.",
    )
