"""Typed sections of a recipe: one class for each objective, feed, loss and other choice.

A class lists the keys that its choice reads. Defaults, known keys, types, ranges and the
documentation derive from this one place.
"""

from __future__ import annotations

import dataclasses

from .conditions import (
  ADAPTIVE,
  BCOS,
  CLASSIFYING,
  LABELLED,
  LOSSES,
  MOST_STEPS,
  NO_FINETUNING,
  OBJECTIVES,
  OPTIMIZERS,
  PICTURES,
  SCHEDULES,
  STARTED,
  SUPERVISED,
  TAUGHT,
  TEXTS,
)
from .feeds import Augment, Data, PictureData, TextData
from .keys import ALWAYS, absent, chosen, given, key, keys_of


@dataclasses.dataclass(frozen=True)
class RunSection:
  """Settings of a run, independent of its objective."""

  seed: int = key(
    0, "of initialisation, data order, augmentation and dropout", least=0, most=2**32 - 1
  )
  init: str = key("", 'bundle folder to start from; "" starts at random, or from a teacher')
  redraw: tuple = key(
    (),
    "regular expressions of parameters that `init` may lack, reinitialised",
    when=STARTED & NO_FINETUNING,
    patterns="names",
  )
  finetune: bool = key(
    False, "a new head for the data's classes; fields that are 0 are filled in", when=SUPERVISED
  )
  best: bool = key(False, "end with the best evaluated state that was saved, not with the last")
  fold_mean: bool = key(
    True,
    "of batch norms into their biases, when `init` is B-cosified",
    when=PICTURES & STARTED & BCOS,
  )
  calibrate: int = key(
    0,
    "training inputs, without labels, by which the B-cosified `init` is fitted in closed form "
    "before the first step; 0: its weights are copied",
    least=0,
    most=10_000_000,
    when=STARTED & BCOS,
  )
  calibrate_blocks: int = key(
    0,
    "rounds of a second sweep, in which the maps of each block are fitted together; 0: none",
    least=0,
    most=1000,
    when=given("calibrate"),
  )
  statistics: str = key(
    "batch",
    "of batch norms in training: of the batch; or running, which stay as they are and do not "
    "disturb a start in closed form",
    names=("batch", "running"),
    when=PICTURES,
  )
  steps: int = key(0, "length of the run", duration=True)
  recompute: bool = key(False, "recompute blocks in the backward pass, to save memory")
  accumulate: int = key(
    1, "parts that a batch is cut into, one after the other, to save memory", least=1, most=2**20
  )
  nonfinite: str = key(
    "stop",
    "at a loss or gradient that is not finite: stop, or skip, which leaves the step out",
    names=("stop", "skip"),
  )
  eval_every: int = key(0, "steps between evaluations; 0: only at the end", duration=True)
  log_every: int = key(10, "steps between lines of metrics", least=1, open=0, duration=True)
  checkpoint_every: int = key(0, "0: only at the end and when interrupted", duration=True)
  keep_every: int = key(
    0,
    "checkpoints at its multiples are never deleted, beside newest and best",
    when=given("checkpoint_every") | given("finetune"),
    duration=True,
  )
  layout: tuple = key(
    (),
    "(regular expression, mesh axes by dimension) of arrays to split; (('', 'fsdp'),) splits the "
    "largest dimension of every one",
    patterns="pairs",
  )


@dataclasses.dataclass(frozen=True)
class Model:
  """Arguments of bcos_jax.create; more may be added."""

  name: str = key("", "of the architecture")
  num_classes: int = key(
    0, "of the data; 0 without labels", least=0, most=10_000_000, when=PICTURES | LABELLED
  )


@dataclasses.dataclass(frozen=True)
class Family:
  """The layer family, and any of its fields."""

  family: str = key("standard", "name of the family or of a preset")


@dataclasses.dataclass(frozen=True)
class TextTowerSection:
  """The text tower of pairs, which stays conventional: arguments of bcos_jax.create."""

  name: str = key("", "of the text tower of pairs")


@dataclasses.dataclass(frozen=True)
class ObjectiveSection:
  """What is minimised."""

  name: str = key(
    "supervised",
    "supervised (labels); match (a teacher's predictions), align or clip (its features), without "
    "labels; pairs (captions); of language models: text (labels), masked_lm or causal_lm",
    names=OBJECTIVES,
  )


@dataclasses.dataclass(frozen=True)
class Taught:
  """Learning from a frozen teacher, without labels."""

  teacher: str = key("", "bundle of the frozen network; without `init`, the student starts from it")
  teacher_model: str = key("", 'its architecture, for `bcos-jax compile`; "" for the student\'s')
  teacher_size: int = key(0, "side of its pictures, if not data.image_size", least=0, most=2**14)


@dataclasses.dataclass(frozen=True)
class Align:
  """Cosines of tokens at some depths, and of pooled features."""

  depths: str = key("corrected", "blocks whose tokens are compared: corrected, published, numbers")
  token_weight: float = key(1.0, "of the tokens' part of the loss")
  pooled_weight: float = key(1.0, "of the pooled features' part")
  norm_weight: float = key(0.0, "keeps the Frobenius norms of the teacher's maps")


@dataclasses.dataclass(frozen=True)
class Clip:
  """The teacher's embedding of the same picture is found in the batch."""

  scale: float = key(10.0, "of the cosines")
  bias: float = key(-10.0, "of the scaled cosines")
  learned: bool = key(False, "whether scale and bias are learned")
  negatives: str = key("global", "global, or device as published", names=("global", "device"))


