"""What a checkpoint says of its own architecture, against what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from bcos_jax import models
from bcos_jax.errors import InputError

from . import detect
from .readers import timm
from .sources import Checkpoint

_UNPROVEN = "nothing in the file proves"
_NICKNAMES = re.compile("^(mae|dino|moco|ibot)_")


def settled(checkpoint: Checkpoint, given: str | None) -> tuple[str | None, list[str]]:
  """Returns the architecture to convert, and what to say of where its name comes from.

  Args:
    checkpoint: The source; a training checkpoint or a folder of timm names its network.
    given: By the user.

  Raises:
    InputError: The two are networks of different functions, or the file names a network that is
      not known.
  """
  name = checkpoint.stated
  if checkpoint.config is not None and "pretrained_cfg" in checkpoint.config:
    name = timm.architecture_of(checkpoint.config)
  if given is None:
    if not checkpoint.stated or checkpoint.config is not None:
      return None, []
    if name in models.names():
      return name, [f"architecture {name!r}, as the checkpoint states"]
    return None, [f"the checkpoint states the architecture {name!r}, which is no name of ours"]
  if not name:
    return given, [] if checkpoint.config is not None else [_unproven(given)]
  same = name in models.names() and given in models.names()
  same = same and models.canonical(name) == models.canonical(given)
  nickname = name not in models.names() and given.startswith(_NICKNAMES.sub("", name))
  if not same and not nickname:
    raise InputError(
      f"The checkpoint states the architecture {name!r}, given is {given!r}: their keys may be the "
      "same, and their functions not.",
      "Omit --architecture if the file is right; else save the state dict alone, and --verify.",
    )
  return given, []


def is_unproven(notes: Sequence[str]) -> bool:
  """Whether the notes say that not the source, but the user or a guess names the network."""
  return any(note.startswith((_UNPROVEN, detect.UNPROVEN)) for note in notes)


def _unproven(given: str) -> str:
  return (
    f"{_UNPROVEN} that it is a {given!r}: networks of another function can have the "
    "same keys and shapes (an anti-aliased ResNet those of a ResNet). --verify compares with the "
    "original library's network of this name, not with the one that was trained"
  )


def check_depth(fields: Mapping[str, Any], checkpoint: Checkpoint) -> None:
  """Raises InputError for more blocks than the file can hold; building them would take hours."""
  for name in ("depth", "num_layers", "stages", "depths", "layers"):
    value = fields.get(name)
    count = sum(value) if isinstance(value, tuple | list) else value
    if isinstance(count, int) and count > max(len(checkpoint.tensors), 1):
      raise InputError(
        f"The configuration has {count:,} layers, the weights {len(checkpoint.tensors):,} tensors.",
        "Correct config.json, or download the weights again.",
      )
