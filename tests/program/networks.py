"""The networks that tests of programs explain: test variants of the zoo, in its families."""

import dataclasses

import jax.numpy as jnp
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, program
from bcos_jax.models.registry import _ARCHITECTURES

from ..common import filled, photos

FAMILIES = {
  "standard": StandardOps,
  "bcos": BcosOps,
  "v2": BcosOps.v2,
  "kept": lambda: BcosOps(use_bias=True, pool="max", norm="batch"),
}
QUICK = (
  ("resnet_tiny", "standard"),
  ("vit_max_test", "v2"),
  ("mobile_net_tiny", "kept"),
  ("swin_test", "bcos"),
  ("dinov2_test", "standard"),
  ("convnextv2_test", "bcos"),
)
VARIANTS = sorted(
  name
  for found in _ARCHITECTURES.values()
  if found.own and found.module.reads == "images"
  for name in found.checked_variants
)
TEXTS = sorted(
  name
  for found in _ARCHITECTURES.values()
  if found.own and getattr(found.module, "takes_embeddings", False)
  for name in found.checked_variants
)
ALL = tuple((name, family) for name in VARIANTS for family in FAMILIES)


@dataclasses.dataclass(frozen=True)
class Case:
  """A network, its variables, two encoded images, and its program."""

  model: object
  variables: dict
  images: jnp.ndarray
  inputs: jnp.ndarray
  program: program.Program


def case(name: str, family: str) -> Case:
  """Returns a network of the zoo, traced without knowing it."""
  ops = FAMILIES[family]()
  model = bcos_jax.create(name, ops=ops)
  variables = filled(model)
  images = jnp.asarray(photos(2, max(model.image_sides)))
  inputs = ops.encoding(images)
  # Without activations nothing tells the two factors of a gated linear unit apart.
  products = {"*/mlp": "second"} if name == "dinov2_test" and family == "v2" else {}
  traced = program.trace(
    lambda variables, x: model.apply(variables, x), variables, inputs, products=products
  )
  return Case(model, variables, images, inputs, traced)


def besides(quick, names):
  """Returns names, or tuples of them, those that are not `quick` in the slow lane."""
  parts = [each if isinstance(each, tuple) else (each,) for each in names]
  marks = [() if each in quick else pytest.mark.slow for each in names]
  return [pytest.param(*part, marks=mark) for part, mark in zip(parts, marks, strict=True)]
