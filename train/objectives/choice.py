"""Selection and checks of the objective that a recipe names."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import StandardOps
from bcos_jax.configs.sections import KEYS
from bcos_jax.errors import InputError
from bcos_jax.inputs import Encoding, Preprocess
from bcos_jax.text.tokenizer import word_tokenizer
from bcos_jax.variables import abstract_variables

from .. import sharding, start
from ..config import TEXT_OBJECTIVES
from ..data import captions
from . import losses
from .alignment import Alignment, pick_depths
from .contrast import ContrastiveDistillation
from .match import Match
from .objective import Objective
from .pairs import Pairs
from .supervised import Supervised
from .teacher import Teacher, blocks_of
from .text import TextLabels, TokenPrediction


def from_config(
  config: ConfigDict,
  model: nn.Module,
  mesh: Mesh,
  *,
  multi_label: bool = False,
  weights: bool = True,
) -> tuple[Objective, Any]:
  """Returns the objective of a recipe, and its frozen variables.

  Args:
    config: The recipe; `objective`, `loss` and `data` count.
    model: The network to train.
    mesh: Of the devices that share a batch.
    multi_label: Whether examples may have several labels.
    weights: Whether to read the teacher. If not, it is the conventional network of the student's
      architecture, and the frozen variables are shapes.

  Raises:
    InputError: Values that cannot be used, or that contradict each other.
  """
  objective, frozen = _chosen(config, model, mesh, multi_label, weights)
  return dataclasses.replace(objective, statistics=config.statistics), frozen


def _chosen(
  config: ConfigDict, model: nn.Module, mesh: Mesh, multi_label: bool, weights: bool
) -> tuple[Objective, Any]:
  options = config.objective
  if options.name == "supervised" or options.name in TEXT_OBJECTIVES:
    return _without_teacher(config, model, multi_label), {}
  if options.name == "pairs":
    return _pairs(config, model), {}
  teacher, frozen = _read(config) if weights else _like(config, model)
  teacher = Teacher(teacher, options.teacher_size)
  if options.name == "align":
    objective = _align(options, model, teacher)
  elif options.name == "match":
    objective = Match(model, teacher, losses.from_config(config.loss.name, config.loss))
  else:
    objective = _clip(options, model, teacher, mesh)
  objective.check(config.data.image_size)
  return objective, frozen


def _without_teacher(config: ConfigDict, model: nn.Module, multi_label: bool) -> Objective:
  if config.objective.name in ("masked_lm", "causal_lm"):
    return TokenPrediction(model)
  loss, eval_loss = (
    losses.from_config(name, config.loss) for name in (config.loss.name, config.loss.eval_name)
  )
  if multi_label and "cross_entropy" in (config.loss.name, config.loss.eval_name):
    raise InputError(
      "The loss cross_entropy expects one label per picture, the data have several.",
      "Set --config.loss.name=bce and --config.loss.eval_name=bce.",
    )
  if config.objective.name == "text":
    return TextLabels(model, loss, eval_loss, multi_label)
  return Supervised(model, loss, eval_loss, multi_label)


def _pairs(config: ConfigDict, model: nn.Module) -> Pairs:
  options, words = config.objective, captions.words()
  fields = {"vocab_size": len(words) + 3, **config.text.to_dict()}
  name, family = fields.pop("name"), StandardOps(dtype=model.ops.dtype)
  if not bcos_jax.create(name, ops=family).is_text_tower:
    raise InputError(
      f"text.name={name!r} reads no text.", "For example, set --config.text.name=clip_text_test."
    )
  text = bcos_jax.create(name, ops=family, **fields)
  tokenizer = word_tokenizer(words, text.context_length)
  pairs = Pairs(model, text, tokenizer, captions=options.captions, seed=config.seed)
  pairs.check(config.data.image_size)
  return pairs


def _align(options: ConfigDict, model: nn.Module, teacher: Teacher) -> Alignment:
  blocks = len(blocks_of(model))
  depths = pick_depths(options.depths, blocks) if blocks else ()
  for name in ("depths", "token_weight"):
    default = KEYS[f"objective.{name}"].default
    if not depths and options[name] not in ("", default):
      raise InputError(
        f"objective.{name}={options[name]!r} does nothing: no tokens are compared, only pooled "
        f"features of this {type(model).__name__}.",
        f"Leave out --config.objective.{name}, or take a transformer or a ResNet.",
      )
  return Alignment(
    model,
    teacher,
    depths=depths,
    token_weight=options.token_weight,
    pooled_weight=options.pooled_weight,
    norm_weight=options.norm_weight,
  )


def _clip(
  options: ConfigDict, model: nn.Module, teacher: Teacher, mesh: Mesh
) -> ContrastiveDistillation:
  return ContrastiveDistillation(
    model,
    teacher,
    scale=options.scale,
    bias=options.bias,
    learned=options.learned,
    groups=sharding.batch_divisor(mesh) if options.negatives == "device" else 1,
  )


def _read(config: ConfigDict) -> tuple[nn.Module, Any]:
  """Opens the teacher, whose pictures must be those of the recipe."""
  if not config.objective.teacher:
    raise InputError(
      f"The objective {config.objective.name!r} has no teacher.",
      "Set --config.objective.teacher to a bundle of the pretrained network.",
    )
  bundle = start.open_bundle(config.objective.teacher)
  if bundle.preprocess is not None:
    _check_pictures(config, bundle.preprocess)
  if config.objective.name == "match":
    return bundle.model, bundle.variables
  return start.without_head(bundle.model, bundle.variables)


def _check_pictures(config: ConfigDict, teacher: Preprocess) -> None:
  """Student and teacher look at one picture, so it must be made as the teacher's were."""
  data = config.data
  side = config.objective.teacher_size or data.image_size
  for key, own, other in (
    ("data.interpolation", data.interpolation, teacher.interpolation),
    ("data.image_size", side, teacher.size[0]),
  ):
    if own != other:
      raise InputError(
        f"{key}={own!r}, but the teacher {config.objective.teacher!r} uses {other!r}.",
        f"Set --config.{key}={other}; if the student's pictures have another size than the "
        "teacher's, set --config.objective.teacher_size.",
      )


def _like(config: ConfigDict, model: nn.Module) -> tuple[nn.Module, Any]:
  """Returns the teacher by its architecture, and the shapes of its variables."""
  encoding = Encoding(model.ops.encoding.mean, model.ops.encoding.std)
  family = StandardOps(encoding=encoding, dtype=model.ops.dtype)
  if config.objective.teacher_model:
    classes = model.num_classes if config.objective.name == "match" else 0
    twin = bcos_jax.create(config.objective.teacher_model, ops=family, num_classes=classes)
  else:
    twin = model.clone(ops=family)
  return twin, abstract_variables(twin)
