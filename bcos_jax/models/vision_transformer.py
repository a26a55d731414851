"""Plain vision transformers: ViT, DeiT, DINO, SigLIP, CLIP, BEiT, and ALOE's students.

They differ in their tokens (arXiv 2010.11929, 2012.12877, 2309.16588), positions (learned, or
rotary as in DINOv3, arXiv 2508.10104), blocks (LayerScale, gated units) and pooling; each
difference is a field. Their variants are in `vision_transformers`.
"""

from __future__ import annotations

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from .. import functional as F
from ..errors import InputError, unknown_name
from ..layers import global_avg_pool, global_max_pool
from ..ops import Ops
from .base import ImageModel, TokenLayout
from .blocks.positions import Grid, Rotary, patch_places, rotary_angles
from .registry import register
from .simple_vit import patch_layout, stem_stages, token_grid
from .vision_transformer_parts import Embeddings, ProbePool, ViTBlock
from .vision_transformer_variants import TEST_VARIANTS, VARIANTS

Array = jax.Array

POOLS = ("cls", "cls_distilled", "mean", "max", "mean_max", "cls_mean", "map", "none")
POSITIONS = ("learned", "rotary", "relative")


class VisionTransformer(ImageModel):
  """A plain vision transformer.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for none: the network returns pooled features [N, D].
    image_size: Side of the images that learned positions are for, in pixels; others work as well.
    patch_size: Side of a patch, in pixels of the image or of the stem's result. Pixels at the
      right and the bottom that fill no patch are not seen, as in the published networks.
    width: Channels of a token; a multiple of `num_heads`.
    depth: Number of blocks.
    num_heads: Attention heads.
    mlp_dim: Hidden channels of the feed-forward branch.
    activation: Its activation, a name of `functional.GATES`.
    gated_mlp: Gated linear units in it (DINOv2 giant, DINOv3 plus).
    qkv_bias: Whether queries, keys and values have biases.
    key_bias: Whether keys have one if queries and values do (not in DINOv3).
    patch_bias: Whether the patch embedding has one (not in CLIP).
    layer_scale: Initial multiplier of each channel of a branch; None for no LayerScale.
    class_token: Whether there is a class token.
    distillation_token: Whether there is a distillation token (DeiT).
    distillation_head: Whether it has a separate head, whose logits are averaged with the other's.
    registers: Number of register tokens.
    positions: 'learned', a table that is added; 'rotary', turned queries and keys; or 'relative',
      a table in each block of what pairs of tokens add to attention logits (BEiT), which is part of
      a dynamic weight: it stays in B-cos networks, and nothing of it is added to the result.
    prefix_positions: Whether class and distillation tokens have rows in the table.
    register_positions: Whether registers have.
    position_resize: How the table follows the image size, a name of `positions.RESIZE`.
    rope_theta: Base of the rotary frequencies.
    pre_norm: A norm between embeddings and blocks (CLIP).
    final_norm: A norm after the blocks.
    norm_after_pool: Whether this norm comes after the pooling instead (timm's `fc_norm`); it
      then normalises the pooled features, so a B-cosified head always reads these.
    pool: 'cls', the class token; 'cls_distilled', the mean of class and distillation token (timm's
      DeiT without heads); 'mean' of the patches; 'max', each channel's largest value, the
      choice of the patch being a dynamic weight; 'mean_max', the mean of both; 'cls_mean', class
      token and mean side by side; 'map', attention of a learned probe to the
      patches; or 'none', for networks without classes: the features of each patch, see
      `bcos_jax.explain_patches`.
    pooler: Features of a dense map with tanh after the pooling (bare Hugging Face ViTs); 0 for
      none.
    projection: Features of a projection without bias after the pooling (CLIP); 0 for none.
    norm_eps: Epsilon of the norms.
    conv_stem: Channels of each 3x3 convolution before the patches, each followed by a norm and
      ReLU (ALOE); a convolution that widens has stride 2.
  """

  ops: Ops
  num_classes: int = 1000
  image_size: int | tuple[int, int] = 224
  patch_size: int = 16
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  activation: str = "gelu"
  gated_mlp: bool = False
  qkv_bias: bool = True
  key_bias: bool = True
  patch_bias: bool = True
  layer_scale: float | None = None
  class_token: bool = True
  distillation_token: bool = False
  distillation_head: bool = False
  registers: int = 0
  positions: str = "learned"
  prefix_positions: bool = True
  register_positions: bool = False
  position_resize: str = "bicubic"
  rope_theta: float = 100.0
  pre_norm: bool = False
  final_norm: bool = True
  norm_after_pool: bool = False
  pool: str = "cls"
  pooler: int = 0
  projection: int = 0
  norm_eps: float = 1e-6
  conv_stem: tuple[int, ...] = ()

  head = "head"

  @property
  def input_map(self) -> str:
    """The map that reads the encoded image."""
    return "embeddings/" + ("stem0_conv" if self.conv_stem else "patch_embedding")

  def unpooled(self) -> VisionTransformer:
    """See `BaseNetwork`; the features are those behind the last norm, and CLIP's projection."""
    return self.clone(pool="none", num_classes=0)

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The encoder's blocks."""
    return tuple(f"encoder_{i}" for i in range(self.depth))

  @property
  def grad_cam_layer(self) -> str:
    """The norm before the last attention: behind it, a class token has all that the head sees."""
    return f"encoder_{self.depth - 1}/norm1"

  def token_layout(self, side: tuple[int, int]) -> TokenLayout:
    """See `BaseNetwork`."""
    plain = patch_layout(side, self.conv_stem, self.ops.encoding.channels, self.patch_size)
    return dataclasses.replace(
      plain,
      class_tokens=self.class_token + self.distillation_token,
      registers=self.registers,
      heads=1 + (self.distillation_head or self.pool == "cls_distilled"),
      mean={"mean": 1.0, "max": 1.0, "mean_max": 1.0, "cls_mean": 0.5}.get(self.pool, 0.0),
      probe=self.pool == "map",
    )

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits, or features, [N, D].

    With pool='none', to the features of patches [N, h, w, D].
    """
    ops = self.ops
    ops.check_encoded(x)
    self._check()
    grid = self._grid(x)
    rotary = self._rotary(grid)
    x = self._embeddings()(x)
    if self.pre_norm:
      x = ops.layer_norm(eps=self.norm_eps, name="pre_norm")(x)
    for i in range(self.depth):
      x = self._block(f"encoder_{i}")(x, rotary, grid)
    if self.final_norm and not self.norm_after_pool:
      x = ops.layer_norm(eps=self.norm_eps, name="norm")(x)
    x = self._pooled(x)
    if self.pool == "none":
      return x.reshape(len(x), *grid, -1).astype("float32")
    if not self.num_classes:
      return global_avg_pool(x).astype("float32")
    return ops.readout(self._head(), x, tokens=True)

  def _pooled(self, x: Array) -> Array:
    """Returns features [N, D], or tokens [N, T, D] whose mean the readout takes."""
    prefix = self.class_token + self.distillation_token + self.registers
    ops, patches = self.ops, x[:, prefix:]
    if self.pool == "map":
      probe = (self.num_heads, self.mlp_dim, self.activation, self.norm_eps)
      x = ProbePool(ops, *probe, name="pool")(patches)
    elif self.pool in ("mean", "none"):
      x = patches
    elif self.pool in ("max", "mean_max"):
      x = global_max_pool(patches)
      x = (x + global_avg_pool(patches)) / 2 if self.pool == "mean_max" else x
    elif self.pool == "cls_mean":
      x = jnp.concatenate([x[:, 0], global_avg_pool(patches)], axis=-1)
    elif self.distillation_head and self.num_classes:
      x = jnp.concatenate([x[:, 0], x[:, 1]], axis=-1)
    elif self.pool == "cls_distilled":
      x = (x[:, 0] + x[:, 1]) / 2
    else:
      x = x[:, 0]
    if self.final_norm and self.norm_after_pool:
      x = global_avg_pool(x) if self.pool == "mean" else x
      x = ops.layer_norm(eps=self.norm_eps, name="fc_norm")(x)
    if self.pooler and self.pool != "none":
      x = ops.act(ops.dense(self.pooler, name="pooler")(x), "tanh")
    if self.projection:
      x = ops.dense(self.projection, use_bias=False, name="projection")(x)
    return x

  def _head(self):
    head = self.ops.dense(self.num_classes, name="head")
    if not self.distillation_head:
      return head
    second = self.ops.dense(self.num_classes, name="head_distillation")

    def both(x):
      first_token, second_token = jnp.split(x, 2, axis=-1)
      return (head(first_token) + second(second_token)) / 2

    return both

  def _check(self):
    for kind, value, known in (
      ("activation", self.activation, F.GATES),
      ("positions", self.positions, POSITIONS),
      ("pool", self.pool, POOLS),
    ):
      if value not in known:
        raise unknown_name(kind, value, known)
    token, head = self.distillation_token, self.distillation_head
    both = self.pool == "cls_distilled"
    if token > self.class_token or head > (token and self.pool == "cls") or both > token:
      raise InputError(
        f"class_token is {self.class_token}, distillation_token {token}, distillation_head {head} "
        f"and pool {self.pool!r}.",
        "Distillation (DeiT) goes with a class token, its head with both tokens and pool='cls'; "
        "pool='cls_distilled' with both tokens and no head of distillation.",
      )
    if self.pool == "none" and self.num_classes:
      raise InputError(
        f"pool is 'none' with {self.num_classes} classes.",
        "Use num_classes=0, and read the features of patches out with `bcos_jax.explain_patches`.",
      )
    if self.positions == "relative" and (
      (self.class_token, self.distillation_token, self.registers) != (True, False, 0)
    ):
      raise InputError(
        "positions is 'relative', whose table knows one class token and no others.",
        "Use class_token=True without distillation token and registers.",
      )
    if not self.class_token and self.pool in ("cls", "cls_mean"):
      raise InputError(
        f"pool is {self.pool!r}, yet there is no class token.", "Use pool='mean' or 'map'."
      )

  def _grid(self, x: Array) -> Grid:
    stages = stem_stages(self.conv_stem, x.shape[-1])
    grid = token_grid((x.shape[1], x.shape[2]), stages, self.patch_size)
    if not min(grid):
      raise InputError(
        f"An image of {x.shape[1]}x{x.shape[2]} pixels is smaller than one patch.",
        "Use larger images.",
      )
    return grid

  def _rotary(self, grid: Grid) -> Rotary | None:
    if self.positions != "rotary":
      return None
    return rotary_angles(patch_places(grid), self.width // self.num_heads, self.rope_theta)

  def _embeddings(self) -> nn.Module:
    return Embeddings(
      self.ops,
      width=self.width,
      patch_size=self.patch_size,
      image_size=self.image_size,
      conv_stem=self.conv_stem,
      patch_bias=self.patch_bias,
      class_token=self.class_token,
      distillation_token=self.distillation_token,
      registers=self.registers,
      learned=self.positions == "learned",
      prefix_positions=self.prefix_positions,
      register_positions=self.register_positions,
      position_resize=self.position_resize,
      name="embeddings",
    )

  def _block(self, name: str) -> nn.Module:
    return self.ops.block(ViTBlock)(
      self.ops,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      activation=self.activation,
      gated_mlp=self.gated_mlp,
      qkv_bias=self.qkv_bias,
      key_bias=self.key_bias,
      layer_scale=self.layer_scale,
      norm_eps=self.norm_eps,
      relative=self._relative,
      name=name,
    )

  @property
  def _relative(self) -> tuple[Grid, str] | None:
    if self.positions != "relative":
      return None
    height, width = (side // self.patch_size for side in self.image_sides)
    return (height, width), self.position_resize


register(
  VisionTransformer,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.vision_transformer:KEYS",
  readers="bcos_jax.convert.architectures.vision_transformer:READERS",
)
