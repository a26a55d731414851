"""Checkpoints of every format, as lazy mappings from keys to tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from bcos_jax.errors import InputError
from bcos_jax.io import hub
from bcos_jax.io.tensor_files import DAMAGED, LazyTensor, read_safetensors

from .files import adapters, quantised
from .pickles import Placeholder, read_pickle

Tensors = Mapping[str, LazyTensor]
_INDEX = ".index.json"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
_AVERAGED = (
  *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict"),
  *("ema_model", "averaged_model"),
)
# As a training network or a Lightning callback names them beside the last weights.
_AVERAGED_PREFIXES = tuple(
  f"{name}.{module}"
  for name in ("ema", "model_ema", "ema_model", "module_ema", "averaged_model")
  for module in ("module.", "")
)
_COUNTERS = ("n_averaged", "num_updates", "decay")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a source holds.

  Attributes:
    origin: The path or hub id, as it was given.
    tensors: Key -> tensor.
    dropped: Keys that are left out of `tensors`, and why.
    notes: What was done to the keys, for people.
    config: The configuration beside the weights, as its file states it.
    preprocessor: The preprocessing beside the weights, as its file states it.
    folder: The local folder of a Hugging Face repository; None for a single file.
    repository: Hub id and commit, `owner/name@commit`, of what comes from the hub, else "".
    stated: Name of the architecture that a training checkpoint states; '' if it states none.
  """

  origin: str
  tensors: Tensors
  dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()
  config: Mapping[str, Any] | None = None
  preprocessor: Mapping[str, Any] | None = None
  folder: pathlib.Path | None = None
  stated: str = ""
  repository: str = ""


def open_checkpoint(
  source: str | os.PathLike,
  *,
  ema: bool = False,
  download: bool = False,
  prefix: str | None = None,
  named: bool = False,
) -> Checkpoint:
  """Opens a checkpoint; no tensor is read.

  Args:
    source: A file (safetensors, the index of shards, a PyTorch file), a folder with a
      configuration and weights, or a hub id.
    ema: Takes the averaged weights of a training checkpoint instead of the last ones.
    download: Lets a hub id be fetched.
    prefix: Taken off the keys; those without it are left out, and so listed. An entry of a
      training checkpoint may come first: `teacher.backbone.`.
    named: Whether the user names the architecture: a folder then needs no configuration.

  Raises:
    InputError: The source is missing or damaged, or of no known kind.
  """
  path = pathlib.Path(source)
  if path.is_dir():
    return _cut(_of_folder(path, str(source), ema, download, named), prefix)
  if path.is_file():
    return _cut(_of_path(path, str(source), ema, prefix), prefix)
  if hub.is_meant(str(source)):
    folder = hub.snapshot(str(source), download=download)
    found = _cut(_of_folder(folder, str(source), ema, download, named), prefix)
    return dataclasses.replace(found, repository=f"{hub.parted(str(source))[0]}@{folder.name}")
  raise hub.no_path(str(source))


def _of_path(path: pathlib.Path, origin: str, ema: bool, prefix: str | None) -> Checkpoint:
  if path.suffix not in _PICKLES or path.name.endswith(_INDEX):
    tensors, notes = _of_file(path, ema)
    quantised.refuse(origin, None, tensors)
    return _unwrapped(Checkpoint(origin, tensors, notes=notes), ema)
  value = read_pickle(path)
  tensors, notes = _state_dict(path, value, ema, prefix)
  checkpoint = Checkpoint(origin, tensors, notes=notes, stated=_stated(value))
  return _unwrapped(checkpoint, ema)


def _stated(value: Any) -> str:
  """Returns the architecture that a training checkpoint states: `arch`, or in its settings."""
  if not isinstance(value, dict) or _is_state(value):
    return ""
  settings = [value] + [v for v in value.values() if isinstance(v, Placeholder)]
  stated = [held.get(name) for held in settings for name in ("arch", "model")]
  return next((name.partition(".")[0] for name in stated if isinstance(name, str)), "")


