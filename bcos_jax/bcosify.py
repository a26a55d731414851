"""B-cosification (arXiv 2411.00715): conversion of a conventional network to a B-cos network.

A pure function on (model, variables). The model changes its ops; the variables go through a
short, declared table of edits, and anything that the table does not cover is an error. With B=1,
biases kept and max pooling kept, the result computes the function of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any
import warnings

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from . import calibration
from .errors import InputError
from .models import BaseNetwork
from .ops import BcosOps, Ops
from .variables import abstract_variables

Array = jax.Array
Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Edit:
  """One way in which a leaf of the B-cos network comes from the conventional one.

  Attributes:
    name: What the edit is called in messages.
    applies: (path, source leaf or None, wanted shape, model) -> bool.
    value: (source leaf or None, wanted shape, model) -> the new leaf.
  """

  name: str
  applies: Callable[[str, Array | None, tuple[int, ...], nn.Module], bool]
  value: Callable[[Any, tuple[int, ...], nn.Module], Array]


def _is_input(path: str, leaf: Array | None, shape: tuple[int, ...], model: nn.Module) -> bool:
  if getattr(model, "reads", "images") == "text":  # which has no colours
    return False
  encoding = model.ops.encoding
  return (
    path == f"params/{model.input_map}/kernel"
    and leaf is not None
    and encoding.channels == 2 * encoding.colors
  )


def widen_input(kernel: Array, colors: int) -> Array:
  """Turns weights for colours x into weights for [x, -x] with the same response.

  w.x = (w/2).x + (-w/2).(-x) (B-cosification, section 3.1).

  Only for that pairing: to [x, 1-x] the result responds with w.x - sum(w)/2.

  Args:
    kernel: [..., colors, O], or [positions * colors, O] for a patch embedding.
    colors: Number of colour channels.

  Returns:
    The kernel with twice the input channels.
  """
  split = kernel.reshape(-1, colors, kernel.shape[-1])
  wide = jnp.concatenate([split, -split], axis=1) / 2
  return wide.reshape(*kernel.shape[:-2], -1, kernel.shape[-1])


EDITS = (
  Edit(
    "copy",
    lambda path, leaf, shape, model: leaf is not None and leaf.shape == shape,
    lambda leaf, shape, model: leaf,
  ),
  Edit(
    "widen the input map",
    _is_input,
    lambda leaf, shape, model: widen_input(leaf, model.ops.encoding.colors),
  ),
  Edit(
    "start B",
    lambda path, leaf, shape, model: path.endswith("/b") and getattr(model.ops, "learn_b", False),
    lambda leaf, shape, model: jnp.full(shape, model.ops.b, jnp.float32),
  ),
)
"""The first edit that applies makes each leaf of the B-cos network."""

DROPPED = {
  "bias": "biases are not kept (use_bias=False), or their norm is not (norm='none')",
  "mean": "the norm subtracts no running mean; it is folded into the bias where `var` stays",
  "var": "the norm takes its statistics from each image or position, or is not kept: running "
  "ones mean nothing to it (norm='instance', 'group', 'layer', 'position' or 'none')",
  "scale": "norms have no scale (norm_scale=False), or are not kept (norm='none')",
  "position": "positions of an attention pooling count as biases (use_bias=False)",
}
"""Leaves of the conventional network that the B-cos network may lack, and why."""


def bcosify(
  model: nn.Module,
  variables: Variables,
  *,
  ops: Ops | None = None,
  fold_mean: bool = True,
  calibrate: Any = None,
) -> tuple[nn.Module, Variables]:
  """Turns a conventional network into a B-cos network that starts from the same weights.

  With `calibrate`, into one that computes nearly the same: in closed form, without labels.

  Args:
    model: A network of a conventional family, language models included; for these the presets are
      `BcosOps.lm()`, as published, `BcosOps.lm_decoder()`, and `BcosOps.lm_plain()`, which keeps
      the function of the original (arXiv 2502.12992).
    variables: Its variables, `params` and `batch_stats`.
    ops: The B-cos family and the options of the study (arXiv 2411.00715, section 3): B fixed or
      learned, biases, norms, activations, pooling, head order. If its encoding is `negated` (or
      `none`), mean and std are taken from the model, so that the input means the same. A
      `complement` encoding keeps its own: the widened input map then responds to [z, 1-z] with
      w.z - sum(w)/2 instead of w.z, for the z of that encoding, and the network starts further
      from the original, B=1 included. Its `dtype` and `param_dtype` count, not those of the
      model; the leaves keep the dtype that they have.
    fold_mean: Folds the running mean of each batch norm into its bias, b - mean * scale /
      sqrt(var + eps), so that dropping the mean changes nothing while biases are kept. Norms
      without running statistics (`norm='instance'` and so on) have nothing to fold: scale and
      bias are copied, and the network computes something else until it is trained.
    calibrate: Pictures of the network's domain, plain colours [N, H, W, C] in [0, 1], or texts,
      {"tokens": ids [N, L], "mask": [N, L]}. The maps are then fitted to those of the original,
      one after the other; `bcos_jax.calibration.calibrate` has more settings, and reports.

  Returns:
    The B-cos model and its variables. Leaves that did not change are shared, none is modified.

  Raises:
    InputError: The network is not conventional, the family is or is in explanation mode, a leaf
      is left over or missing, or nothing can be calibrated with what is given.
  """
  ops = BcosOps() if ops is None else ops
  _check(model, ops)
  if ops.encoding.pairing != "complement":
    ops = dataclasses.replace(
      ops, encoding=dataclasses.replace(model.ops.encoding, pairing=ops.encoding.pairing)
    )
  new, started = _started(model, variables, ops, fold_mean)
  if calibrate is None:
    return new, started
  calibrated, report = calibration.calibrate(model, variables, new, started, calibrate)
  for warning in report.warnings:
    warnings.warn(warning, stacklevel=2)
  return new, calibrated


def _started(
  model: nn.Module, variables: Variables, ops: Ops, fold_mean: bool
) -> tuple[nn.Module, Variables]:
  """Returns the B-cos network and what it starts from."""
  made = model.bcosified(variables, ops) if isinstance(model, BaseNetwork) else None
  if made is None:
    new = model.clone(ops=ops)
    return new, _edited(model, variables, new, fold_mean)
  if not fold_mean:
    raise InputError(
      "fold_mean=False does nothing: running means of other libraries' networks are biases.",
      "Leave it out.",
    )
  return made


def _edited(model: nn.Module, variables: Variables, new: nn.Module, fold_mean: bool) -> Variables:
  """Returns the variables of the B-cos network: the first edit that applies makes each leaf."""
  wanted = _flat(abstract_variables(new))
  source = _flat(variables)
  if fold_mean:
    source |= _folded(source, wanted, model.norm_eps)
  made, problems = {}, []
  for path, want in wanted.items():
    leaf = source.get(path)
    edit = next((e for e in EDITS if e.applies(path, leaf, want.shape, new)), None)
    value = None if edit is None else edit.value(leaf, want.shape, new)
    if value is None or value.shape != want.shape:
      have = "absent" if leaf is None else leaf.shape
      problems.append(f"{path}: wanted {want.shape}, the conventional network has it {have}")
    made[path] = value
  problems += [
    f"{path}: no place in the B-cos network"
    for path in sorted(source.keys() - wanted.keys())
    if path.rpartition("/")[2] not in DROPPED
  ]
  if problems:
    raise InputError(
      "Cannot B-cosify: " + "; ".join(problems) + ".",
      "Pass the variables of this model, and ops that keep its shapes.",
    )
  return traverse_util.unflatten_dict(made, sep="/")


def _check(model: nn.Module, ops: Ops):
  if not isinstance(ops, Ops) or ops.conventional:
    raise InputError(f"ops is {ops!r}, expected a B-cos family.", "For example: BcosOps(b=2).")
  if ops.detach:
    raise InputError(
      "ops has detach=True, which is explanation mode: a network of it cannot be trained.",
      "Omit detach; bcos_jax.explain, or ops.detached() later, turn it on.",
    )
  if getattr(model, "is_text_tower", False):
    raise InputError(
      f"{type(model).__name__} reads token ids, which have no colour channels to widen.",
      "Leave text towers conventional (arXiv 2411.00715, section 5): B-cosify the image tower.",
    )
  if getattr(model, "input_map", None) is None:
    raise InputError(
      f"{type(model).__name__} declares no input map to widen.",
      "B-cosify networks made by create().",
    )
  if not model.ops.conventional:
    raise InputError(
      f"The network has {type(model.ops).__name__}, expected a conventional family.",
      "B-cosify a conventional network; this one is already a B-cos network.",
    )


def _folded(source: dict[str, Array], wanted: dict[str, Any], eps: float) -> dict[str, Array]:
  folded = {}
  for path in source:
    norm, _, leaf = path.rpartition("/")
    bias = f"{norm.replace('batch_stats', 'params', 1)}/bias"
    if leaf == "mean" and path not in wanted and {bias, f"{norm}/var"} <= wanted.keys():
      scale = source[bias.removesuffix("bias") + "scale"]
      inverse = jax.lax.rsqrt(jnp.asarray(source[f"{norm}/var"]) + eps)
      folded[bias] = source[bias] - source[path] * scale * inverse
  return folded


def _flat(variables: Variables) -> dict[str, Any]:
  return traverse_util.flatten_dict(variables, sep="/")
