"""Conversion of checkpoints to bundles: identification, key mapping and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools
import os
import re
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from bcos_jax import models
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Encoding
from bcos_jax.io.bundles import Bundle, make_bundle
from bcos_jax.io.tensor_files import LazyTensor
from bcos_jax.ops import Ops, StandardOps
from bcos_jax.variables import abstract_variables, initial

from . import text_heads
from .keys import Keys, tables_of
from .readers import Described, describe, open_clip
from .rules import Rule, fitted, lazy_port, parse, port, render
from .sources import Checkpoint, Tensors, open_checkpoint, tokenizer_files
from .state_dict import explained, fit, keys_of, num_classes

DTYPES = ("float32", "bfloat16", "float16", "source")
_PREFIXES = ("", "model.", "model.model.")
Progress = Callable[[int], object]


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
class Plan:
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
        state[key] = _prepared(key, state[key], target, allow_nonfinite, progress)
    ported = lazy_port if lazy else port
    made, extras = ported(state, self.keys.table, {path: leaves[path] for path in filled})
    made |= _initial(self.model, leaves.keys() - filled, seed)
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
    return tokenizer_files(self.checkpoint.folder)

  def _labels(self) -> tuple[str, ...]:
    labels = self.described.labels
    return labels if len(labels) == self.model.num_classes else ()

  def _provenance(self) -> dict[str, Any]:
    about: dict[str, Any] = {"source": self.keys.source, "origin": self.checkpoint.origin}
    if self.keys.layout:
      about["layout"] = self.keys.layout
    if self.checkpoint.config is not None:
      about["source_config"] = self.checkpoint.config
    if self.new_head:
      about["new_head"] = True
    return about


def from_pretrained(
  source_path_or_id: str | os.PathLike,
  architecture: str | None = None,
  *,
  source: str | None = None,
  dtype: str | None = None,
  num_classes: int | None = None,
  ema: bool = False,
  download: bool = False,
  default_preprocess: bool = False,
  allow_nonfinite: bool = False,
) -> Bundle:
  """Reads a network from a checkpoint file, a folder or the Hugging Face hub.

  Args:
    source_path_or_id: A file, a folder, or a hub id `owner/name`.
    architecture: A name of `bcos_jax.names()`; None takes it from the configuration, or from the
      keys where only one fits.
    source: Whose keys these are, such as 'torchvision'; None finds out.
    dtype: 'float32' (also where None), 'bfloat16', 'float16', or 'source', which keeps each
      tensor's own.
    num_classes: Puts a new head of so many classes where the source has another number.
    ema: Takes the averaged weights of a training checkpoint.
    download: Fetches a hub id that is not in the cache.
    default_preprocess: Takes the architecture's preprocessing, not the source's.
    allow_nonfinite: Takes weights that are NaN or infinite.

  Returns:
    A bundle, as `bcos_jax.load` gives.

  Raises:
    InputError: The source cannot be read, or does not fit: all problems in one message.
  """
  made = plan(
    source_path_or_id,
    architecture,
    source=source,
    dtype=dtype,
    num_classes=num_classes,
    ema=ema,
    download=download,
    default_preprocess=default_preprocess,
  )
  return made.bundle(allow_nonfinite=allow_nonfinite)


def plan(
  source_path_or_id: str | os.PathLike,
  architecture: str | None = None,
  *,
  source: str | None = None,
  dtype: str | None = None,
  num_classes: int | None = None,
  ema: bool = False,
  download: bool = False,
  default_preprocess: bool = False,
) -> Plan:
  """Finds out what a checkpoint is and what each key becomes; arguments as `from_pretrained`.

  Raises:
    InputError: The source cannot be read, or does not fit: all problems in one message.
  """
  if dtype is not None and dtype not in DTYPES:
    raise unknown_name("dtype", dtype, DTYPES)
  checkpoint = open_checkpoint(source_path_or_id, ema=ema, download=download)
  described = describe(checkpoint, architecture, default_preprocess=default_preprocess)
  source = source or described.source
  state, notes = checkpoint.tensors, [*checkpoint.notes]
  name = architecture or described.architecture
  if name is None:
    state, name, source = _detect(checkpoint, source)
    notes.append(f"architecture {name!r}, found by its keys and shapes")
  else:
    like = models.create(name, ops=StandardOps(), **_fields(name, described))
    state = _unprefixed(state, keys_of(like, source))
  if len(next(iter(state))) != len(next(iter(checkpoint.tensors))):
    notes.append("without the prefix 'model.'")
  fields = text_heads.asked_for(_class(name), _fields(name, described), num_classes)
  keys, model = fit(state, name, source, fields=fields)
  described, about = _read_as(described, keys, model, checkpoint, default_preprocess)
  notes += about
  model = model.clone(ops=_ops(keys, described, dtype))
  model, state, dropped, anew = _headed(state, keys, model, described, num_classes)
  rows = _rows(checkpoint, state, keys, model, dropped, anew)
  notes += _dtype_notes(state, model, dtype)
  return Plan(
    checkpoint, state, keys, model, described, rows, tuple(notes), keep_dtypes=dtype == "source"
  )


@functools.lru_cache(maxsize=64)
def wanted(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes and dtypes of a model's leaves by path."""
  return traverse_util.flatten_dict(abstract_variables(model), sep="/")