@dataclasses.dataclass(frozen=True)
class PairsSection:
  """Pictures and captions."""

  captions: int = key(
    8, "different ones of a picture, of which a step draws one", least=1, most=10_000
  )


@dataclasses.dataclass(frozen=True)
class Loss:
  """The losses of labels."""

  name: str = key("uniform_off_label_bce", " or ".join(LOSSES), names=LOSSES, open="")
  eval_name: str = key("bce", "that of evaluations", names=LOSSES, open="", when=LABELLED)
  smoothing: float = key(
    0.0,
    "share of each target that is spread over all classes",
    least=0,
    most=1,
    when=chosen("loss.name", "bce", "cross_entropy", ""),
  )
  off: float = key(
    -1.0,
    "least target; -1: one over the classes",
    most=1,
    when=chosen("loss.name", "uniform_off_label_bce", ""),
  )


@dataclasses.dataclass(frozen=True)
class OptimizerSection:
  """The optimiser."""

  name: str = key("adamw", " or ".join(OPTIMIZERS), names=OPTIMIZERS)
  lr: float = key(1e-3, "largest learning rate", least=0)
  schedule: str = key(
    "cosine",
    "cosine or linear (by step, to 0), cosine_epochs (by epoch), step_epochs (a tenth every 30 "
    "epochs) or constant",
    names=SCHEDULES,
  )
  warmup_steps: int = key(
    0, "linear, from 0.01 x lr; from 0 with the schedule linear", duration=True
  )
  decay_steps: int = key(
    0,
    "half a cosine to 0 in the last steps",
    least=0,
    most=MOST_STEPS,
    when=chosen("optimizer.schedule", "constant"),
  )
  weight_decay: float = key(0.0, "of parameters that no rule names", least=0)
  decay_rules: tuple = key(
    (), "(regular expression, rate); the first that matches a path decides", patterns="pairs"
  )
  bias_decay: float = key(0.0, "additional, of biases that the ops keep (use_bias=True)", least=0)
  b_decay: float = key(
    0.0,
    "draws a learned B (ops.learn_b=True) towards 2",
    least=0,
    when=absent("optimizer.b_schedule.steps"),
  )
  agc: float = key(0.01, "adaptive gradient clipping; 0: off", least=0)
  clip_norm: float = key(0.0, "global-norm clipping; 0: off", least=0)
  b1: float = key(0.9, "of the first moment", least=0, below=1, when=ADAPTIVE)
  b2: float = key(0.999, "of the second moment", least=0, below=1, when=ADAPTIVE)
  eps: float = key(1e-8, "of the second moment", least=1e-30, when=ADAPTIVE)
  momentum: float = key(0.9, "of sgd", least=0, below=1, when=chosen("optimizer.name", "sgd"))


@dataclasses.dataclass(frozen=True)
class ScheduledB:
  """A linear schedule of B for networks whose ops have learn_b=True."""

  start: float = key(1.0, "first B", least=1, when=given("optimizer.b_schedule.steps"))
  end: float = key(2.0, "last B", least=1, when=given("optimizer.b_schedule.steps"))
  steps: int = key(0, "0: off, B is fixed or learned", duration=True)


@dataclasses.dataclass(frozen=True)
class Ema:
  """A moving average of the network; evaluated beside it, and saved in its place."""

  decay: float = key(
    0.0, "per example and epoch, as in torchvision's reference; 0: off", least=0, below=1
  )
  every: int = key(32, "steps between updates", least=1, most=MOST_STEPS, when=given("ema.decay"))


@dataclasses.dataclass(frozen=True)
class Watch:
  """What is shown of a run beside its metrics."""

  explain_every: int = key(
    0, "steps between figures of explanations; 0: none", duration=True, when=PICTURES
  )
  explain_images: int = key(
    6,
    "pictures per figure, always the same ones",
    least=1,
    most=1000,
    when=PICTURES & given("watch.explain_every"),
  )
  profile_steps: int = key(0, "steps to trace with JAX's profiler; 0: none", least=0, most=10_000)
  wandb: str = key("", 'project of Weights & Biases to log to as well; "": none')


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Axis sizes; -1 takes the remaining devices."""

  data: int = key(-1, "of the axis that splits the batch", least=-1, most=2**24)
  fsdp: int = key(1, "of the axis that splits batch and parameters", least=-1, most=2**24)
  tensor: int = key(1, "of the axis that splits parameters", least=-1, most=2**24)


KEYS = {
  one.name: one
  for section, cls, when in (
    ("", RunSection, ALWAYS),
    ("model", Model, ALWAYS),
    ("text", TextTowerSection, chosen("objective.name", "pairs")),
    ("ops", Family, ALWAYS),
    ("data", Data, ALWAYS),
    ("data", TextData, TEXTS),
    ("data", PictureData, PICTURES),
    ("data.augment", Augment, PICTURES),
    ("objective", ObjectiveSection, ALWAYS),
    ("objective", Taught, TAUGHT),
    ("objective", Align, chosen("objective.name", "align")),
    ("objective", Clip, chosen("objective.name", "clip")),
    ("objective", PairsSection, chosen("objective.name", "pairs")),
    ("loss", Loss, CLASSIFYING),
    ("optimizer", OptimizerSection, ALWAYS),
    ("optimizer.b_schedule", ScheduledB, ALWAYS),
    ("ema", Ema, ALWAYS),
    ("watch", Watch, ALWAYS),
    ("mesh", Mesh, ALWAYS),
  )
  for one in keys_of(section, cls, when)
}
