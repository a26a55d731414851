"""Adapters of PEFT: low-rank updates (LoRA, arXiv 2106.09685) merged into their base network."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import LazyTensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PREFIX = "base_model.model."
_PLAIN = {
  "peft_type": ("LORA",),
  "use_dora": (False, None),
  "fan_in_fan_out": (False, None),
  "megatron_config": (None,),
  "layer_replication": (None,),
  "target_parameters": (None, []),
  "trainable_token_indices": (None,),
}
_WAY_OUT = (
  "Merge it with PEFT (`model.merge_and_unload()`), and convert what `save_pretrained` writes."
)


def merged(
  base: Mapping[str, LazyTensor], updates: Mapping[str, LazyTensor], config: Mapping[str, Any]
) -> tuple[dict[str, LazyTensor], int]:
  """Returns the tensors of a base network with an adapter's updates, and how many it changes.

  Each updated matrix becomes W + scale * B A when it is read, with scale = alpha / r, or
  alpha / sqrt(r) for rank-stabilised adapters.

  Args:
    base: Key -> tensor.
    updates: The tensors of the adapter.
    config: Its `adapter_config.json`.

  Raises:
    InputError: A variant other than plain LoRA, by its name, or a key without counterpart.
  """
  problems = [
    f"{name} is {config[name]!r}"
    for name, known in _PLAIN.items()
    if name in config and config[name] not in known
  ]
  if problems:
    raise InputError(f"The adapter is no plain LoRA: {', '.join(problems)}.", _WAY_OUT)
  made = dict(base)
  pairs: dict[str, dict[str, LazyTensor]] = {}
  for key, tensor in updates.items():
    name = key.removeprefix(_PREFIX)
    part = next((p for p in (_A, _B) if name.endswith(p)), None)
    if part is not None:
      pairs.setdefault(name.removesuffix(part), {})[part] = tensor
      continue
    if "lora_" in name:
      raise InputError(f"{key!r} is an update of a kind that is not supported.", _WAY_OUT)
    target = _counterpart(name.replace(".modules_to_save", "").replace(".base_layer", ""), base)
    made[target] = tensor
  for module, pair in pairs.items():
    target = _counterpart(f"{module}.weight", base)
    if len(pair) != 2:
      raise InputError(f"{module!r} has only one of lora_A and lora_B.", _WAY_OUT)
    made[target] = _updated(base[target], pair[_A], pair[_B], _scale(module, config), target)
  return made, len(pairs)


def _counterpart(name: str, base: Mapping[str, Any]) -> str:
  """Returns the key of the base network; one of the two may have a word before it."""
  if name in base:
    return name
  found = [key for key in base if name.endswith(f".{key}") or key.endswith(f".{name}")]
  if len(found) != 1:
    raise InputError(
      f"The adapter changes {name!r}, which the base network does not have.", _WAY_OUT
    )
  return found[0]


def _scale(module: str, config: Mapping[str, Any]) -> float:
  def of(pattern: str, default: str) -> float:
    for name, value in (config.get(pattern) or {}).items():
      if module == name or module.endswith(f".{name}"):
        return float(value)
    return float(config[default])

  try:
    rank, alpha = of("rank_pattern", "r"), of("alpha_pattern", "lora_alpha")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise InputError(
      f"{CONFIG} states no usable r and lora_alpha ({error}).", "Copy or save the adapter again."
    ) from error


def _updated(
  weight: LazyTensor, first: LazyTensor, second: LazyTensor, scale: float, key: str
) -> LazyTensor:
  rank, outputs, shape = first.shape[0], second.shape[0], weight.shape
  inputs = math.prod(first.shape[1:])
  if second.size != outputs * rank or (outputs, inputs) != (shape[0], math.prod(shape[1:])):
    raise InputError(
      f"The adapter's update of {key!r}, {list(second.shape)} by {list(first.shape)}, does not fit "
      f"its shape {list(shape)}.",
      _WAY_OUT,
    )

  def read() -> np.ndarray:
    b, a = (np.asarray(x, np.float32) for x in (second, first))
    update = scale * (b.reshape(outputs, rank) @ a.reshape(rank, inputs))
    return (np.asarray(weight, np.float32) + update.reshape(shape)).astype(weight.dtype)

  return LazyTensor(shape, weight.dtype, read)
