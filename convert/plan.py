"""Plans of conversions: what a checkpoint is, what each key becomes, and the tensors."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from flax import linen as nn
from flax import traverse_util

from bcos_jax import models
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Encoding
from bcos_jax.io.bundles import Bundle, make_bundle
from bcos_jax.ops import Ops, StandardOps

from . import imagenet, sizes, stated
from .detect import detect, unprefixed
from .files import vocabulary
from .heads import check_classes, fields_for_classes, headed
from .porting import fitted, lazy_port, port, wanted
from .readers import Described, describe, open_clip
from .sources import Checkpoint, Tensors, open_checkpoint, tokenizer_files
from .state_dict import fit, keys_of, provenance_of
from .tables.keys import Keys
from .tables.rules import Rule
from .tables.templates import parse, render
from .tensors import Progress, dtype_notes, initial_leaves, prepared

DTYPES = ("float32", "bfloat16", "float16", "source")


@dataclasses.dataclass(frozen=True)
class Row:
  """What happens to one group of source keys.

  Attributes:
    sources: The keys.
    targets: The Flax paths that they fill.
    template: The entry of the table that says so, as text.
    shapes: Of the sources.
    parameters: Numbers in the targets.
    nbytes: Bytes of the targets.
    skipped: Why the keys are left out; '' if they are not.
  """

  sources: tuple[str, ...]
  targets: tuple[str, ...]
  template: tuple[str, str]
  shapes: tuple[tuple[int, ...], ...]
  parameters: int = 0
  nbytes: int = 0
  skipped: str = ""


@dataclasses.dataclass(frozen=True)
class ConversionPlan:
  """A conversion that fits: every key accounted for, no tensor read yet.

  Attributes:
    checkpoint: The source.
    state: The keys as the table names them.
    keys: The table.
    model: The network to fill.
    described: The content of the files beside the weights.
    rows: What happens to each key.
    notes: Notes to the user about the choices made.
    keep_dtypes: Whether the tensors keep the dtypes of the source.
  """

  checkpoint: Checkpoint
  state: Tensors
  keys: Keys
  model: nn.Module
  described: Described
  rows: tuple[Row, ...]
  notes: tuple[str, ...]
  keep_dtypes: bool

  @property
  def new_head(self) -> bool:
    """Whether the head is reinitialised instead of coming from the source."""
    filled = {path for row in self.rows for path in row.targets}
    return any(path not in filled for path in wanted(self.model))

  def bundle(
    self,
    *,
    allow_nonfinite: bool = False,
    seed: int = 0,
    progress: Progress = lambda _: None,
    lazy: bool = False,
  ) -> Bundle:
    """Reads every tensor once and returns the network.

    Args:
      allow_nonfinite: Takes weights that are NaN or infinite.
      seed: Of a new head.
      progress: Called with the bytes of each tensor once it was read.
      lazy: Leaves the variables in the source, as `LazyTensor`, for a writer that takes one at a
        time; they are checked as they are read.

    Raises:
      InputError: A tensor is damaged, or has values that are not finite.
    """
    leaves = wanted(self.model)
    filled = {path for row in self.rows for path in row.targets}
    state = dict(self.state)
    for row in self.rows:
      for key in row.sources if row.targets else ():
        target = None if self.keep_dtypes else leaves[row.targets[0]].dtype
        state[key] = prepared(key, state[key], target, allow_nonfinite, progress)
    ported = lazy_port if lazy else port
    made, extras = ported(state, self.keys.table, {path: leaves[path] for path in filled})
    made |= initial_leaves(self.model, leaves.keys() - filled, seed)
    return make_bundle(
      self.model,
      traverse_util.unflatten_dict(made, sep="/"),
      preprocess=None if self.described.reading is None else self.described.reading.preprocess,
      labels=self._labels(),
      provenance=self._provenance(),
      extras=extras,
      tokenizer=self._tokenizer(),
    )

  def _tokenizer(self) -> dict[str, bytes]:
    if not models.is_language_model(self.model):
      return {}
    files = tokenizer_files(self.checkpoint.folder)
    vocabulary.check(files, self.model.vocab_size)
    return files

  def _labels(self) -> tuple[str, ...]:
    labels = self.described.labels
    return labels if len(labels) == self.model.num_classes else ()

  def _provenance(self) -> dict[str, Any]:
    about: dict[str, Any] = {**provenance_of(self.keys), "origin": self.checkpoint.origin}
    if self.checkpoint.config is not None:
      about["source_config"] = self.checkpoint.config
    if self.checkpoint.preprocessor is not None:
      about["source_preprocessor"] = self.checkpoint.preprocessor
    if self.checkpoint.repository:
      about["repository"] = self.checkpoint.repository
    if self.new_head:
      about["new_head"] = True
    return about


def from_pretrained(
  source: str | os.PathLike,
  architecture: str | None = None,
  *,
  layout: str | None = None,
  dtype: str | None = None,
  num_classes: int | None = None,
  ema: bool = False,
  download: bool = False,
  default_preprocess: bool = False,
  image_size: int | str | tuple[int, int] | None = None,
  prefix: str | None = None,
  labels: bool = True,
  allow_nonfinite: bool = False,
) -> Bundle:
  """Reads a network from a checkpoint file, a folder or the Hugging Face hub.

  Args:
    source: A file, a folder, or a hub id `owner/name`.
    architecture: A name of `bcos_jax.names()`; None takes it from the configuration, or from the
      keys where only one fits.
    layout: How the checkpoint names its tensors, such as 'torchvision'; None finds out.
    dtype: 'float32' (also where None), 'bfloat16', 'float16', or 'source', which keeps each
      tensor's own.
    num_classes: Puts a new head of so many classes where the source has another number.
    ema: Takes the averaged weights of a training checkpoint.
    download: Fetches a hub id that is not in the cache.
    default_preprocess: Takes the architecture's preprocessing, not the source's.
    image_size: Side of the images in pixels, or height and width; None takes it from the
      configuration, or from the table of positions where that is the one of a square.
    prefix: Taken off the keys; those without it are left out. None finds one that all share.
    labels: Whether classes get names: the source's own, or those of ImageNet-1k.
    allow_nonfinite: Takes weights that are NaN or infinite.

  Returns:
    A bundle, as `bcos_jax.load` gives.

  Raises:
    InputError: The source cannot be read, or does not fit: all problems in one message.
  """
  made = plan(
    source,
    architecture,
    layout=layout,
    dtype=dtype,
    num_classes=num_classes,
    ema=ema,
    download=download,
    default_preprocess=default_preprocess,
    image_size=image_size,
    prefix=prefix,
    labels=labels,
  )
  return made.bundle(allow_nonfinite=allow_nonfinite)


def plan(
  source: str | os.PathLike,
  architecture: str | None = None,
  *,
  layout: str | None = None,
  dtype: str | None = None,
  num_classes: int | None = None,
  ema: bool = False,
  download: bool = False,
  default_preprocess: bool = False,
  image_size: int | str | tuple[int, int] | None = None,
  prefix: str | None = None,
  labels: bool = True,
) -> ConversionPlan:
  """Finds out what a checkpoint is and what each key becomes; arguments as `from_pretrained`.

  Raises:
    InputError: The source cannot be read, or does not fit: all problems in one message.
  """
  if dtype is not None and dtype not in DTYPES:
    raise unknown_name("dtype", dtype, DTYPES)
  check_classes(num_classes)
  checkpoint = open_checkpoint(
    source, ema=ema, download=download, prefix=prefix, named=architecture is not None
  )
  architecture, said = stated.settled(checkpoint, architecture)
  described = describe(checkpoint, architecture, default_preprocess=default_preprocess)
  layout = layout or described.layout
  state, notes = checkpoint.tensors, [*checkpoint.notes, *said]
  if (name := architecture or described.architecture) is None:
    found = detect(checkpoint, layout)
    state, name, layout = found.state, found.architecture, found.layout
    notes.append(found.note)
  else:
    described = _sized(described, name, image_size)
    fields = _fields(name, described)
    stated.check_depth(fields, checkpoint)
    like = models.create(name, ops=StandardOps(), **fields)
    state = unprefixed(state, keys_of(like, layout))
  longest, short = next(iter(checkpoint.tensors)), next(iter(state))
  notes += [f"without the prefix {longest.removesuffix(short)!r}"] * (longest != short)
  fields = fields_for_classes(
    models.architecture(name).module, _fields(name, described), num_classes
  )
  keys, model = fit(state, name, layout, fields=fields)
  told, about = sizes.of_tables(state, keys.table, model, "image_size" in described.fields)
  notes += about
  if told:
    keys, model = fit(state, name, keys.layout, fields={**fields, **told})
  described, about = _read_as(described, keys, model, checkpoint, default_preprocess)
  notes += about
  described, about = _named(described, keys, model, checkpoint, labels)
  notes += about
  model = model.clone(ops=_ops(model.ops, described, dtype))
  model, state, dropped, reinitialised = headed(state, keys, model, described, num_classes)
  rows = _rows(checkpoint, state, keys, model, dropped, reinitialised)
  notes += dtype_notes(state, dtype)
  return ConversionPlan(
    checkpoint, state, keys, model, described, rows, tuple(notes), keep_dtypes=dtype == "source"
  )


def _sized(described: Described, name: str, image_size: Any) -> Described:
  """Puts the image size that the user gave among the fields of the configuration."""
  size = sizes.parsed(image_size)
  if size is None:
    return described
  if "image_size" not in models.fields_of(models.architecture(name).module):
    raise InputError(f"{name!r} reads no images.", "Omit --image_size.")
  return dataclasses.replace(described, fields={**described.fields, "image_size": size})


def _named(
  described: Described, keys: Keys, model: nn.Module, checkpoint: Checkpoint, labels: bool
) -> tuple[Described, list[str]]:
  """Gives the classes of ImageNet-1k their names, and says so, where the source has named none."""
  if not labels:
    return dataclasses.replace(described, labels=()), []
  if described.labels or model.num_classes != imagenet.COUNT or model.reads != "images":
    return described, []
  stated = checkpoint.config is not None
  if keys.layout not in imagenet.LAYOUTS or (stated and not described.of_imagenet):
    return described, []
  note = (
    "the classes get the names of ImageNet-1k: "
    + (
      "the tag of the weights says so"
      if described.of_imagenet
      else f"all published networks of 1000 classes of the layout {keys.layout!r} have them"
    )
    + " (--no_labels leaves them out)"
  )
  return dataclasses.replace(described, labels=imagenet.names()), [note]


def _fields(name: str, described: Described) -> dict[str, Any]:
  """Returns the fields that the configuration replaces, with the side of its pictures."""
  fields = dict(described.fields)
  has_side = "image_size" in models.fields_of(models.architecture(name).module)
  if described.reading is not None and has_side and "image_size" not in fields:
    height, width = described.reading.preprocess.size
    fields["image_size"] = height if height == width else (height, width)
  return fields


def _read_as(
  described: Described,
  keys: Keys,
  model: nn.Module,
  checkpoint: Checkpoint,
  default_preprocess: bool,
) -> tuple[Described, list[str]]:
  """Settles how pictures are read, and reports it where the source does not state it."""
  notes = []
  if checkpoint.config is not None and described.named:
    notes.append(
      f"the architecture was given: {checkpoint.folder}'s configuration is not read for sizes, "
      "activations and epsilons"
    )
  if model.reads != "images" or described.reading is not None:
    return described, notes
  clip = keys.layout in ("openai_clip", "open_clip") and keys.form != "trunk"
  if clip and not default_preprocess:
    # The files of CLIP state nothing, and all were trained so.
    described = dataclasses.replace(described, reading=open_clip.reading({}, model.image_size))
    return described, [*notes, "pictures are read as by OpenAI's CLIP"]
  encoding = model.ops.encoding
  mean, std = (", ".join(f"{x:g}" for x in values) for values in (encoding.mean, encoding.std))
  notes.append(
    f"the source does not say how pictures are read: mean {mean}, deviation {std}, and the usual "
    "scaling and crop are assumed"
  )
  return described, notes


def _ops(ops: Ops, described: Described, dtype: str | None) -> Ops:
  """Returns the source's family with the mean, deviation and dtype of this network."""
  if (reading := described.reading) is not None:
    encoding = Encoding(reading.mean, reading.std, ops.encoding.pairing)
    ops = dataclasses.replace(ops, encoding=encoding)
  if dtype in ("bfloat16", "float16"):
    ops = dataclasses.replace(ops, param_dtype=dtype)
  return ops


