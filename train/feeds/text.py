"""The feed of texts: token ids with labels, masked tokens or next tokens."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from bcos_jax.batches import check_memory, memory
from bcos_jax.calibration import chosen
from bcos_jax.errors import InputError
from bcos_jax.text.tokenizer import saved_files
from bcos_jax.text.tokens import special_ids

from ..data import TextDataset, TextExamples
from ..data.pipeline import Batches
from ..data.text import masking, pipeline
from ..data.text.splits import open_text_splits
from ..start import tokenizer_for
from .feed import Feed, Spec, check_classes

Batch = dict[str, np.ndarray]


class TextFeed(Feed):
  """Batches {"ids": int32 [n, L], "mask": bool [n, L]} and what is to be learned.

  That is "label" int32 [n] for `text`; "labels" int32 [n, L], "weights" float32 [n, L] and "share"
  float32 [n] for language models, see `masking` and `objectives.TokenPrediction`. Texts of like
  length share a batch, padded to powers of two: as many steps are compiled. Batches of evaluations
  have "counts" float32 [n], 0 on what fills up.
  """

  unit = "texts"

  def __init__(self, config: ConfigDict, model: nn.Module, mesh: Mesh):
    super().__init__(config, model, mesh)
    check_texts(config, model)
    self._kind = config.objective.name
    self._tokenizer = tokenizer_for(config, model)
    train_set, test_set = open_text_splits(config.data, labelled=self._kind == "text")
    if self._kind == "text":
      for dataset in (train_set, test_set):
        check_classes(model, dataset.label_names, dataset.name)
    # Texts that are packed are cut into rows anyway.
    packed = self._kind == "causal_lm"
    self._length = _length(config, model)
    self._train_set = self._read(train_set, None if packed else self._length)
    self._test_set = self._read(test_set, self._length)
    self._change = self._changing(model)
    self.name, self.labels = train_set.name, train_set.label_names
    self.belongings = {"tokenizer": saved_files(self._tokenizer)}

  def __len__(self) -> int:
    if self._kind == "causal_lm":
      return int((self._train_set.lengths + 1).sum()) // self._length
    return len(self._train_set)

  def batches(self, begin: int) -> Batches:
    data = self.config.data
    drawing = {
      "batch_size": data.batch_size,
      "seed": self.config.seed,
      "start_step": begin,
      "workers": data.workers,
      **self._processes,
    }
    if self._kind != "causal_lm":
      return pipeline.text_batches(self._train_set, change=self._change, **drawing)
    end = self._tokenizer.eos_token_id
    return pipeline.packed_batches(self._train_set, length=self._length, end=end, **drawing)

  def eval_batches(self) -> Batches:
    return pipeline.eval_text_batches(
      self._test_set, batch_size=self.eval_batch_size, change=self._change, **self._processes
    )

  @property
  def count(self) -> int:
    return len(self._train_set)

  def unlabelled(self, count: int) -> Batch:
    batch = self._train_set.batch(chosen(self.count, count, self.config.seed))
    longest = min(int(batch["mask"].sum(axis=1).max()), self._length)
    tokens, mask = (self._share(batch[name])[:, :longest] for name in ("ids", "mask"))
    return {"tokens": tokens, "mask": mask}

  def examples_of(self, step: int) -> list[int]:
    size = self.config.data.batch_size
    if self._kind == "causal_lm":  # Rows of the joined texts.
      return list(range((step - 1) * size, step * size))
    order = pipeline.Order(self._train_set.lengths, size, self.config.seed)
    return [int(row) for row in order(step - 1)]

  def _read(self, dataset: TextDataset, length: int | None) -> TextExamples:
    truncate = self.config.data.truncate
    examples = TextExamples(dataset, self._tokenizer, length=length, truncate=truncate)
    if examples.truncated and not jax.process_index():
      count = f"{examples.truncated} of {len(dataset)} texts of {dataset.name}"
      print(f"{count} were truncated to {length} tokens", flush=True)
    return examples

  def _changing(self, model: nn.Module) -> Any:
    if self._kind == "text":
      return None
    if self._kind == "causal_lm":
      return masking.next_tokens
    return masking.HideTokens(
      mask_id=self._tokenizer.mask_token_id,
      special_ids=tuple(special_ids(self._tokenizer)),
      vocabulary=min(len(self._tokenizer), model.vocab_size),
      share=self.config.data.hidden_share,
    )


def check_texts(config: ConfigDict, model: nn.Module, capacity: float | None = None) -> None:
  """Refuses batches that cannot be held; see `feeds.check_batches`."""
  capacity = memory() * jax.process_count() if capacity is None else capacity
  each = _bytes(text_batch(config, model)) / config.data.batch_size
  for kind, batch in (("training", "batch_size"), ("evaluation", "eval_batch_size")):
    count = getattr(config.data, batch)
    check_memory(
      f"A batch of {count:,} {kind} texts of up to {_length(config, model):,} tokens",
      each * count,
      f"Set a smaller --config.data.{batch} or --config.data.max_length.",
      capacity,
    )


def _bytes(batch: Spec) -> int:
  return sum(math.prod(shape) * jnp.dtype(dtype).itemsize for shape, dtype in batch.values())


def text_batch(config: ConfigDict, model: nn.Module) -> Spec:
  """Returns name -> (shape, dtype) of a training batch of the longest texts."""
  rows = (config.data.batch_size,)
  tokens = (*rows, _length(config, model))
  batch = {"ids": (tokens, jnp.int32), "mask": (tokens, jnp.bool_)}
  if config.objective.name == "text":
    return batch | {"label": (rows, jnp.int32)}
  weights = {"weights": (tokens, jnp.float32), "share": (rows, jnp.float32)}
  return batch | {"labels": (tokens, jnp.int32)} | weights


def _length(config: ConfigDict, model: nn.Module) -> int:
  length = config.data.max_length or model.context_length
  if not 1 < length <= model.context_length:
    raise InputError(
      f"data.max_length={length}, expected 2 to {model.context_length}, the network's context.",
      "Set --config.data.max_length=0 for the whole context.",
    )
  return length
