"""Slow NumPy reference twins of the layers, in float64, with loops instead of primitives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import numpy as np

CONV_EPS = 1e-6
"""Stands under the root of a convolution's patch norm (B-cos v2, bcosconv2d)."""

DENSE_EPS = 1e-12
"""Is added to a dense map's norm (B-cos v2, bcoslinear)."""

BASE_EPS = 1e-6
"""Is added to |cos| before a power other than B=2 is taken."""

_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def scaled(y: np.ndarray, norm: np.ndarray, b: float, general: bool = False) -> np.ndarray:
  """|y / norm|^(b-1) * y, with the epsilon of the published formula for b other than 1 and 2."""
  if not general and b == 1:
    return y
  if not general and b == 2:
    return np.abs(y) / norm * y
  return (np.abs(y / norm) + BASE_EPS) ** (b - 1) * y


def _units(kernel: np.ndarray, weights: str) -> np.ndarray:
  columns = kernel.reshape(-1, kernel.shape[-1])
  return columns / np.sqrt((columns**2).sum(axis=0)) if weights != "plain" else columns


def _max_out(y: np.ndarray, units: int) -> np.ndarray:
  return np.array([y[k : k + units].max() for k in range(0, len(y), units)])


def dense(
  x: np.ndarray,
  kernel: np.ndarray,
  *,
  b: float = 2,
  general: bool = False,
  weights: str = "plain",
  max_out: int = 1,
  bias: np.ndarray | float = 0.0,
) -> np.ndarray:
  """B-cos dense map of rows [N, I] by a kernel [I, O * max_out]."""
  columns = _units(kernel, weights)
  rows = []
  for row in x:
    norm = math.sqrt((row**2).sum()) + DENSE_EPS
    rows.append(scaled(_max_out(row @ columns + bias, max_out), norm, b, general))
  gain = np.sqrt((kernel**2).sum(axis=0)) if weights == "cosine" else 1.0
  return np.array(rows) * gain


def conv(
  x: np.ndarray,
  kernel: np.ndarray,
  *,
  strides: Sequence[int],
  pads: Sequence[tuple[int, int]],
  dilation: Sequence[int],
  groups: int = 1,
  b: float = 2,
  general: bool = False,
  weights: str = "plain",
  max_out: int = 1,
  bias: np.ndarray | None = None,
  padding_mode: str = "zeros",
) -> np.ndarray:
  """B-cos convolution of [N, *S, I] by a kernel [*K, I/G, O*M], one output at a time."""
  window, inputs = kernel.shape[:-2], kernel.shape[-2]
  columns = _units(kernel, weights)
  gains = np.sqrt((kernel.reshape(-1, kernel.shape[-1]) ** 2).sum(axis=0))
  per_group = kernel.shape[-1] // groups
  widths = ((0, 0), *pads, (0, 0))
  seen = np.pad(x, widths, mode=_PAD_MODES[padding_mode])
  # The published patch norm pools the unpadded input: what pads it always counts as zero.
  measured = np.pad(x, widths)
  extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
  spatial = [
    (size - e) // s + 1 for size, e, s in zip(seen.shape[1:-1], extent, strides, strict=True)
  ]
  out = np.zeros((len(x), *spatial, kernel.shape[-1] // max_out))
  for n in range(len(x)):
    for position in np.ndindex(*spatial):
      where = tuple(
        slice(p * s, p * s + e, d)
        for p, s, e, d in zip(position, strides, extent, dilation, strict=True)
      )
      pixel = []
      for g in range(groups):
        channels, units = (
          slice(g * inputs, (g + 1) * inputs),
          slice(g * per_group, (g + 1) * per_group),
        )
        y = seen[n][where][..., channels].reshape(-1) @ columns[:, units]
        if bias is not None:
          y = y + bias[units]
        norm = math.sqrt((measured[n][where][..., channels] ** 2).sum() + CONV_EPS)
        y = scaled(_max_out(y, max_out), norm, b, general)
        pixel.append(y * gains[units] if weights == "cosine" else y)
      out[(n, *position)] = np.concatenate(pixel)
  return out


def numeric_gradient(
  function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6
) -> np.ndarray:
  """Central differences of a scalar function, in float64."""
  gradient = np.zeros_like(x)
  for index in np.ndindex(*x.shape):
    ahead, behind = x.copy(), x.copy()
    ahead[index] += step
    behind[index] -= step
    gradient[index] = (function(ahead) - function(behind)) / (2 * step)
  return gradient


def norm(x: np.ndarray, axes: Sequence[int], centered: bool, eps: float = 1e-5) -> np.ndarray:
  """x / sqrt(var + eps), less its mean first if centred; the variance is centred in any case."""
  mean, var = x.mean(tuple(axes), keepdims=True), x.var(tuple(axes), keepdims=True)
  return (x - mean if centered else x) / np.sqrt(var + eps)


def pool(
  x: np.ndarray,
  window: int,
  strides: int,
  padding: int,
  reduce: Callable[[np.ndarray], float],
  fill: float,
) -> np.ndarray:
  """Pools [N, H, W, C] window by window."""
  widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  padded = np.pad(x, widths, constant_values=fill)
  n, h, w, c = padded.shape
  rows, columns = (h - window) // strides + 1, (w - window) // strides + 1
  out = np.zeros((n, rows, columns, c))
  for i, r, q, k in np.ndindex(n, rows, columns, c):
    out[i, r, q, k] = reduce(
      padded[i, r * strides : r * strides + window, q * strides : q * strides + window, k]
    )
  return out
