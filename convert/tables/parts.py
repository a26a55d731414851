"""Conversion rules of layers that many architectures share, by layer name."""

from __future__ import annotations

from .axes import AS_IS, DENSE, Axes
from .rules import Rule, Skip

Rules = list[Rule | Skip]


def weight(source: str, target: str, axes: Axes) -> Rule:
  """The kernel of a map."""
  return Rule(f"{source}.weight", f"params/{target}/kernel", axes)


def biased(source: str, target: str, axes: Axes = DENSE) -> Rules:
  """A map with bias."""
  return [weight(source, target, axes), Rule(f"{source}.bias", f"params/{target}/bias", AS_IS)]


def scale(source: str, target: str) -> Rule:
  """The scale of a norm."""
  return Rule(f"{source}.weight", f"params/{target}/scale", AS_IS)


def norm(source: str, target: str) -> Rules:
  """A norm with scale and bias and without running statistics."""
  return [scale(source, target), Rule(f"{source}.bias", f"params/{target}/bias", AS_IS)]


def batch_norm(source: str, target: str) -> Rules:
  """A conventional batch norm."""
  return [
    *norm(source, target),
    Rule(f"{source}.running_mean", f"batch_stats/{target}/mean"),
    *_running(source, target),
  ]


def uncentered_batch_norm(source: str, target: str) -> Rules:
  """The uncentred batch norm of B-cos networks, without bias."""
  return [
    scale(source, target),
    Skip(
      f"{source}.running_mean",
      "an uncentred norm subtracts no mean",
      beside=f"batch_stats/{target}/var",
    ),
    *_running(source, target),
  ]


def _running(source: str, target: str) -> Rules:
  return [
    Rule(f"{source}.running_var", f"batch_stats/{target}/var"),
    Skip(
      f"{source}.num_batches_tracked",
      "counts updates, used by nothing",
      beside=f"batch_stats/{target}/var",
      dtype="int64",
      scalar=True,
    ),
  ]
