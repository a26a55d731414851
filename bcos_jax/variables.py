"""Variables of models: their shapes without computing them, and those adopted from others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
import functools
import re
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from .errors import InputError


def abstract_variables(model: nn.Module) -> Any:
  """Returns the shapes and dtypes of a model's variables, without computing anything."""
  try:
    hash(model)
  except TypeError:  # a field is a list
    return _traced(model)
  # Containers of the caller's own, leaves of the cache.
  return jax.tree.map(lambda leaf: leaf, _remembered(model))


def _traced(model: nn.Module) -> Any:
  return jax.eval_shape(model.init, jax.random.key(0), model.input_spec)


# Tracing a large network takes seconds, and whoever makes and saves one needs its shapes often.
_remembered = functools.lru_cache(maxsize=256)(_traced)


def num_parameters(model: nn.Module) -> int:
  """Returns how many numbers a model learns."""
  return sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(model)["params"]))


def differences(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
  """Returns what is wrong with leaves by path: missing, unexpected, or of another shape."""
  problems = [f"{path} is missing" for path in sorted(wanted.keys() - given.keys())]
  problems += [f"{path} is unexpected" for path in sorted(given.keys() - wanted.keys())]
  return problems + [
    f"{path} has shape {tuple(given[path].shape)}, expected {wanted[path].shape}"
    for path in sorted(wanted.keys() & given.keys())
    if given[path].shape != wanted[path].shape
  ]


def graft(
  model: nn.Module,
  variables: Mapping[str, Any],
  redraw: Sequence[str] = (),
  *,
  key: jax.Array | None = None,
  whose: str = "The variables",
  fix: str = "Pass the variables of this network.",
) -> Any:
  """Returns variables for a model: those of another network, and new ones where `redraw` says so.

  Args:
    model: The network that adopts them.
    variables: Tree of arrays of the other network; not modified, and shared where adopted.
    redraw: Regular expressions that are searched for in paths such as "params/head/kernel". Leaves
      of the model that one matches are reinitialised, whether the other network has them or not;
      leaves of the other network that one matches and the model lacks are left out.
    key: Of the initial values; `jax.random.key(0)` if None.
    whose: Subject of the error message.
    fix: Its last sentence.

  Returns:
    A tree with exactly the model's leaves.

  Raises:
    InputError: Other leaves are missing, unexpected or of another shape: all of them are listed.
  """
  patterns = [re.compile(pattern) for pattern in redraw]

  def kept(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {
      path: leaf
      for path, leaf in leaves.items()
      if not any(pattern.search(path) for pattern in patterns)
    }

  wanted: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  adopted = kept(traverse_util.flatten_dict(variables, sep="/"))
  problems = differences(kept(wanted), adopted)
  if problems:
    raise InputError(f"{whose} do not fit {type(model).__name__}: {'; '.join(problems)}.", fix)
  new = initial(model, wanted.keys() - adopted.keys(), key)
  leaves = {path: adopted[path] if path in adopted else new[path] for path in wanted}
  return traverse_util.unflatten_dict(leaves, sep="/")


def initial(
  model: nn.Module, paths: Collection[str], key: jax.Array | None = None
) -> dict[str, jax.Array]:
  """Returns the initial values of some leaves by path; those of the others are not computed."""
  if not paths:
    return {}

  @jax.jit
  def draw(key: jax.Array) -> dict[str, jax.Array]:
    blank = jnp.zeros(model.input_spec.shape, model.input_spec.dtype)
    leaves: dict[str, Any] = traverse_util.flatten_dict(model.init(key, blank), sep="/")
    return {path: leaves[path] for path in paths}  # The compiler leaves the others out.

  return draw(jax.random.key(0) if key is None else key)


def surplus(model: nn.Module, smaller: nn.Module) -> tuple[str, ...]:
  """Returns, as `redraw` of `graft`, the leaves that a model has and a smaller one lacks."""
  more, fewer = (
    traverse_util.flatten_dict(abstract_variables(network), sep="/").keys()
    for network in (model, smaller)
  )
  return exactly(more - fewer)


def exactly(paths: Iterable[str]) -> tuple[str, ...]:
  """Returns regular expressions that match these paths only."""
  return tuple(f"^{re.escape(path)}$" for path in sorted(paths))