def _class(name: str) -> type[nn.Module]:
  return type(models.create(name, ops=StandardOps()))


def _unprefixed(state: Tensors, candidates: list[Keys]) -> Tensors:
  """Takes off the `model.` of training frameworks, as far as the tables then explain more."""
  if not candidates:
    return state
  options = []
  for prefix in _PREFIXES:
    if all(key.startswith(prefix) for key in state):
      stripped = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
      count = max(explained(stripped, keys) for keys in candidates)
      options.append((count, -len(prefix), stripped))
  return max(options, key=lambda option: option[:2])[2]


def _detect(checkpoint: Checkpoint, source: str | None) -> tuple[Tensors, str, str]:
  """Finds the one architecture whose keys and shapes are those of the checkpoint."""
  found: dict[nn.Module, tuple[Tensors, str, str]] = {}
  for found_in in models.architectures():
    cls, tables = found_in.module, tables_of(found_in)
    candidates = [keys for keys in tables if source in (None, keys.source)]
    state = _unprefixed(checkpoint.tensors, candidates)
    for keys in candidates:
      if explained(state, keys) == len(state) and (fitting := _variants(state, keys, cls)):
        # Variants that differ in their names only are one.
        for name, model in fitting.items():
          found.setdefault(model, (state, name, keys.source))
        break  # further tables with these keys say nothing new
  names = [name for _, name, _ in found.values()]
  if len(names) == 1:
    return next(iter(found.values()))
  if names:
    raise InputError(
      f"The keys and shapes fit {len(names)} architectures: {', '.join(names)}.",
      "Choose one with --architecture.",
    )
  raise InputError(
    f"The keys and shapes of {checkpoint.origin!r} fit no architecture "
    f"({len(checkpoint.tensors)} keys, such as {next(iter(checkpoint.tensors))!r}).",
    "Pass the intended one as --architecture, to see what does not fit.",
  )


def _variants(state: Tensors, keys: Keys, cls: type[nn.Module]) -> dict[str, nn.Module]:
  """Returns the variants of an architecture that the keys fill."""
  fields = num_classes(state, keys.table, cls.head)
  named = {
    name: models.create(name, ops=keys.ops, **fields)
    for name in models.names()
    if _class(name) is cls
  }
  return {
    name: model for name, model in named.items() if keys.fits(model) and fits(state, keys, model)
  }


def fits(state: Tensors, keys: Keys, model: nn.Module) -> bool:
  """Whether the keys fill every leaf, each with its shape."""
  rules = [entry for entry in keys.table if isinstance(entry, Rule)]
  if all(None not in rule.sources and rule.layout.keeps_size for rule in rules):
    # Most variants are told apart by their size alone, without a list of what does not fit.
    templates = [template for rule in rules for template in rule.sources]
    held = [key for key in state if any(parse(t, key) is not None for t in templates)]
    if sum(state[key].size for key in held) != sum(leaf.size for leaf in wanted(model).values()):
      return False
  try:
    fitted(state, keys.table, wanted(model))
  except InputError:
    return False
  return True


def _fields(name: str, described: Described) -> dict[str, Any]:
  """Returns the fields that the configuration replaces, with the side of its pictures."""
  fields = dict(described.fields)
  has_side = "image_size" in {f.name for f in dataclasses.fields(_class(name))}
  if described.reading is not None and has_side and "image_size" not in fields:
    fields["image_size"] = described.reading.preprocess.size[0]
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
  if not hasattr(model, "image_size") or described.reading is not None:
    return described, notes
  clip = keys.source in ("openai_clip", "open_clip") and keys.layout != "trunk"
  if clip and not default_preprocess:
    # The files of CLIP state nothing, and all were trained so.
    described = dataclasses.replace(described, reading=open_clip.reading({}, model.image_size))
    return described, [*notes, "pictures are read as by OpenAI's CLIP"]
  encoding = keys.ops.encoding
  mean, std = (", ".join(f"{x:g}" for x in values) for values in (encoding.mean, encoding.std))
  notes.append(
    f"the source does not say how pictures are read: mean {mean}, deviation {std}, and the usual "
    "scaling and crop are assumed"
  )
  return described, notes


