"""Text towers of CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343).

They read token ids and have no colours: they stay conventional where their image towers are
B-cosified (arXiv 2411.00715, section 5).
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ... import functional as F
from ...errors import unknown_name
from ...layers import add_constant
from ...ops import Ops
from ..base import BaseNetwork
from ..blocks.attention import Attention, causal, mask_bias
from ..blocks.mlp import feed_forward
from ..registry import register
from .language_model import check_tokens

Array = jax.Array

POOLS = ("eos", "highest", "last")


class TextBlock(nn.Module):
  """Attention and feed-forward branches, each normalised at its start."""

  ops: Ops
  num_heads: int
  mlp_dim: int
  causal: bool
  activation: str
  norm_eps: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    ops = self.ops
    y = ops.layer_norm(eps=self.norm_eps, name="norm1")(x)
    bias = mask_bias(causal(x.shape[1])) if self.causal else None
    x = x + Attention(ops, self.num_heads, name="attn")(y, bias=bias)
    y = ops.layer_norm(eps=self.norm_eps, name="norm2")(x)
    return x + feed_forward(ops, y, self.mlp_dim, self.activation, prefix="mlp_")


class TextTransformer(BaseNetwork):
  """A text tower; its outputs are features, to be compared with those of images.

  Attributes:
    ops: The layer family.
    vocab_size: Number of different tokens.
    context_length: Largest number of tokens of a text.
    width: Channels of a token.
    depth: Number of blocks.
    num_heads: Attention heads.
    mlp_dim: Hidden channels of the feed-forward branch.
    causal: Whether tokens see only those before them (CLIP).
    activation: A name of `functional.GATES`.
    pool: The token that stands for the text: the first 'eos' token; the 'highest' id (which is
      the end in CLIP's vocabulary); the 'last' token, which may be padding (SigLIP).
    eos_token: Id of the token that ends a text; only pool='eos' asks for it.
    projection: Channels of the features; 0 leaves the token as it is.
    projection_bias: Whether the projection has a bias (SigLIP).
    norm_eps: Epsilon of the norms.
  """

  ops: Ops
  vocab_size: int = 49408
  context_length: int = 77
  width: int = 512
  depth: int = 12
  num_heads: int = 8
  mlp_dim: int = 2048
  causal: bool = True
  activation: str = "quick_gelu"
  pool: str = "highest"
  eos_token: int = 49407
  projection: int = 512
  projection_bias: bool = False
  norm_eps: float = 1e-5

  reads = "text"
  head = None
  num_classes = 0

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of one: token ids, int32 [1, T]."""
    return jax.ShapeDtypeStruct((1, self.context_length), jnp.int32)

  @nn.compact
  def __call__(self, tokens: Array, train: bool = False) -> Array:
    """Maps token ids, integers [N, T], to float32 features [N, D]."""
    self._check(tokens)
    ops = self.ops
    table = self.param(
      "token_embedding",
      nn.initializers.normal(0.02),
      (self.vocab_size, self.width),
      ops.param_dtype,
    )
    positions = self.param(
      "position", nn.initializers.normal(0.01), (self.context_length, self.width), ops.param_dtype
    )
    # An id beyond the vocabulary would silently read another row: NaN instead.
    x = table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    x = add_constant(self, x, positions[: tokens.shape[1]], "position")
    x = x.astype(ops.dtype or x.dtype)
    for i in range(self.depth):
      x = self._block(f"encoder_{i}")(x)
    x = ops.layer_norm(eps=self.norm_eps, name="norm")(x)
    x = jnp.take_along_axis(x, self._place(tokens)[:, None, None], axis=1)[:, 0]
    if self.projection:
      x = ops.linear(self.projection, use_bias=self.projection_bias, name="projection")(x)
    return x.astype("float32")

  def _block(self, name: str) -> nn.Module:
    return self.ops.block(TextBlock)(
      self.ops,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      causal=self.causal,
      activation=self.activation,
      norm_eps=self.norm_eps,
      name=name,
    )

  def _place(self, tokens: Array) -> Array:
    """Returns where the token is that stands for each text, [N]."""
    if self.pool == "last":
      return jnp.full(tokens.shape[:1], tokens.shape[1] - 1)
    return jnp.argmax(tokens if self.pool == "highest" else tokens == self.eos_token, axis=1)

  def _check(self, tokens: Array):
    for kind, value, known in (
      ("pool", self.pool, POOLS),
      ("activation", self.activation, F.GATES),
    ):
      if value not in known:
        raise unknown_name(kind, value, known)
    check_tokens(tokens, self.context_length)


_LARGE = {"width": 768, "num_heads": 12, "mlp_dim": 3072}
_SIGLIP = {
  "vocab_size": 32000,
  "context_length": 64,
  "causal": False,
  "activation": "gelu_tanh",
  "pool": "last",
  "projection_bias": True,
  "norm_eps": 1e-6,
}


def _clip() -> dict[str, dict[str, Any]]:
  wide = {"width": 640, "num_heads": 10, "mlp_dim": 2560, "projection": 640}
  large = {**_LARGE, "projection": 768}
  return {
    "clip_text_resnet50": {"projection": 1024},
    "clip_text_resnet101": {},
    "clip_text_resnet50x4": wide,
    "clip_text_resnet50x16": large,
    "clip_text_resnet50x64": {"width": 1024, "num_heads": 16, "mlp_dim": 4096, "projection": 1024},
    "clip_text_vit_base": {},
    "clip_text_vit_large": large,
  }


def _siglip() -> dict[str, dict[str, Any]]:
  sizes = {
    "base": {**_LARGE, "projection": 768},
    "large": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096, "projection": 1024},
    "so400m": {"width": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304, "projection": 1152},
  }
  rows = {f"siglip_text_{size}": {**row, **_SIGLIP} for size, row in sizes.items()}
  return rows | {
    f"siglip2_text_{size}": {**row, **_SIGLIP, "vocab_size": 256000} for size, row in sizes.items()
  }


_TEST = {
  "vocab_size": 50,
  "context_length": 8,
  "width": 32,
  "depth": 2,
  "num_heads": 2,
  "mlp_dim": 64,
  "eos_token": 49,
  "projection": 16,
}

VARIANTS: dict[str, dict[str, Any]] = {**_clip(), **_siglip()}
"""Named after the image towers that they belong to: of the same size, all patch and image sizes
share one architecture."""

TEST_VARIANTS = {
  "clip_text_test": {**_TEST},
  "siglip_text_test": {**_SIGLIP, **_TEST},
}

register(
  TextTransformer,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.text_tower:KEYS",
  readers="bcos_jax.convert.architectures.text_tower:READERS",
)
