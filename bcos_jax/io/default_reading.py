"""How pictures are read where nothing says it: the usual scaling and crop of an evaluation."""

from __future__ import annotations

from flax import linen as nn

from ..inputs import Preprocess


def default_preprocess(model: nn.Module) -> Preprocess:
  """Returns how pictures are read where nothing says otherwise: the usual margin of a crop."""
  sides = getattr(model, "image_sides", (model.image_size,) * 2)
  height, width = (side * 8 // 7 if min(sides) >= 64 else 0 for side in sides)
  square = sides[0] == sides[1]
  resize = height if square or not height else (height, width)
  return Preprocess(sides, resize, colors=model.ops.encoding.colors, cover=not square)
