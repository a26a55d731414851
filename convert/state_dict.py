"""State dicts of PyTorch networks in and out, as NumPy arrays; PyTorch itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from bcos_jax import models
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Preprocess
from bcos_jax.ops import Ops, StandardOps
from bcos_jax.pretrained import Bundle, abstract_variables, make_bundle

from . import convnext, densenet, resnet, simple_vit, vgg
from .keys import Keys
from .rules import Rule, Table, export, key_templates, parse, port

KEYS: dict[type[nn.Module], tuple[Keys, ...]] = {
  models.ResNet: resnet.KEYS,
  models.SimpleViT: simple_vit.KEYS,
  models.DenseNet: densenet.KEYS,
  models.VGG: vgg.KEYS,
  models.ConvNeXt: convnext.KEYS,
}
"""Per architecture; where several fit, the one that explains most keys is taken."""


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
  like = models.create(architecture, ops=StandardOps(), **(fields or {}))
  keys = _best(state, _keys_of(like, source))
  model = models.create(
    architecture,
    ops=keys.ops if ops is None else ops,
    **{**_num_classes(state, keys.table, like.head), **(fields or {})},
  )
  wanted = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  leaves, skipped = port(state, keys.table, wanted)
  return make_bundle(
    model,
    traverse_util.unflatten_dict(leaves, sep="/"),
    preprocess=preprocess,
    labels=labels,
    provenance={"source": keys.source},
    extras=skipped,
  )


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
    # A guess could pass unit-norm weights off as plain ones: the keys are the same.
    known = sorted({keys.source for keys in _keys_of(bundle.model, None)})
    raise InputError(
      "The bundle does not say which source's keys it came with.",
      f"Give source=, one of {', '.join(map(repr, known))}.",
    )
  for keys in _keys_of(bundle.model, source):
    if type(keys.ops) is family and _same_weights(keys.ops, bundle.model.ops):
      leaves = traverse_util.flatten_dict(jax.device_get(dict(bundle.variables)), sep="/")
      return export(leaves, keys.table, bundle.extras)
  raise InputError(
    f"{source!r} has no keys for a {family.__name__} network.", "Choose another source."
  )


def _same_weights(a: Ops, b: Ops) -> bool:
  """Whether two families of one type compute the same function from the same kernels."""
  fields = ("unit_norm", "cosine_of_weights", "max_out", "keep_activations")
  return all(getattr(a, name, None) == getattr(b, name, None) for name in fields)


def _keys_of(model: nn.Module, source: str | None) -> list[Keys]:
  candidates = list(KEYS.get(type(model), ()))
  sources = {keys.source for keys in candidates}
  if source is not None and source not in sources:
    raise unknown_name(f"source of a {type(model).__name__}", source, sources)
  fitting = [keys for keys in candidates if source in (None, keys.source) and keys.fits(model)]
  if not fitting:
    raise InputError(
      f"No keys are known of a {type(model).__name__} with the fields of this one.",
      "Convert a published variant, or add a table to convert/.",
    )
  return fitting


def _best(state: Mapping[str, Any], candidates: Sequence[Keys]) -> Keys:
  """Returns the table that explains most keys: the others would report more problems."""

  def explained(keys: Keys) -> int:
    templates = [template for entry in keys.table for template in key_templates(entry)]
    return sum(any(parse(template, key) is not None for template in templates) for key in state)

  return max(candidates, key=explained)


def _num_classes(state: Mapping[str, np.ndarray], table: Table, head: str) -> dict[str, int]:
  for entry in table:
    if isinstance(entry, Rule) and entry.target == f"params/{head}/kernel":
      tensor = state.get(entry.source)
      return {} if tensor is None or tensor.ndim < 2 else {"num_classes": int(tensor.shape[0])}
  return {}
