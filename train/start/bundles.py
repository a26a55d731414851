"""Networks of bundles: loading, replacing or removing the head, and B-cosification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import pathlib
import re
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax

import bcos_jax
from bcos_jax import ops
from bcos_jax.errors import InputError
from bcos_jax.io import bundles, hub
from bcos_jax.network import located
from bcos_jax.variables import abstract_variables, exactly, graft, surplus

Network = tuple[nn.Module, Any]


def open_bundle(init: str) -> bundles.Bundle:
  """Opens what `config.init` names: a bundle, or anything that `bcos_jax.load` reads.

  Raises:
    InputError: It cannot be read. Nothing is fetched: a hub id must be in the cache.
  """
  return bcos_jax.load(init)


def provenance_of(init: str) -> dict[str, Any]:
  """Returns what is known of the origin of the network that `config.init` names.

  A run that continues from its checkpoint needs it no more, so that it may be gone.
  """
  try:
    path = located(init)
  except InputError:
    return {"origin": init}
  if not bundles.has_bundle_config(path):
    return {"origin": init}
  return dict(bundles.without_weights(path).config["provenance"])


def fetch(sources: Iterable[str]) -> None:
  """Fetches those of the named networks that are ids of the hub into its cache.

  Raises:
    InputError: None is a hub id, so that there is nothing to fetch; or one cannot be fetched.
  """
  named = [source for source in sources if source]
  ids = [name for name in named if not pathlib.Path(name).exists() and hub.is_meant(name)]
  missing = [name for name in named if not pathlib.Path(name).exists() and name not in ids]
  if missing:
    raise hub.no_path(missing[0])
  if not ids:
    raise InputError(
      "--download would do nothing: the recipe starts from no repository of the hub"
      + (f", but from {', '.join(map(repr, named))}." if named else "."),
      "Leave out --download, or name one with --config.init=OWNER/NAME.",
    )
  for name in ids:
    hub.snapshot(name, download=True)


def finetuned(
  bundle: bundles.Bundle,
  family: ops.Ops,
  num_classes: int,
  key: jax.Array,
  fold_mean: bool = True,
  calibrate: int = 0,
) -> Network:
  """Returns a bundle's network with a new head, B-cosified if it is conventional.

  Args:
    bundle: Where to start.
    family: `BcosOps` B-cosify a conventional network; a B-cos network keeps its own. `StandardOps`
      leave a conventional network as it is.
    num_classes: Of the data.
    key: Of the new head.
    fold_mean: See `bcosify`.
    calibrate: As in the recipe; only checked.

  Returns:
    The model and its variables.

  Raises:
    InputError: The family would make a B-cos network conventional; or see `new_head`, `bcosified`.
  """
  model, variables = new_head(bundle.model, bundle.variables, num_classes, key)
  conventional = model.ops.conventional
  if conventional and not family.conventional:
    return bcosified(model, variables, family, fold_mean)
  check_folding(model, variables, fold_mean)
  check_calibrating(model, calibrate)
  if not conventional and family.conventional:
    raise InputError(
      "The bundle holds a B-cos network, the config has the ops 'standard'.",
      "Leave out --config.ops.family, or start from a conventional network.",
    )
  return model, variables


def bcosified(model: nn.Module, variables: Any, family: ops.Ops, fold_mean: bool = True) -> Network:
  """Returns the B-cos twin of a conventional network, see `bcosify`.

  Raises:
    InputError: `fold_mean` is False for a network without running means, where it does nothing.
  """
  check_folding(model, variables, fold_mean)
  return bcos_jax.bcosify(model, variables, ops=family, fold_mean=fold_mean)


def check_folding(model: nn.Module, variables: Any, fold_mean: bool) -> None:
  """Raises InputError where `fold_mean=False` does nothing: without means that could be folded."""
  conventional = model.ops.conventional
  if fold_mean or (conventional and variables.get("batch_stats")):
    return
  lacks = "no batch norm" if conventional else "the ops of a B-cos network already"
  raise InputError(
    f"fold_mean=False does nothing: the {type(model).__name__} has {lacks}.",
    "Leave out --config.fold_mean.",
  )


def check_calibrating(model: nn.Module, calibrate: int) -> None:
  """Raises InputError where `calibrate` does nothing: for a network that is not B-cosified."""
  if calibrate:
    kind = "stays conventional" if model.ops.conventional else "is a B-cos network already"
    raise InputError(
      f"calibrate={calibrate} does nothing: the {type(model).__name__} {kind}.",
      "Leave out --config.calibrate, or start from a conventional network with B-cos ops.",
    )


def check_redraw(redraw: Sequence[str], model: nn.Module, variables: Any) -> None:
  """Raises InputError for a pattern of `redraw` that no leaf of model or variables matches."""
  trees = abstract_variables(model), variables
  paths = {path for tree in trees for path in traverse_util.flatten_dict(tree, sep="/")}
  for pattern in redraw:
    if not any(re.search(pattern, path) for path in paths):
      raise InputError(
        f"redraw names {pattern!r}, which no variable matches.",
        f"Variables are named like {min(paths)!r}.",
      )


def new_head(model: nn.Module, variables: Any, num_classes: int, key: jax.Array) -> Network:
  """Returns a network for other classes: all as before, but every leaf of the head reinitialised.

  What belongs to the head is read off the shapes: it is what the number of classes changes.

  Args:
    model: Any architecture.
    variables: Its variables; not modified, leaves that stay are shared.
    num_classes: At least 1.
    key: Of the new leaves.

  Returns:
    The model and its variables.

  Raises:
    InputError: Another leaf does not fit.
  """
  new = model.with_classes(num_classes)
  wanted: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(new), sep="/")
  more = model.with_classes(num_classes + 1)
  other: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(more), sep="/")
  given: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  head = {path for path in wanted if wanted[path].shape != other[path].shape}
  # A network without a head has none of its leaves, independent of their shapes.
  head |= {path for path in wanted if path not in given and path.split("/")[1] == model.head}
  return new, graft(
    new,
    variables,
    exactly(head),
    key=key,
    whose="The variables, but for the head,",
    fix="Pass the variables of this model.",
  )


def without_head(model: nn.Module, variables: Any) -> Network:
  """Returns a network of features: as it is, or a classifier without its head.

  Raises:
    InputError: The architecture does not return features.
  """
  if not model.num_classes:
    return model, variables
  features = model.with_classes(0)
  return features, graft(
    features,
    variables,
    surplus(model, features),
    whose=f"The variables of a {type(model).__name__} with {model.num_classes} classes",
    fix="Give a network that was trained to return features.",
  )
