"""State dicts of PyTorch networks in and out, as NumPy arrays; PyTorch itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from bcos_jax import models
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Preprocess
from bcos_jax.ops import BcosOps, Ops, StandardOps
from bcos_jax.pretrained import Bundle, abstract_variables, make_bundle

from . import resnet, vit
from .rules import Rule, Table, export, parse, port


@dataclasses.dataclass(frozen=True)
class Layout:
  """The keys that one source gives one architecture.

  Attributes:
    source: 'torchvision', 'bcos_v2' or 'bcosification'.
    ops: The family that the source's network belongs to.
    table: The rules.
  """

  source: str
  ops: Ops
  table: Table


LAYOUTS: dict[type[nn.Module], tuple[Layout, ...]] = {
  models.ResNet: (
    Layout("torchvision", StandardOps(), resnet.STANDARD),
    Layout("bcos_v2", BcosOps.v2(), resnet.BCOS_V2),
    Layout("bcosification", BcosOps(), resnet.BCOSIFICATION),
    Layout("bcosification", StandardOps(), resnet.STANDARD),
  ),
  models.SimpleViT: (
    Layout("bcos_v2", BcosOps.v2(), vit.BCOS_V2),
    Layout("bcos_v2", StandardOps(), vit.STANDARD),
    Layout("bcosification", BcosOps(), vit.BCOSIFICATION),
    Layout("bcosification", StandardOps(), vit.STANDARD),
  ),
}
"""Per architecture. B-cosification starts from conventional networks, so it has those keys too."""


def from_state_dict(
  state_dict: Mapping[str, np.ndarray],
  architecture: str,
  source: str | None = None,
  *,
  ops: Ops | None = None,
  labels: Sequence[str] = (),
  preprocess: Preprocess | None = None,
) -> Bundle:
  """Turns a PyTorch state dict into a network that computes the same function.

  Args:
    state_dict: Key -> NumPy array.
    architecture: A name of `bcos_jax.names()`. The number of classes is read off the head.
    source: Whose keys these are: 'torchvision', 'bcos_v2' or 'bcosification'; None finds out.
    ops: Replaces the family of the source, e.g. for another input encoding.
    labels: Names of the classes.
    preprocess: How the evaluation of the network reads pictures.

  Returns:
    A bundle; tensors that Flax has no use for are in its `extras`.

  Raises:
    InputError: Unknown architecture or source, or any key or shape that does not fit.
  """
  state = {key: np.asarray(tensor) for key, tensor in state_dict.items()}
  cls = type(models.create(architecture, ops=StandardOps()))
  layout = _best_layout(state, _layouts(cls, source))
  model = models.create(
    architecture,
    ops=layout.ops if ops is None else ops,
    **_num_classes(state, layout.table, cls.head),
  )
  wanted = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  leaves, skipped = port(state, layout.table, wanted)
  return make_bundle(
    model,
    traverse_util.unflatten_dict(leaves, sep="/"),
    preprocess=preprocess,
    labels=labels,
    provenance={"source": layout.source},
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
    known = sorted({layout.source for layout in _layouts(type(bundle.model), None)})
    raise InputError(
      "The bundle does not say which source's keys it came with.",
      f"Give source=, one of {', '.join(map(repr, known))}.",
    )
  for layout in _layouts(type(bundle.model), source):
    if type(layout.ops) is family and _same_weights(layout.ops, bundle.model.ops):
      leaves = traverse_util.flatten_dict(jax.device_get(dict(bundle.variables)), sep="/")
      return export(leaves, layout.table, bundle.extras)
  raise InputError(
    f"{source!r} has no keys for a {family.__name__} network.", "Choose another source."
  )


def _same_weights(a: Ops, b: Ops) -> bool:
  """Whether two families of one type compute the same function from the same kernels."""
  fields = ("unit_norm", "cosine_of_weights", "max_out", "keep_activations")
  return all(getattr(a, name, None) == getattr(b, name, None) for name in fields)


def _layouts(cls: type[nn.Module], source: str | None) -> list[Layout]:
  layouts = list(LAYOUTS.get(cls, ()))
  if source is None:
    return layouts
  if source not in {layout.source for layout in layouts}:
    raise unknown_name(f"source of a {cls.__name__}", source, {layout.source for layout in layouts})
  return [layout for layout in layouts if layout.source == source]


def _best_layout(state: Mapping[str, Any], layouts: Sequence[Layout]) -> Layout:
  """Returns the layout that explains most keys: the others would report more problems."""

  def explained(layout: Layout) -> int:
    return sum(any(parse(entry.source, key) is not None for entry in layout.table) for key in state)

  return max(layouts, key=explained)


def _num_classes(state: Mapping[str, np.ndarray], table: Table, head: str) -> dict[str, int]:
  for entry in table:
    if isinstance(entry, Rule) and entry.target == f"params/{head}/kernel":
      tensor = state.get(entry.source)
      return {} if tensor is None or tensor.ndim < 2 else {"num_classes": int(tensor.shape[0])}
  return {}
