"""PyTorch state dicts as NumPy arrays, imported and exported without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from bcos_jax import models
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Preprocess
from bcos_jax.io.bundles import Bundle, make_bundle
from bcos_jax.ops import Ops, StandardOps
from bcos_jax.variables import abstract_variables

from .keys import Keys, tables_of
from .rules import Rule, Table, export, matcher, parse, port


def from_state_dict(
  state_dict: Mapping[str, np.ndarray],
  architecture: str,
  source: str | None = None,
  *,
  ops: Ops | None = None,
  fields: Mapping[str, Any] | None = None,
  labels: Sequence[str] = (),
  preprocess: Preprocess | None = None,
) -> Bundle:
  """Turns a PyTorch state dict into a network that computes the same function.

  Args:
    state_dict: Key -> NumPy array.
    architecture: A name of `bcos_jax.names()`. The number of classes is read off the head.
    source: Whose keys these are, as named in `Keys`; None finds out.
    ops: Replaces the family of the source, e.g. for another input encoding.
    fields: Replaces fields of the architecture, as for `bcos_jax.create`.
    labels: Names of the classes.
    preprocess: How the evaluation of the network reads pictures.

  Returns:
    A bundle; tensors that Flax has no use for are in its `extras`.

  Raises:
    InputError: Unknown architecture or source, or any key or shape that does not fit.
  """
  state = {key: np.asarray(tensor) for key, tensor in state_dict.items()}
  keys, model = fit(state, architecture, source, ops=ops, fields=fields)
  wanted = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  leaves, skipped = port(state, keys.table, wanted)
  return make_bundle(
    model,
    traverse_util.unflatten_dict(leaves, sep="/"),
    preprocess=preprocess,
    labels=labels,
    provenance={"source": keys.source, **({"layout": keys.layout} if keys.layout else {})},
    extras=skipped,
  )


def fit(
  state: Mapping[str, Any],
  architecture: str,
  source: str | None = None,
  *,
  ops: Ops | None = None,
  fields: Mapping[str, Any] | None = None,
) -> tuple[Keys, nn.Module]:
  """Returns the table that explains most keys, and the network that it fills.

  Args:
    state: Key -> anything with a shape.
    architecture: A name of `bcos_jax.names()`.
    source: Whose keys these are; None finds out.
    ops: Replaces the family of the source.
    fields: Replaces fields of the architecture; classes not named are read off the head.

  Raises:
    InputError: Unknown architecture or source.
  """
  fields = {name: tuple(v) if isinstance(v, list) else v for name, v in (fields or {}).items()}
  like = models.create(architecture, ops=StandardOps(), **fields)
  leaves = functools.cache(lambda ops: _leaves(architecture, ops, fields))
  keys = _best(state, keys_of(like, source), leaves)
  fields = {**num_classes(state, keys.table, like.head), **fields}
  return keys, models.create(architecture, ops=keys.ops if ops is None else ops, **fields)


def to_state_dict(bundle: Bundle, source: str | None = None) -> dict[str, np.ndarray]:
  """Returns the state dict that `from_state_dict` would turn into this network.

  Args:
    bundle: The network.
    source: Whose keys to write; None writes those that it came from.

  Raises:
    InputError: The source has no keys for this architecture and family, or none is known.
  """
  source = bundle.config["provenance"].get("source") if source is None else source
  family = type(bundle.model.ops)
  if source is None:
    # A guess could mistake unit-norm weights for plain ones: the keys are the same.
    known = sorted({keys.source for keys in keys_of(bundle.model, None)})
    raise InputError(
      "The bundle does not record the source of its keys.",
      f"Pass source=, one of {', '.join(map(repr, known))}.",
    )
  fitting = [
    keys
    for keys in keys_of(bundle.model, source)
    if type(keys.ops) is family and _same_weights(keys.ops, bundle.model.ops)
  ]
  if fitting:
    leaves = traverse_util.flatten_dict(jax.device_get(dict(bundle.variables)), sep="/")
    keys = _layout(fitting, leaves, bundle.config["provenance"].get("layout"))
    return export(leaves, keys.table, bundle.extras)
  raise InputError(
    f"{source!r} has no keys for a {family.__name__} network.", "Choose another source."
  )


def _layout(fitting: Sequence[Keys], leaves: Mapping[str, Any], layout: str | None) -> Keys:
  """Returns the layout that was read, else the one that writes most of the leaves."""
  read = [keys for keys in fitting if layout and keys.layout == layout]
  return read[0] if read else max(fitting, key=lambda keys: _written(keys, leaves))


def _same_weights(a: Ops, b: Ops) -> bool:
  """Whether two families of one type compute the same function from the same kernels."""
  fields = ("weights", "max_out", "keep_activations")
  return all(getattr(a, name, None) == getattr(b, name, None) for name in fields)


def keys_of(model: nn.Module, source: str | None) -> list[Keys]:
  """Returns the tables that fit a network, of one source or of all.

  Raises:
    InputError: No table fits the network, or the source has none for its architecture.
  """
  cls = type(model)
  candidates = tables_of(models.architecture_of(model))
  sources = {keys.source for keys in candidates}
  if source is not None and source not in sources:
    raise unknown_name(f"source of a {cls.__name__}", source, sources)
  fitting = [keys for keys in candidates if source in (None, keys.source) and keys.fits(model)]
  if not fitting:
    raise InputError(
      f"No table of keys fits a {cls.__name__} with the fields of this one.",
      "Convert a published variant, or register a table for these fields.",
    )
  return fitting


def _best(
  state: Mapping[str, Any], candidates: Sequence[Keys], leaves: Callable[[Ops], Mapping[str, Any]]
) -> Keys:
  """Returns the table that explains most keys: the others would report more problems.

  Where several do, the shapes of the keys and then the leaves of the network decide.
  """

  def explained(keys: Keys) -> tuple[int, int]:
    known = fitting = 0
    matching = matcher(keys.table)
    for key, tensor in state.items():
      entries = [entry for entry, _, _ in matching(key)]
      ranks = [e.layout.rank if isinstance(e, Rule) else None for e in entries]
      known += bool(entries)
      fitting += any(rank in (None, len(tensor.shape)) for rank in ranks)
    return known, fitting

  scores = [explained(keys) for keys in candidates]
  best = [keys for keys, score in zip(candidates, scores, strict=True) if score == max(scores)]
  if len(best) == 1:
    return best[0]
  return max(best, key=lambda keys: _written(keys, leaves(keys.ops)))


def _written(keys: Keys, leaves: Mapping[str, Any]) -> int:
  """Returns how many of the leaves a table writes."""
  templates = [t for entry in keys.table if isinstance(entry, Rule) for t in entry.targets]
  return sum(any(parse(template, path) is not None for template in templates) for path in leaves)


def _leaves(architecture: str, ops: Ops, fields: Mapping[str, Any] | None) -> Mapping[str, Any]:
  model = models.create(architecture, ops=ops, **(fields or {}))
  return traverse_util.flatten_dict(abstract_variables(model), sep="/")


def explained(state: Mapping[str, Any], keys: Keys) -> int:
  """Returns how many keys a table has an entry for."""
  matching = matcher(keys.table)
  return sum(bool(matching(key)) for key in state)


def num_classes(state: Mapping[str, Any], table: Table, head: str) -> dict[str, int]:
  """Returns the field `num_classes` as the tensors of the head tell it, if they do."""
  for entry in table:
    if isinstance(entry, Rule) and entry.target == f"params/{head}/kernel":
      tensor = state.get(entry.source)
      return {} if tensor is None or tensor.ndim < 2 else {"num_classes": int(tensor.shape[0])}
  return {}
