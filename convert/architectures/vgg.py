"""Key tables of VGG networks: torchvision, timm and B-cos v2.

All of them number the layers of one sequence: convolutions, norms, activations and pools. So a
number depends on how many convolutions each stage has, and each variant has tables of its own.
"""

from __future__ import annotations

from bcos_jax.models import vgg
from bcos_jax.ops import BcosOps, StandardOps

from ..tables.axes import CONV, DENSE, DENSE_AS_1X1, DENSE_AS_CONV, dense_window
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, uncentered_batch_norm, weight
from ..tables.rules import Table

_WINDOW = 7
Stages = tuple[int, ...]


def _numbered(stages: Stages, per_conv: int) -> list[tuple[int, str]]:
  """Returns the number of each convolution and the end of its name here.

  Args:
    stages: Convolutions of each stage.
    per_conv: Layers that each convolution brings: itself, norm, activation.
  """
  numbered, number = [], 0
  for i, depth in enumerate(stages, 1):
    for j in range(1, depth + 1):
      numbered.append((number, f"{i}_{j}"))
      number += per_conv
    number += 1
  return numbered


def _features(stages: Stages, with_norm: bool) -> Rules:
  rules: Rules = []
  for number, name in _numbered(stages, 3 if with_norm else 2):
    rules += biased(f"features.{number}", f"conv{name}", CONV)
    if with_norm:
      rules += batch_norm(f"features.{number + 1}", f"norm{name}")
  return rules


def _torchvision(stages: Stages, with_norm: bool) -> Table:
  return (
    *_features(stages, with_norm),
    *biased("classifier.0", "fc1", dense_window(_WINDOW)),
    *biased("classifier.3", "fc2", DENSE_AS_CONV),
    *biased("classifier.6", "head", DENSE),
  )


def _timm(stages: Stages, with_norm: bool) -> Table:
  return (
    *_features(stages, with_norm),
    *biased("pre_logits.fc1", "fc1", CONV),
    *biased("pre_logits.fc2", "fc2", CONV),
    *biased("head.fc", "head", DENSE),
  )


def _bcos_v2(stages: Stages, with_norm: bool) -> Table:
  rules: Rules = []
  # A norm (or none, but then an identity in its place), and no activation.
  for number, name in _numbered(stages, 2):
    rules.append(weight(f"features.{number}.linear", f"conv{name}", CONV))
    if with_norm:
      rules += uncentered_batch_norm(f"features.{number + 1}", f"norm{name}")
  return (
    *rules,
    weight("classifier.0.linear", "fc1", CONV),
    weight("classifier.1.linear", "fc2", CONV),
    weight("classifier.2.linear", "head", DENSE_AS_1X1),
  )


def _keys(stages: Stages, with_norm: bool) -> list[Keys]:
  per_conv = 3 if with_norm else 2
  modules = tuple(
    (f"features.{number}", f"conv{name}") for number, name in _numbered(stages, per_conv)
  )

  def fits(model):
    shape = (tuple(model.stages), model.batch_norm, model.window)
    return shape == (stages, with_norm, _WINDOW)

  return [
    Keys("torchvision", StandardOps(), _torchvision(stages, with_norm), modules, fits=fits),
    Keys("timm", StandardOps(), _timm(stages, with_norm), modules, fits=fits),
    Keys("bcos_v2", BcosOps.v2(), _bcos_v2(stages, with_norm), fits=fits),
  ]


_VARIANTS = dict.fromkeys(
  (row.get("stages", vgg.VGG.stages), row.get("batch_norm", vgg.VGG.batch_norm))
  for row in (*vgg.VARIANTS.values(), *vgg.TEST_VARIANTS.values())
)
KEYS = tuple(keys for variant in _VARIANTS for keys in _keys(*variant))
