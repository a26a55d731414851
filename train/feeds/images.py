"""The feed of labelled pictures, cropped and augmented."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from bcos_jax import ops
from bcos_jax.batches import check_picture_batch, memory
from bcos_jax.calibration import chosen
from bcos_jax.errors import InputError
from bcos_jax.inputs import Preprocess

from ..data import Dataset, augment, open_splits, pipeline, with_label_noise
from ..data.mix import Mix
from ..monitor import watch
from .feed import Feed, Hook, Spec, check_classes


class PictureFeed(Feed):
  """Batches {"image": float32 [n, H, W, C] in [0, 1], "label": int32 [n] or float32 [n, C]}.

  Those of evaluations have "mask" float32 [n] as well, 0 on what fills up.
  """

  unit = "images"

  def __init__(self, config: ConfigDict, model: nn.Module, mesh: Mesh):
    super().__init__(config, model, mesh)
    data = config.data
    _check(data)
    preprocess = Preprocess(
      size=(data.image_size,) * 2,
      resize=data.resize,
      interpolation=data.interpolation,
      colors=model.ops.encoding.colors,
    )
    side = max(data.train_sizes, default=data.train_size or data.image_size)
    splits = _open(config, model)
    self._augmentation = augment.from_config(
      data.augment,
      preprocess
      if side == data.image_size
      else dataclasses.replace(preprocess, size=(side,) * 2, resize=0),
    )
    self._train_set, self._test_set = (
      pipeline.Examples(dataset, prepare, keep=data.cache, skip_damaged=data.damaged == "skip")
      for dataset, prepare in zip(splits, (self._augmentation.prepare, preprocess), strict=True)
    )
    mix = Mix(data.augment.mixup, data.augment.cutmix, model.num_classes)
    self._mix = mix if data.augment.mixup or data.augment.cutmix else None
    self.name, self.labels = splits[0].name, splits[0].label_names
    self.multi_label = splits[0].multi_label
    self.belongings = {"preprocess": preprocess}

  def __len__(self) -> int:
    return len(self._train_set)

  @property
  def _drawing(self) -> dict[str, Any]:
    data = self.config.data
    return {
      "batch_size": data.batch_size,
      "seed": self.config.seed,
      "repeats": data.augment.repeats,
      "balance": data.balance,
    }

  def batches(self, begin: int) -> pipeline.Batches:
    return pipeline.train_batches(
      self._train_set,
      self._augmentation,
      **self._drawing,
      mix=self._mix,
      start_step=begin,
      workers=self.config.data.workers,
      **self._processes,
    )

  def eval_batches(self) -> pipeline.Batches:
    return pipeline.eval_batches(
      self._test_set,
      batch_size=self.eval_batch_size,
      workers=self.config.data.workers,
      **self._processes,
    )

  def unlabelled(self, count: int) -> np.ndarray:
    data, preprocess = self.config.data, self._test_set.preprocess
    examples = pipeline.Examples(
      self._train_set.dataset, preprocess, skip_damaged=data.damaged == "skip"
    )
    rows = self._share(chosen(len(examples), count, self.config.seed))
    return np.stack([examples[row]["image"] for row in rows.tolist()])

  def examples_of(self, step: int) -> list[int]:
    return pipeline.order(self._train_set, **self._drawing, step=step - 1)

  def extend(self, extras_of):
    for examples in (self._train_set, self._test_set):
      examples.extras = dict(extras_of(examples.dataset))

  def sized(self, batch: dict[str, jax.Array], step: int) -> dict[str, jax.Array]:
    """Returns a batch at the size that its step draws, bilinear and anti-aliased."""
    sides = self.config.data.train_sizes
    if not sides:
      return batch
    side = int(np.random.default_rng((self.config.seed, step)).choice(sides))
    return batch | {"image": _resized(batch["image"], side)}

  def explanations(self, model, *, every, count, folder, writer) -> Hook:
    return watch.explanations(
      model, self._test_set, self.labels, every=every, count=count, folder=folder, writer=writer
    )


def check_pictures(config: ConfigDict, capacity: float | None = None) -> None:
  """Refuses batches that cannot be held: plain in the processes, encoded on the devices.

  Needs no network, whose pictures may be too large for it to be made. See `feeds.check_batches`.
  """
  capacity = memory() * jax.process_count() if capacity is None else capacity
  data, encoding = config.data, ops.from_dict(config.ops.to_dict()).encoding
  channels = encoding.colors + encoding.channels
  sides = (data.train_size or data.image_size, *data.train_sizes, config.model.get("image_size"))
  for kind, batch, side in (
    ("training ", "batch_size", max(side for side in sides if isinstance(side, int))),
    ("evaluation ", "eval_batch_size", data.image_size),
  ):
    fix = f"Set a smaller --config.data.{batch} or --config.data.image_size."
    check_picture_batch(
      getattr(data, batch), (side, side), channels, fix, kind=kind, capacity=capacity
    )


def picture_batch(config: ConfigDict, model: nn.Module) -> Spec:
  """Returns name -> (shape, dtype) of a training batch."""
  data = config.data
  side = data.train_size or data.image_size
  label = ((data.batch_size,), jnp.int32)
  if data.augment.mixup or data.augment.cutmix:
    label = ((data.batch_size, model.num_classes), jnp.float32)
  image = ((data.batch_size, side, side, model.ops.encoding.colors), jnp.float32)
  return {"image": image, "label": label}


@functools.partial(jax.jit, static_argnums=1)
def _resized(images: jax.Array, side: int) -> jax.Array:
  shape = (len(images), side, side, images.shape[-1])
  return jax.image.resize(images, shape, "linear", antialias=True)


def _open(config: ConfigDict, model: nn.Module) -> tuple[Dataset, Dataset]:
  """Opens the training and the evaluation split."""
  train_set, test_set = open_splits(config.data)
  splits = with_label_noise(train_set, config.data.label_noise, config.seed), test_set
  if config.objective.name == "supervised":
    for dataset in splits:
      if not dataset.label_names:
        raise InputError(
          f"The pictures of {dataset.name} have no labels, which this recipe learns.",
          "Set --config.data.unlabelled=False and give a folder per class, or take a teacher.",
        )
      check_classes(model, dataset.label_names, dataset.name)
  return splits


def _check(data: ConfigDict) -> None:
  if data.train_sizes and data.train_size:
    raise InputError(
      f"data.train_size={data.train_size} beside data.train_sizes="
      f"{tuple(data.train_sizes)}; expected one of them.",
      "Leave one out.",
    )
  if not all(isinstance(side, int) and side > 0 for side in data.train_sizes):
    raise InputError(
      f"data.train_sizes={tuple(data.train_sizes)}; expected sides in pixels.",
      "For example, set --config.data.train_sizes=(176,224).",
    )
  scale = tuple(data.augment.scale)
  if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
    raise InputError(
      f"data.augment.scale={scale}; expected a least and a largest share of the area.",
      "For example, set --config.data.augment.scale=(0.08,1.0).",
    )