def _ops(keys: Keys, described: Described, dtype: str | None) -> Ops:
  """Returns the source's family with the mean, deviation and dtype of this network."""
  ops = keys.ops
  if (reading := described.reading) is not None:
    encoding = Encoding(reading.mean, reading.std, ops.encoding.pairing)
    ops = dataclasses.replace(ops, encoding=encoding)
  if dtype in ("bfloat16", "float16"):
    ops = dataclasses.replace(ops, param_dtype=dtype)
  return ops


def _headed(
  state: Tensors, keys: Keys, model: nn.Module, described: Described, classes: int | None
) -> tuple[nn.Module, Tensors, dict[str, str], tuple[str, ...]]:
  """Settles the number of classes: the source's own, or a new head where one is requested.

  Returns:
    The network, the keys that it uses, those that a new head replaces and why, and the beginnings
    of the paths that are reinitialised.
  """
  if "num_classes" not in {field.name for field in dataclasses.fields(model)}:
    if classes is not None:
      raise InputError(f"A {type(model).__name__} has no classes.", "Omit --num_classes.")
    return model, state, {}, ()
  head = f"params/{model.head}/"
  rules = [r for r in keys.table if isinstance(r, Rule) and r.targets[0].startswith(head)]
  templates = [template for rule in rules for template in rule.sources if template is not None]
  held = [key for key in state if any(parse(t, key) is not None for t in templates)]
  if classes is None and not held and (not rules or _is_headless(described)):
    return model.clone(num_classes=0), state, {}, ()
  rows = num_classes(state, keys.table, model.head).get("num_classes")
  if classes is None:
    if None not in (rows, described.num_labels) and rows != described.num_labels:
      raise InputError(
        f"The head has {rows} classes, the configuration names {described.num_labels}.",
        f"Give --num_classes {described.num_labels} for a new head, or correct config.json.",
      )
    return model, state, {}, ()
  if classes == rows:
    return model, state, {}, ()
  if classes < 1:
    raise InputError(
      f"num_classes is {classes}, expected at least 1.", "Pass the number of your classes."
    )
  reason = f"the head is reinitialised with {classes} classes"
  kept = {key: tensor for key, tensor in state.items() if key not in held}
  anew = text_heads.anew(model, kept, keys) or ((head,) if held else ())
  return model.clone(num_classes=classes), kept, dict.fromkeys(held, reason), anew


def _is_headless(described: Described) -> bool:
  """Whether a repository of features, without a classifier, was meant to be one."""
  return described.source == "huggingface"


def _rows(
  checkpoint: Checkpoint,
  state: Tensors,
  keys: Keys,
  model: nn.Module,
  dropped: dict[str, str],
  anew: tuple[str, ...],
) -> tuple[Row, ...]:
  """Returns what happens to every key, once everything is sure to fit.

  Raises:
    InputError: Something does not: all problems in one message.
  """
  leaves = wanted(model)
  expected = {path: leaf for path, leaf in leaves.items() if not path.startswith(anew)}
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


def _dtype_notes(state: Tensors, model: nn.Module, dtype: str | None) -> Iterator[str]:
  kinds = {str(tensor.dtype) for tensor in state.values() if "float" in str(tensor.dtype)}
  others = sorted(kinds - {dtype or "float32"})
  if others and dtype != "source":
    counts = ", ".join(f"{sum(str(t.dtype) == d for t in state.values())} {d}" for d in others)
    yield f"{counts} tensors become {dtype or 'float32'} (--dtype source keeps them)"


def _prepared(
  key: str, tensor: LazyTensor, dtype: Any, allow_nonfinite: bool, progress: Progress
) -> LazyTensor:
  """Returns a tensor that is checked and cast when it is read."""
  target = tensor.dtype if dtype is None else np.dtype(dtype)

  def read() -> np.ndarray:
    array = np.asarray(tensor)
    if not allow_nonfinite and (bad := _nonfinite(array)):
      raise InputError(
        f"{key!r} {list(array.shape)} has {bad} weights that are NaN or infinite.",
        "Use an earlier checkpoint; --allow_nonfinite converts it anyway.",
      )
    cast = array.astype(target, copy=False)
    if not allow_nonfinite and cast is not array and _nonfinite(cast):
      raise InputError(
        f"{key!r} has weights beyond the range of {target}.", "Choose --dtype float32."
      )
    progress(tensor.nbytes)
    return cast

  return LazyTensor(tensor.shape, target, read)


def _nonfinite(array: np.ndarray) -> int:
  """Returns how many numbers are NaN or infinite; a sum tells at once that none is."""
  with np.errstate(all="ignore"):
    if np.isfinite(np.sum(array, dtype=np.float64)):
      return 0
  return int(array.size - np.count_nonzero(np.isfinite(array)))


def _initial(model: nn.Module, paths: set[str], seed: int) -> dict[str, np.ndarray]:
  """Returns initial values of some leaves; what the others need is not computed."""
  leaves = initial(model, paths, jax.random.key(seed))
  return {path: np.asarray(leaf) for path, leaf in leaves.items()}
