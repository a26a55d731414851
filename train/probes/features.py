"""Cached features of a data set by a frozen network, computed on any number of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any
from urllib import parse

from flax import traverse_util
import flax.linen as nn
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

from bcos_jax import models, ops
from bcos_jax.errors import InputError
from bcos_jax.variables import graft, surplus

from .. import hosts, sharding
from ..data import pipeline
from . import feature_files
from .feature_files import Rows

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
  """Features of N examples.

  Attributes:
    values: float32 [N, D]; mapped from the file where they are kept in one.
    labels: Class numbers, int32 [N].
    examples: Their numbers in the data set, int64 [N], rising. Those that could not be read are
      not among them.
    label_names: Names of the classes.
    about: What they are of: the data set, its size, the network's digest and so on.
  """

  values: np.ndarray
  labels: np.ndarray
  examples: np.ndarray
  label_names: tuple[str, ...]
  about: Mapping[str, Any]

  def __len__(self) -> int:
    return len(self.values)

  @property
  def name(self) -> str:
    """The data set's, for messages."""
    return self.about["data"]

  @property
  def damaged(self) -> int:
    """Number of examples that could not be read."""
    return self.about["examples"] - len(self)


def headless(model: nn.Module, variables: Any) -> tuple[nn.Module, Any]:
  """Returns the network that computes the features, and its part of the variables.

  Features are the input of a head after the pooling. So a network of `head_first` order is taken
  in `pool_first` order: where a norm or a map is between the last block and the head (ConvNeXt,
  SimpleViT, VGG), it is applied to the mean.

  Args:
    model: An image network, with or without classes.
    variables: Its variables; leaves are shared, those of the head left out.

  Raises:
    InputError: The network reads no images, or does not return one vector per image, or the
      variables are not its own.
  """
  encoding = getattr(model.ops, "encoding", None)
  if encoding is None or not np.issubdtype(model.input_spec.dtype, np.floating):
    raise InputError(
      f"{type(model).__name__} has no features of images: it reads token ids.",
      "Give an image network.",
    )
  headed, model = model, model.with_classes(0).clone(ops=model.ops.pool_first())
  head = (f"^[^/]+/{model.head}/",) if model.head else ()
  variables = graft(model, variables, (*surplus(headed, model), *head))
  shape = jax.eval_shape(model.apply, variables, model.input_spec).shape
  if len(shape) != 2:
    raise InputError(
      f"{models.describe(model)[0]} returns {list(shape)} for one image, expected [1, features].",
      "Give a network that pools, such as pooling='attention' of CLIP's ResNets.",
    )
  return model, variables


def digest(model: nn.Module, variables: Any) -> str:
  """Returns 16 hexadecimal digits of architecture, layer family and weights, without the head."""
  model, variables = headless(model, variables)
  name, fields = models.describe(model.clone(variant=""))  # aliases have the same features
  family = _as_first_written(ops.to_dict(model.ops))
  hashed = hashlib.sha256(json.dumps([name, fields, family], default=str).encode())
  for path, leaf in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
    array = np.asarray(hosts.to_host(leaf), order="C")
    hashed.update(f"{path} {array.dtype} {array.shape}".encode())
    hashed.update(array.reshape(-1).view(np.uint8).data)
  return hashed.hexdigest()[:16]


def _as_first_written(family: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a family's fields by the names of 0.1.0, so that features kept since are found."""
  fields: dict[str, Any] = {}
  for name, value in family.items():
    if name == "weights":
      fields |= {"unit_norm": value == "unit", "cosine_of_weights": value == "cosine"}
    else:
      fields[name] = value
  return fields


def extract(
  model: nn.Module,
  variables: Any,
  examples: pipeline.Examples,
  *,
  folder: str | os.PathLike | None = None,
  batch_size: int = 256,
  workers: int = 0,
  mesh: Mesh | None = None,
  progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Features:
  """Returns the features of every example of a data set, each exactly once, in order.

  Nothing is dropped. (ALOE's published loader drops the last, smaller batch: at 256 a batch, 80
  of ImageNet's 50,000 validation pictures.) Computed in the network's `ops.dtype`, float32 at the
  highest precision if it has none; published probes run under bfloat16 autocast.

  Args:
    model: See `headless`.
    variables: Its variables.
    examples: Examples prepared by a `Preprocess`. With `skip_damaged`, pictures that cannot be
      read are left out, and counted.
    folder: Where features are kept, a folder per data set and split within. What is there is
      reused if it is of the same network, data set, preprocessing and compute dtype; pictures are
      not compared, only their number and, where known, labels. None keeps them in memory only.
      With several processes it must be a folder that all of them see.
    batch_size: Images at a time on all devices together; rounded up to a multiple of them, and no
      more than there are.
    workers: Decoding processes; 0 decodes in threads.
    mesh: Defaults to all devices.
    progress: Wraps the loop over batches, such as `tqdm.tqdm`.

  Raises:
    InputError: Pictures have several labels; the network has no features; a feature is not
      finite, naming the example; the folder holds other features, or cannot be written.
  """
  if examples.dataset.multi_label:
    raise InputError(
      f"Pictures of {examples.dataset.name} may have several labels; probes expect one each.",
      "Fine-tune on them instead: bcos-jax train --config=finetune.",
    )
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1}) if mesh is None else mesh
  about = _about(model, variables, examples)
  names, place = examples.dataset.label_names, None
  if folder is not None:
    place = pathlib.Path(folder) / parse.quote(examples.dataset.name, safe=" :,=+[]")
    if place.exists():
      return Features(label_names=names, about=about, **feature_files.read(place, about))
  rows = _rows(*headless(model, variables), examples, batch_size, workers, mesh, progress)
  if place is None:
    arrays = map(np.concatenate, zip(*rows, strict=True))
    arrays = dict(zip(feature_files.ARRAYS, arrays, strict=True))
    return Features(label_names=names, about=about, **arrays)
  if jax.process_index() == 0:
    feature_files.write(place, about, rows)
  else:
    for _ in rows:  # Takes part in computing them.
      pass
  hosts.wait_for_all("the features")
  return Features(label_names=names, about=about, **feature_files.read(place, about))


