"""Shared setup of the studies on texts: a small BERT, pretrained and fine-tuned on reviews.

As in `lab`, networks are kept in the folder, and a study that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import jax
import numpy as np

import bcos_jax

from .. import TextReader
from ..batches import in_batches
from ..errors import InputError, unknown_name
from ..text.tokens import marked_tokens
from ..train.config import load_config
from ..train.data import TextDataset, open_texts
from ..train.loop import TrainResult, train
from .lab import Say

DATASET = "reviews"
NETWORK = {
  "width": 64,
  "mlp_dim": 256,
  "depth": 2,
  "num_heads": 4,
  "context_length": 128,
  # So small a network does not overfit in so few steps.
  **dict.fromkeys(("dropout", "attention_dropout", "head_dropout"), 0.0),
}
_TRAINING, _VALIDATION = "train[:7000]", "train[7000:]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSetting:
  """How long networks are trained, and on how much is measured.

  Attributes:
    pretrain: Steps of masked language modelling, batches of 64.
    finetune: Steps of each fine-tuning, batches of 32.
    texts: Texts whose explanations are measured.
    pairs: Pairs of the sequence pointing game.
    samples: Samples of LIME and KernelSHAP.
    orders: Orders of Shapley sampling.
    steps: Steps of sequential integrated gradients, for each token.
  """

  pretrain: int = 800
  finetune: int = 800
  texts: int = 100
  pairs: int = 50
  samples: int = 500
  orders: int = 10
  steps: int = 8


@dataclasses.dataclass(frozen=True)
class Marked:
  """Texts with the words that decide.

  Attributes:
    ids: int32 [N, L].
    mask: bool [N, L], False on padding.
    counted: bool [N, L], False on special tokens as well.
    labels: int [N].
    rationales: bool [N, L].
  """

  ids: np.ndarray
  mask: np.ndarray
  counted: np.ndarray
  labels: np.ndarray
  rationales: np.ndarray

  def some(self, rows: np.ndarray) -> Marked:
    """Returns some of the texts."""
    fields = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)}
    return Marked(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextLab:
  """A place for a study of texts; fields as of `lab.Lab`."""

  workdir: pathlib.Path
  dataset: str = DATASET
  network: str = ""
  seed: int = 0
  short: bool = False
  progress: bool = True
  say: Say = print

  def __post_init__(self):
    if self.dataset != DATASET:
      raise unknown_name("data set of studies of texts", self.dataset, (DATASET,))
    if self.network:
      raise InputError(
        f"--network={self.network}, expected none.", "Omit it: studies of texts use one small BERT."
      )

  @property
  def setting(self) -> TextSetting:
    if self.short:
      return TextSetting(pretrain=6, finetune=6, texts=8, pairs=2, samples=8, orders=2, steps=2)
    return TextSetting()

  def conventional(self, lr: float) -> TrainResult:
    """The conventional network, fine-tuned at a learning rate."""
    return self._tuned(f"conventional-{lr}", "conventional,runlocal", lr)

  def bcosified(self, b: float, lr: float) -> TrainResult:
    """The B-cosified network, fine-tuned as long; the published preset with an exponent."""
    return self._tuned(f"bcosified-{b}", "runlocal", lr, f"--config.ops.b={b}")

  def reader(self, result: TrainResult) -> TextReader:
    """Returns a trained network with the tokenizer that all share."""
    model = result.model
    bundle = bcos_jax.io.bundles.make_bundle(
      model, jax.device_get(result.variables), labels=result.labels, tokenizer=result.tokenizer
    )
    return TextReader.load(bundle)

  def keep(self, result: TrainResult, name: str) -> pathlib.Path:
    """Saves a trained network as a bundle, for `bcos-jax explain`."""
    return bcos_jax.save(
      self.workdir / f"{name}.bundle",
      result.model,
      jax.device_get(result.variables),
      labels=result.labels,
      tokenizer=result.tokenizer,
    )

  def texts(self, split: str = "test") -> TextDataset:
    """Returns the reviews of a split."""
    return open_texts(self.dataset, split)

  def _pretrained(self) -> pathlib.Path:
    bundle = self.workdir / "pretrained.bundle"
    if not bundle.exists():
      result = self._train(
        "pretrained",
        "pretrain_lm:conventional,runlocal",
        self.setting.pretrain,
        "--config.data.train_split=unlabelled",
        "--config.data.test_split=test[:200]",
        "--config.data.batch_size=64",
        "--config.optimizer.lr=3e-3",
      )
      self.keep(result, "pretrained")
    return bundle

  def _tuned(self, name: str, variant: str, lr: float, *overrides: str) -> TrainResult:
    return self._train(
      name,
      f"bcosify_lm:{variant}",
      self.setting.finetune,
      f"--config.init={self._pretrained()}",
      "--config.data.tokenizer=",
      f"--config.data.train_split={_TRAINING}",
      f"--config.data.test_split={_VALIDATION}",
      f"--config.optimizer.lr={lr}",
      *overrides,
    )

  def _train(self, name: str, recipe: str, steps: int, *overrides: str) -> TrainResult:
    self.say(f"Training {name}: {steps} steps")
    every = max(steps // 4, 1)
    config = load_config(
      recipe,
      [
        f"--config.steps={steps}",
        f"--config.eval_every={every}",
        f"--config.checkpoint_every={every}",
        f"--config.optimizer.warmup_steps={steps // 10}",
        f"--config.seed={self.seed}",
        *(f"--config.model.{field}={value}" for field, value in NETWORK.items()),
        *overrides,
      ],
    )
    return train(config, workdir=self.workdir / name, progress=self.progress)


def marked_texts(reader: TextReader, dataset: TextDataset) -> Marked:
  """Returns texts as a network reads them, with the words that decide."""
  batch = reader.read(dataset.texts)
  assert dataset.labels is not None and dataset.spans is not None, "the data of the study have both"
  marked = marked_tokens(batch, dataset.spans)
  return Marked(batch.ids, batch.mask > 0, ~batch.special, dataset.labels, marked)


def logits_of(reader: TextReader, texts: Marked, batch_size: int = 100) -> np.ndarray:
  """Returns logits float32 [N, C]."""
  apply = _applied(reader.model)
  rows = texts.ids, texts.mask
  return in_batches(lambda batch: apply(reader.variables, *batch), rows, batch_size, precision=None)


@functools.lru_cache(maxsize=8)
def _applied(model):
  return jax.jit(lambda variables, ids, mask: model.apply(variables, ids, mask=mask))
