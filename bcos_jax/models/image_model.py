"""The base class of networks that read images."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp


class ImageModel(nn.Module):
  """Base of architectures with the fields `ops` and `image_size`."""

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of one: an encoded image, float32 [1, H, W, channels]."""
    side = self.image_size
    return jax.ShapeDtypeStruct((1, side, side, self.ops.encoding.channels), jnp.float32)
