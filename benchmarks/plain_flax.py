"""ResNet-50 as one writes it with Flax alone, for `traffic.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from bcos_jax import StandardOps


class PlainResNet50(nn.Module):
  """ResNet-50 (v1.5) of `nn.Conv`, `nn.BatchNorm` and `nn.max_pool`; computes in bfloat16.

  Attributes:
    ops: Encodes the pictures, and nothing else.
  """

  ops: Any = StandardOps()
  num_classes: int = 1000
  image_size: int = 224

  @nn.compact
  def __call__(self, x, train=False):
    """Maps encoded images [N, H, W, 3] to float32 logits [N, num_classes]."""
    conv = partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
    norm = partial(nn.BatchNorm, not train, dtype=jnp.bfloat16)
    x = conv(64, (7, 7), (2, 2), padding=3, name="conv1")(x)
    x = nn.relu(norm(name="bn1")(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for i, depth in enumerate((3, 4, 6, 3)):
      for j in range(depth):
        width, strides = 64 * 2**i, (2, 2) if i and not j else (1, 1)
        name = f"layer{i + 1}_{j}"
        y = nn.relu(norm(name=f"{name}_bn1")(conv(width, (1, 1), name=f"{name}_conv1")(x)))
        y = conv(width, (3, 3), strides, padding=1, name=f"{name}_conv2")(y)
        y = nn.relu(norm(name=f"{name}_bn2")(y))
        y = norm(name=f"{name}_bn3")(conv(4 * width, (1, 1), name=f"{name}_conv3")(y))
        if not j:
          x = conv(4 * width, (1, 1), strides, name=f"{name}_down_conv")(x)
          x = norm(name=f"{name}_down_bn")(x)
        x = nn.relu(x + y)
    return nn.Dense(self.num_classes, name="head")(jnp.mean(x, (1, 2), jnp.float32))