def _cut(checkpoint: Checkpoint, prefix: str | None) -> Checkpoint:
  """Takes the prefix that the user gave off the keys, and leaves out the keys without it."""
  if not prefix:
    return checkpoint
  kept = {key: t for key, t in checkpoint.tensors.items() if key.startswith(prefix)}
  if not kept:
    if any(f"entry {prefix.partition('.')[0]!r}" in note for note in checkpoint.notes):
      _, _, rest = prefix.partition(".")
      return _cut(checkpoint, rest)
    raise InputError(
      f"No key of {checkpoint.origin!r} begins with {prefix!r}.",
      f"Its keys are such as {next(iter(checkpoint.tensors))!r}.",
    )
  outside = dict.fromkeys(checkpoint.tensors.keys() - kept.keys(), f"outside the prefix {prefix!r}")
  return dataclasses.replace(
    checkpoint,
    tensors={key.removeprefix(prefix): tensor for key, tensor in kept.items()},
    dropped={**checkpoint.dropped, **dict(sorted(outside.items()))},
    notes=(*checkpoint.notes, f"without the prefix {prefix!r}, as given"),
  )


def _of_folder(
  folder: pathlib.Path, origin: str, ema: bool, download: bool, named: bool
) -> Checkpoint:
  if (folder / adapters.CONFIG).is_file():
    return _adapted(folder, origin, ema, download, named)
  return _of_plain_folder(folder, origin, ema, named)


def _of_plain_folder(folder: pathlib.Path, origin: str, ema: bool, named: bool) -> Checkpoint:
  weights = next((folder / name for name in hub.WEIGHTS if (folder / name).is_file()), None)
  config = next((folder / name for name in hub.CONFIGS if (folder / name).is_file()), None)
  if config is None and named and (weights or _only_weights(folder)):
    alone = _of_path(weights or _only_weights(folder), origin, ema, None)
    return dataclasses.replace(alone, notes=(_UNDESCRIBED, *alone.notes))
  if config is None:
    raise InputError(
      f"{origin!r} has no config.json that describes the network.",
      "Add it, or name the network by --architecture.",
    )
  if weights is None:
    raise InputError(
      f"{origin!r} has no weights: none of {', '.join(hub.WEIGHTS)}.",
      "Download the repository again, or pass the weights file itself.",
    )
  described = read_json(config)
  quantised.refuse(origin, described, {})
  tensors, notes = _of_file(weights, ema)
  quantised.refuse(origin, described, tensors)
  preprocessor = folder / hub.PREPROCESSOR
  checkpoint = Checkpoint(
    origin,
    tensors,
    notes=notes,
    config=described,
    preprocessor=read_json(preprocessor) if preprocessor.is_file() else None,
    folder=folder,
  )
  return _unwrapped(checkpoint, ema)


_UNDESCRIBED = "the folder has no config.json: sizes, labels and pictures are the architecture's"


def _only_weights(folder: pathlib.Path) -> pathlib.Path:
  """Returns the one file of weights in a folder of no known names.

  Raises:
    InputError: There is none, or several.
  """
  held = [path for path in sorted(folder.iterdir()) if path.suffix in (*_PICKLES, ".safetensors")]
  if len(held) == 1:
    return held[0]
  named = ", ".join(path.name for path in held[:8]) or "no file of weights"
  raise InputError(
    f"{str(folder)!r} has no config.json, and holds {named}.", "Pass the file of weights itself."
  )


def _adapted(
  folder: pathlib.Path, origin: str, ema: bool, download: bool, named: bool
) -> Checkpoint:
  """Opens an adapter of PEFT on its base network, which lies beside it or is named by it."""
  about = read_json(folder / adapters.CONFIG)
  if not (folder / adapters.WEIGHTS).is_file():
    raise InputError(f"{origin!r} has no {adapters.WEIGHTS}.", "Copy or download it again.")
  updates = read_safetensors(folder / adapters.WEIGHTS)
  base_name = about.get("base_model_name_or_path")
  beside = any((folder / name).is_file() for name in hub.WEIGHTS)
  paths = [folder] if beside else [pathlib.Path(str(base_name)), folder / str(base_name)]
  base = next((path for path in paths if path.is_dir()), None)
  if base is None and hub.is_id(str(base_name)):
    base = hub.snapshot(str(base_name), download=download)
  if base is None:
    raise InputError(
      f"{origin!r} is an adapter of {base_name!r}, which is not there.",
      "Put the base network's config.json and weights beside it.",
    )
  network = _of_plain_folder(base, str(base_name) if not beside else origin, ema, named)
  tensors, count = adapters.merged(network.tensors, updates, about)
  note = f"an adapter of {len(updates)} tensors is merged into {count} of {network.origin!r}"
  return dataclasses.replace(network, origin=origin, tensors=tensors, notes=(*network.notes, note))