def _rows(
  checkpoint: Checkpoint,
  state: Tensors,
  keys: Keys,
  model: nn.Module,
  dropped: dict[str, str],
  reinitialised: tuple[str, ...],
) -> tuple[Row, ...]:
  """Returns what happens to every key, once everything is sure to fit.

  Raises:
    InputError: Something does not: all problems in one message.
  """
  leaves = wanted(model)
  expected = {path: leaf for path, leaf in leaves.items() if not path.startswith(reinitialised)}
  groups, skipped = fitted(state, keys.table, expected)
  rows = []
  for (rule, numbers), names in groups.items():
    targets = tuple(render(template, dict(numbers)) for template in rule.targets)
    made = [leaves[path] for path in targets]
    rows.append(
      Row(
        tuple(names.values()),
        targets,
        (" + ".join(filter(None, rule.sources)), " + ".join(rule.targets)),
        tuple(tuple(state[key].shape) for key in names.values()),
        sum(leaf.size for leaf in made),
        sum(leaf.size * leaf.dtype.itemsize for leaf in made),
      )
    )
  for key in skipped:
    reason, template = _reason(key, keys)
    rows.append(Row((key,), (), (template, ""), (tuple(state[key].shape),), skipped=reason))
  for key, reason in {**checkpoint.dropped, **dropped}.items():
    rows.append(Row((key,), (), (re.sub(r"\d+", "{n}", key), ""), (), skipped=reason))
  return tuple(rows)


def _reason(key: str, keys: Keys) -> tuple[str, str]:
  entry = next(
    e for e in keys.table if not isinstance(e, Rule) and parse(e.source, key) is not None
  )
  return entry.reason, entry.source
