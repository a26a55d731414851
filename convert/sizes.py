"""Sizes of a network as the shapes of a checkpoint tell them: colours, image size, windows."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import linen as nn
import numpy as np

from bcos_jax import models
from bcos_jax.errors import InputError
from bcos_jax.inputs import Encoding
from bcos_jax.ops import Ops

from .porting import wanted
from .tables.rules import Rule, Table
from .tables.templates import parse, render

_COLORS = (1, 3)
_MOST_PIXELS = 16384
_POSITION = "params/embeddings/position"
_BIAS = "attn/relative_position_bias"


def held(state: Mapping[str, Any], table: Table, path: str) -> tuple[str, tuple[int, ...]] | None:
  """Returns the key that alone fills a leaf, and the shape that it gives it; None without one."""
  for entry in table:
    if not isinstance(entry, Rule) or len(entry.sources) != 1 or len(entry.targets) != 1:
      continue
    numbers, source = parse(entry.targets[0], path), entry.sources[0]
    if numbers is None or source is None:
      continue
    tensor = state.get(key := render(source, numbers))
    if tensor is not None and entry.axes.rank in (None, len(tensor.shape)):
      laid = entry.axes.to_flax(np.broadcast_to(np.float32(0), tuple(tensor.shape)))
      return key, laid.shape
  return None


def colored(state: Mapping[str, Any], table: Table, model: nn.Module) -> Ops:
  """Returns the family of a network, with as many colours as its first map reads.

  A network of one colour gets the mean of the means, as in timm. Numbers of colours that no
  picture has change nothing: the shapes will not fit.
  """
  ops = model.ops
  if model.reads != "images" or model.input_map is None:
    return ops
  path = f"params/{model.input_map}/kernel"
  found, ours = held(state, table, path), wanted(model).get(path)
  if found is None or ours is None or len(found[1]) != len(ours.shape):
    return ops
  encoding = ops.encoding
  # The inputs of the map, over all places of its window: as many as there are channels.
  theirs, own = math.prod(found[1][:-1]), math.prod(ours.shape[:-1])
  colors, rest = divmod(theirs * encoding.colors, own)
  if rest or colors not in _COLORS or colors == encoding.colors:
    return ops
  mean, std = ((sum(v) / len(v),) * colors for v in (encoding.mean, encoding.std))
  return dataclasses.replace(ops, encoding=Encoding(mean, std, encoding.pairing))


def of_tables(
  state: Mapping[str, Any], table: Table, model: nn.Module, given: bool
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields that tables of positions tell, and what to say of them.

  Args:
    state: Key -> anything with a shape.
    table: The rules.
    model: The network that was named.
    given: Whether the image size was stated; it is then not read off.

  Raises:
    InputError: A table of positions fits no square image, and none was stated.
  """
  fields = models.fields_of(type(model))
  if "positions" in fields and not given:
    return _image_size(state, table, model)
  if "window" in fields and "depths" in fields:
    return _window(state, table, model, given)
  return {}, []


def _image_size(
  state: Mapping[str, Any], table: Table, model: Any
) -> tuple[dict[str, Any], list[str]]:
  found, ours = held(state, table, _POSITION), wanted(model).get(_POSITION)
  if found is None or ours is None or found[1] == ours.shape or len(found[1]) != 2:
    return {}, []
  key, (rows, _) = found
  layout = model.token_layout(model.image_sides)
  patches = rows - (ours.shape[0] - math.prod(layout.grid))
  side = math.isqrt(max(patches, 0))
  if patches > 0 and side * side == patches:
    size = side * layout.stride
    return {"image_size": size}, [f"image_size {size}: {key!r} has {side}x{side} places"]
  if math.isqrt(rows) ** 2 == rows or patches <= 0:
    return {}, []  # another kind of network, whose shapes will not fit
  raise InputError(
    f"{key!r} has {rows} rows, of which {patches} are places: no square of patches.",
    f"Give --image_size=HEIGHTxWIDTH, multiples of {layout.stride}, such as "
    f"{'x'.join(str(n * layout.stride) for n in _sides(patches))}.",
  )


def _sides(count: int) -> tuple[int, int]:
  """Returns the most nearly equal whole numbers with this product, the larger one first."""
  less = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
  return count // less, less


def _window(
  state: Mapping[str, Any], table: Table, model: Any, given: bool
) -> tuple[dict[str, Any], list[str]]:
  found = held(state, table, f"params/stage0_0/{_BIAS}")
  if found is None:
    return {}, []
  key, (rows, *_) = found
  window = (math.isqrt(rows) + 1) // 2
  if (2 * window - 1) ** 2 != rows or window == model.window:
    return {}, []
  fields, notes = {"window": window}, [f"window {window}: {key!r} has {rows} rows"]
  if not given:
    # All published networks end with one window, and timm's cut their windows to the map.
    side = window * model.patch_size * 2 ** (len(model.depths) - 1)
    fields["image_size"] = side
    notes.append(f"image_size {side} is assumed, where the last map is one window (--image_size)")
  return fields, notes


def parsed(text: str | int | tuple[int, int] | None) -> int | tuple[int, int] | None:
  """Reads an image size: 224, or 224x112 for height and width.

  Raises:
    InputError: Anything else.
  """
  if text is None:
    return None
  parts = text if isinstance(text, tuple) else str(text).split("x")
  if len(parts) in (1, 2):
    try:
      height, width = int(parts[0]), int(parts[-1])
      if 0 < min(height, width) and max(height, width) <= _MOST_PIXELS:
        return height if height == width else (height, width)
    except ValueError:
      pass  # said below
  raise InputError(
    f"image_size is {text!r}, expected pixels up to {_MOST_PIXELS}.",
    "Give a side such as 224, or height and width such as 224x112.",
  )