def tokenizer_files(folder: pathlib.Path | None) -> dict[str, bytes]:
  """Returns the files of the tokenizer beside the weights, by name; empty if there are none."""
  if folder is None:
    return {}
  found = {name: folder / name for name in hub.TOKENIZER}
  return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


def read_json(path: pathlib.Path) -> Mapping[str, Any]:
  """Reads a JSON object.

  Raises:
    InputError: The file is damaged, or holds something else.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"Cannot read {str(path)!r}: {error}.", DAMAGED) from error
  if not isinstance(value, dict):
    raise InputError(f"{str(path)!r} holds a {type(value).__name__}, expected an object.", DAMAGED)
  return value


def _of_file(path: pathlib.Path, ema: bool) -> tuple[Tensors, tuple[str, ...]]:
  if path.name.endswith(_INDEX):
    return _sharded(path), ()
  if path.suffix == ".safetensors":
    tensors, notes = read_safetensors(path), ()
  elif path.suffix in _PICKLES:
    tensors, notes = _state_dict(path, read_pickle(path), ema)
  else:
    known = quantised.FILES.get(path.suffix.lower())
    raise InputError(
      f"{str(path)!r} is of the format {known}, which is not converted."
      if known
      else f"{str(path)!r} has an unknown format.",
      f"Give .safetensors, {_INDEX} or a PyTorch file ({', '.join(_PICKLES)}).",
    )
  if not tensors:
    raise InputError(f"{str(path)!r} holds no tensors.", "Give a checkpoint with weights.")
  return tensors, notes


def _sharded(index: pathlib.Path) -> Tensors:
  """Opens all shards; the index and they must name the same keys."""
  named = read_json(index).get("weight_map")
  texts = isinstance(named, dict) and all(isinstance(name, str) for name in named.values())
  if not texts or not named:
    raise InputError(f"{str(index)!r} has no weight_map of keys to files.", DAMAGED)
  tensors: dict[str, LazyTensor] = {}
  problems = []
  for shard in sorted(set(named.values())):
    path = index.parent / shard
    if pathlib.PurePath(shard).name != shard or not path.is_file():
      problems.append(f"the shard {shard!r} is missing")
      continue
    held, _ = _of_file(path, ema=False)
    expected = {key for key, name in named.items() if name == shard}
    problems += [f"{key!r} is not in {shard!r}" for key in sorted(expected - held.keys())]
    problems += [
      f"{shard!r} holds {key!r}, which the index "
      + (f"places in {named[key]!r}" if key in named else "does not name")
      for key in sorted(held.keys() - expected)
    ]
    tensors |= held
  if problems:
    raise InputError(
      f"{str(index)!r} and its shards do not fit:\n  " + "\n  ".join(problems) + "\n",
      "Download the missing or damaged files again.",
    )
  return {key: tensors[key] for key in named}


def _state_dict(
  path: pathlib.Path, value: Any, ema: bool, prefix: str | None = None
) -> tuple[Tensors, tuple[str, ...]]:
  """Finds the state dict in what a PyTorch file holds."""
  notes = _inert(value)
  if not _is_state(value) and isinstance(value, dict):
    value = {**value, **{name: _inner(value.get(name)) for name in _AVERAGED if name in value}}
    averaged = [name for name in _AVERAGED if _is_state(value.get(name))]
    wrappers = [name for name in _WRAPPERS if _is_state(value.get(name))]
    # A Lightning file holds the averaged weights inside its state dict, under a prefix.
    named = (prefix or "").partition(".")[0]
    others = [name for name, held in value.items() if _is_state(held)]
    chosen = (averaged if ema and averaged else wrappers)[:1]
    if named in others:
      chosen = [named]
    elif not chosen and len(others) == 1:
      chosen = others
    if not chosen:
      entries = ", ".join(map(repr, list(value)[:8])) or "nothing"
      raise InputError(
        f"{str(path)!r} has no state dict; it holds {entries}.",
        f"Choose an entry by --prefix, such as --prefix={others[0]}."
        if others
        else f"Save the state dict itself, or under one of {', '.join(_WRAPPERS)}.",
      )
    notes = (*notes, f"weights from the entry {chosen[0]!r}")
    if averaged and chosen[0] not in averaged:
      notes = (*notes, f"averaged weights are in the entry {averaged[0]!r}, taken with --ema")
    value = value[chosen[0]]
  if not isinstance(value, dict):
    raise InputError(
      f"{str(path)!r} holds a {type(value).__name__}, expected a state dict.",
      "Save the state dict of the network.",
    )
  odd = [key for key, tensor in value.items() if not isinstance(tensor, LazyTensor)]
  if odd:
    raise InputError(
      f"{str(path)!r} holds a {type(value[odd[0]]).__name__} under {odd[0]!r}, expected a tensor.",
      "Save only the tensors of the state dict.",
    )
  return value, notes


def _inert(value: Any) -> tuple[str, ...]:
  """Says which entries are settings, of which nothing was built or run."""
  if not isinstance(value, dict):
    return ()
  inert = [repr(key) for key, held in value.items() if isinstance(held, Placeholder)]
  return (f"{', '.join(inert)}: {Placeholder.kind}, read as plain values",) if inert else ()


def _inner(value: Any) -> Any:
  """Returns the state dict that an average keeps beside its settings; else what it was given."""
  states = [v for v in value.values() if _is_state(v)] if isinstance(value, dict) else []
  return states[0] if len(states) == 1 and not _is_state(value) else value


def _is_state(value: Any) -> bool:
  return isinstance(value, dict) and any(
    isinstance(key, str) and isinstance(tensor, LazyTensor) for key, tensor in value.items()
  )


def _took_average(notes: Sequence[str]) -> bool:
  return any(f"weights from the entry {name!r}" in notes for name in _AVERAGED)


def _unwrapped(checkpoint: Checkpoint, ema: bool) -> Checkpoint:
  """Takes off what training wraps around a network: averages, teachers, parallel modules."""
  tensors, dropped, notes = dict(checkpoint.tensors), {}, list(checkpoint.notes)

  def drop(applies: Callable[[str], bool], reason: str):
    for key in [key for key in tensors if applies(key)]:
      dropped[key] = reason
      del tensors[key]

  def strip(prefix: str):
    nonlocal tensors
    if tensors and all(key.startswith(prefix) for key in tensors):
      tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
      notes.append(f"without the prefix {prefix!r}")

  prefix = next((p for p in _AVERAGED_PREFIXES if any(k.startswith(p) for k in tensors)), None)
  whole = prefix is None or all(key.startswith(prefix) for key in tensors)
  # torch's AveragedModel: nothing but the average, and how many networks it is of.
  counted = "n_averaged" in tensors
  if prefix is not None and not whole:
    counters = tuple(f"{prefix.partition('.')[0]}.{name}" for name in _COUNTERS)
    drop(lambda key: key in counters, "counts updates of the average")
    if ema:
      drop(lambda key: not key.startswith(prefix), "the averaged weights were requested")
    else:
      drop(lambda key: key.startswith(prefix), "averaged weights, taken with --ema")
  elif counted:
    drop(lambda key: key == "n_averaged", "counts updates of the average")
    notes.append("the weights are an average, of torch's AveragedModel")
  elif ema and prefix is None and not _took_average(notes):
    raise InputError(
      f"{checkpoint.origin!r} holds no averaged weights.", "Convert it without --ema."
    )
  if any(key.startswith("model.") for key in tensors):
    drop(lambda key: key.startswith("clip_model."), "the teacher of a distillation")
  for wrapper in (*_AVERAGED_PREFIXES, "module.", "_orig_mod.", "module."):
    strip(wrapper)
  return dataclasses.replace(checkpoint, tensors=tensors, dropped=dropped, notes=tuple(notes))