def check(features: Features) -> None:
  """Raises InputError if there are none or one is not finite, and names the first such example."""
  if not len(features):
    raise InputError(f"{features.name} has no features.", "Give at least one readable picture.")
  for start in range(0, len(features), 8192):
    _check_finite(
      features.values[start : start + 8192], features.examples[start : start + 8192], features.name
    )


def check_pair(train: Features, test: Features) -> None:
  """Checks what is trained on and what is tested on.

  Raises:
    InputError: See `check`; or they are of different networks or classes.
  """
  for features in (train, test):
    check(features)
  for key, first, second in (
    ("network", train.about.get("network"), test.about.get("network")),
    ("classes", train.label_names, test.label_names),
    ("width", train.values.shape[1], test.values.shape[1]),
  ):
    if first != second:
      raise InputError(
        f"The features of {train.name} and {test.name} differ in their {key}: {first} and "
        f"{second}.",
        "Give two splits of one data set, by one network.",
      )


def _check_finite(values: np.ndarray, examples: np.ndarray, name: str) -> None:
  bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
  if len(bad):
    raise InputError(
      f"The features of example {examples[bad[0]]} of {name} are not finite.",
      "Look for NaN in the network's weights, or use float32: ops.dtype=None.",
    )


def _about(model: nn.Module, variables: Any, examples: pipeline.Examples) -> dict[str, Any]:
  labels = examples.dataset.labels
  about = {
    "format": FORMAT,
    "network": digest(model, variables),
    "data": examples.dataset.name,
    "examples": len(examples),
    "labels": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()[:16],
    "classes": list(examples.dataset.label_names),
    "preprocess": dataclasses.asdict(examples.preprocess),
    "damaged": "skip" if examples.skip_damaged else "fail",
    "dtype": model.ops.dtype or "float32",
  }
  return json.loads(json.dumps(about))


def _rows(
  model: nn.Module,
  variables: Any,
  examples: pipeline.Examples,
  batch_size: int,
  workers: int,
  mesh: Mesh,
  progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> Iterator[Rows]:
  """Yields the readable examples of batch after batch, the same in every process."""
  divisor, count = sharding.batch_divisor(mesh), jax.process_count()
  size = pipeline.batch_of(examples, model, batch_size, divisor)
  batches = pipeline.eval_batches(
    examples,
    batch_size=size,
    workers=workers,
    process_index=jax.process_index(),
    process_count=count,
  )
  variables, pending = sharding.replicate(variables, mesh), []

  @jax.jit
  def compute(variables, images):
    with sharding.images_stay_apart(mesh, len(images)):
      result: Any = model.apply(variables, model.ops.encoding(images), train=False)
      return result

  with contextlib.closing(iter(batches)) as iterator, jax.default_matmul_precision("highest"):
    for i, batch in enumerate(progress(iterator)):
      del batch["damaged"]
      batch["examples"] = np.arange(i * size + jax.process_index(), (i + 1) * size, count)
      batch = sharding.put_batch(batch, mesh)
      pending.append({**batch, "values": compute(variables, batch.pop("image"))})
      if len(pending) > 1:  # One batch late, so that the device never waits for the host.
        yield _readable(pending.pop(0), examples.dataset.name)
  for batch in pending:
    yield _readable(batch, examples.dataset.name)


def _readable(batch: Mapping[str, jax.Array], name: str) -> Rows:
  """Returns a batch on the host, in the data set's order, without what only fills it up."""
  whole: Any = multihost_utils.process_allgather(dict(batch), tiled=True)
  order = np.argsort(whole["examples"], kind="stable")
  order = order[whole["mask"][order] > 0]
  values, labels, examples = (whole[key][order] for key in ("values", "label", "examples"))
  _check_finite(values, examples, name)
  return values.astype(np.float32), labels.astype(np.int32), examples.astype(np.int64)
