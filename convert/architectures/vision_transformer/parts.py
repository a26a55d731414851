"""Rules of the parts that all layouts of vision transformers have."""

from __future__ import annotations

from ...tables.axes import DENSE, ROWS, Axes
from ...tables.rules import Rule, Skip

Entries = list[Rule | Skip]

PATCH_MAP = "embeddings/patch_embedding"
BLOCK = "encoder_{i}"
QKV = tuple(f"{BLOCK}/attn/{part}" for part in ("query", "key", "value"))
POOL_QKV = tuple(f"pool/attn/{part}" for part in ("query", "key", "value"))
GATED = (f"{BLOCK}/mlp/gate", f"{BLOCK}/mlp/up")


TEXT = "belongs to the text tower"
CONTRAST = "scales similarities of images and texts"


def leaves(targets: str | tuple[str, ...], leaf: str) -> str | tuple[str, ...]:
  if isinstance(targets, str):
    return f"params/{targets}/{leaf}"
  return tuple(f"params/{target}/{leaf}" for target in targets)


def linear(source: str, target: str | tuple[str, ...], axes: Axes = DENSE) -> Entries:
  """A map, or several that the source holds as one."""
  return [
    Rule(f"{source}.weight", leaves(target, "kernel"), axes),
    Rule(f"{source}.bias", leaves(target, "bias")),
  ]


def in_proj(source: str, targets: tuple[str, ...]) -> Entries:
  """Queries, keys and values as `torch.nn.MultiheadAttention` holds them."""
  return [
    Rule(f"{source}.in_proj_weight", leaves(targets, "kernel"), DENSE),
    Rule(f"{source}.in_proj_bias", leaves(targets, "bias")),
  ]


def norm(source: str, target: str) -> Entries:
  return [
    Rule(f"{source}.weight", f"params/{target}/scale"),
    Rule(f"{source}.bias", f"params/{target}/bias"),
  ]


def token(source: str, name: str, axes: Axes = ROWS) -> Rule:
  return Rule(source, f"params/embeddings/{name}", axes)


def unused(source: str, reason: str) -> Skip:
  return Skip(source, reason, beside=f"params/{PATCH_MAP}/kernel", optional=True)


def scales(source: str) -> Entries:
  return [Rule(f"{source}.layer_scale{{k}}.lambda1", f"params/{BLOCK}/layer_scale{{k}}/scale")]
