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

from .porting import export, port, wanted
from .sizes import colored
from .tables.keys import Keys, tables_of
from .tables.rules import Rule, Table, matcher
from .tables.templates import parse


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
    source: Layout of the keys, such as 'torchvision'; None finds out.
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
  leaves, skipped = port(state, keys.table, wanted(model))
  return make_bundle(
    model,
    traverse_util.unflatten_dict(leaves, sep="/"),
    preprocess=preprocess,
    labels=labels,
    provenance=provenance_of(keys),
    extras=skipped,
  )


def fit(
  state: Mapping[str, Any],
  architecture: str,
  layout: str | None = None,
  *,
  ops: Ops | None = None,
  fields: Mapping[str, Any] | None = None,
) -> tuple[Keys, nn.Module]:
  """Returns the table that explains most keys, and the network that it fills.

  Args:
    state: Key -> anything with a shape.
    architecture: A name of `bcos_jax.names()`.
    layout: How the keys are named; None finds out.
    ops: Replaces the family of the layout.
    fields: Replaces fields of the architecture; classes not named are read off the head.

  Raises:
    InputError: Unknown architecture or layout.
  """
  fields = {name: tuple(v) if isinstance(v, list) else v for name, v in (fields or {}).items()}
  like = models.create(architecture, ops=StandardOps(), **fields)
  leaves = functools.cache(lambda ops: _leaves(architecture, ops, fields))
  keys = _best(state, keys_of(like, layout), leaves)
  fields = {**num_classes(state, keys.table, like.head), **fields}
  model = models.create(architecture, ops=keys.ops if ops is None else ops, **fields)
  return keys, model if ops is not None else model.clone(ops=colored(state, keys.table, model))


def to_state_dict(bundle: Bundle, source: str | None = None) -> dict[str, np.ndarray]:
  """Returns the state dict that `from_state_dict` would turn into this network.

  Args:
    bundle: The network.
    source: Layout of the keys to write; None writes those that it came from.

  Raises:
    InputError: The layout has no keys for this architecture and family, or none is known.
  """
  read, form = _recorded(bundle)
  layout, family = source or read, type(bundle.model.ops)
  if layout is None:
    # A guess could mistake unit-norm weights for plain ones: the keys are the same.
    known = sorted({keys.layout for keys in keys_of(bundle.model, None)})
    raise InputError(
      "The bundle does not record the layout of its keys.",
      f"Pass source=, one of {', '.join(map(repr, known))}.",
    )
  fitting = [
    keys
    for keys in keys_of(bundle.model, layout)
    if type(keys.ops) is family and _same_weights(keys.ops, bundle.model.ops)
  ]
  if fitting:
    held = jax.device_get(dict(bundle.variables))
    leaves: dict[str, Any] = traverse_util.flatten_dict(held, sep="/")
    chosen = _of_form(fitting, leaves, form)
    left = _left(chosen, leaves)
    if left:
      more = f" and {len(left) - 1} more" if len(left) > 1 else ""
      raise InputError(
        f"The layout {layout!r} has no place for {left[0]!r}{more}.", _that_work(bundle, leaves)
      )
    return export(leaves, chosen.table, bundle.extras)
  raise InputError(
    f"The layout {layout!r} has no keys for a {family.__name__} network of this architecture.",
    _that_work(bundle, {}),
  )


def _that_work(bundle: Bundle, leaves: Mapping[str, Any]) -> str:
  """Names the layouts that hold a network, with these leaves."""
  works = {
    keys.layout
    for keys in keys_of(bundle.model, None)
    if type(keys.ops) is type(bundle.model.ops)
    and _same_weights(keys.ops, bundle.model.ops)
    and not _left(keys, leaves)
  }
  if not works:
    return "None works; --to=orbax does."
  return f"Layouts that work: {', '.join(sorted(works))}."


def _left(keys: Keys, leaves: Mapping[str, Any]) -> list[str]:
  """Returns the leaves that no rule of a table writes."""
  templates = [
    template for rule in keys.table if isinstance(rule, Rule) for template in rule.targets
  ]
  return [path for path in leaves if all(parse(one, path) is None for one in templates)]


def provenance_of(keys: Keys) -> dict[str, str]:
  """Returns what bundles record of a table; their files call the layout source, the form layout."""
  return {"source": keys.layout, **({"layout": keys.form} if keys.form else {})}


def _recorded(bundle: Bundle) -> tuple[str | None, str | None]:
  """Returns the layout and the form that a bundle was read from; the inverse of the above."""
  about = bundle.config["provenance"]
  return about.get("source"), about.get("layout")


def _of_form(fitting: Sequence[Keys], leaves: Mapping[str, Any], form: str | None) -> Keys:
  """Returns the table that was read, else the one that writes most of the leaves."""
  read = [keys for keys in fitting if form and keys.form == form]
  return read[0] if read else max(fitting, key=lambda keys: _written(keys, leaves))


def _same_weights(a: Ops, b: Ops) -> bool:
  """Whether two families of one type compute the same function from the same kernels."""
  fields = ("weights", "max_out", "keep_activations")
  return all(getattr(a, name, None) == getattr(b, name, None) for name in fields)


def keys_of(model: nn.Module, layout: str | None) -> list[Keys]:
  """Returns the tables that fit a network, of one layout or of all.

  Raises:
    InputError: No table fits the network, or the layout has none for its architecture.
  """
  cls = type(model)
  candidates = tables_of(models.architecture_of(model))
  layouts = {keys.layout for keys in candidates}
  if layout is not None and layout not in layouts:
    raise unknown_name(f"layout of a {cls.__name__}", layout, layouts)
  fitting = [
    keys.of(model) for keys in candidates if layout in (None, keys.layout) and keys.fits(model)
  ]
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
      ranks = [e.axes.rank if isinstance(e, Rule) else None for e in entries]
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
  return len(leaves) - len(_left(keys, leaves))


def _leaves(architecture: str, ops: Ops, fields: Mapping[str, Any] | None) -> Mapping[str, Any]:
  model = models.create(architecture, ops=ops, **(fields or {}))
  wanted: dict[str, Any] = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  return wanted


def explained(state: Mapping[str, Any], keys: Keys) -> int:
  """Returns how many keys a table has an entry for."""
  matching = matcher(keys.table)
  return sum(bool(matching(key)) for key in state)


def num_classes(state: Mapping[str, Any], table: Table, head: str) -> dict[str, int]:
  """Returns the field `num_classes` as the tensors of the head tell it, if they do."""
  for entry in table:
    if isinstance(entry, Rule) and entry.target == f"params/{head}/kernel":
      tensor = state.get(str(entry.source))
      return {} if tensor is None or tensor.ndim < 2 else {"num_classes": int(tensor.shape[0])}
  return {}
