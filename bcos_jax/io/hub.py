"""Repositories of the Hugging Face hub, read from its cache; downloaded only on request."""

from __future__ import annotations

from collections.abc import Iterable
import json
import pathlib
import re

from ..errors import InputError, requires
from . import bundles

_ID = re.compile(r"(hf:)?[\w.-]+/[\w.-]+(@[\w./-]+)?")
_PREFIX = "hf:"
_OWN_FOLDERS = ("bundles", "runs")  # where the recipes and the documentation keep networks
_FILES = (".safetensors", ".json", ".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar", ".npz")
WEIGHTS = (
  "model.safetensors",
  "model.safetensors.index.json",
  "open_clip_model.safetensors",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
  "open_clip_pytorch_model.bin",
)
"""Where a repository may hold its weights, best first: safetensors are read without pickle."""
CONFIGS = ("config.json", "open_clip_config.json")
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER = (
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.txt",
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
  "sentencepiece.bpe.model",
)
"""What the tokenizer of a language model may consist of."""


def is_id(name: str) -> bool:
  """Whether a name has the form of a hub id, `owner/name` or `owner/name@revision`."""
  return _ID.fullmatch(name) is not None


def parted(name: str) -> tuple[str, str | None]:
  """Returns `owner/name` and the revision of a hub id; None for the main branch."""
  repository, _, revision = name.removeprefix(_PREFIX).partition("@")
  return repository, revision or None


def is_meant(name: str) -> bool:
  """Whether what is not there as a path is a hub id: it has the form of one, and of no path.

  A path begins with a dot, names a file, or is in a folder that exists. `hf:owner/name` is always
  a hub id.
  """
  if not is_id(name):
    return False
  if name.startswith(_PREFIX):
    return True
  owner = name.partition("/")[0]
  looks_like_a_path = owner in (".", "..", *_OWN_FOLDERS) or name.lower().endswith(_FILES)
  return not looks_like_a_path and not pathlib.Path(owner).is_dir()


def no_path(name: str) -> InputError:
  """Returns the error for a path that is not there and is not meant as a hub id."""
  own = pathlib.PurePath(name).parts[:1] in [(folder,) for folder in _OWN_FOLDERS]
  made = f"bcos-jax convert SOURCE {name}"
  if name.endswith("/bundle"):  # where a training puts it
    made = f"bcos-jax train --config=RECIPE --workdir={name.removesuffix('/bundle')}"
  if not is_id(name):
    return InputError(
      f"There is no file or folder {name!r}.",
      f"Make it with: {made}; or give another network."
      if own
      else "Give a bundle, a checkpoint file, a folder, or a hub id owner/name.",
    )
  return InputError(
    f"There is no file or folder {name!r}; it is read as a path, not as a repository of the hub.",
    f"Make it with: {made}; or write hf:{name} for the repository.",
  )


def snapshot(name: str, *, download: bool = False) -> pathlib.Path:
  """Returns the folder of a hub repository in huggingface_hub's cache.

  Args:
    name: `owner/name`, or `owner/name@revision`.
    download: Fetches the configuration, what belongs to it, and last the weights, all of one
      commit, unless HF_HUB_OFFLINE is set. Otherwise nothing is fetched.

  Raises:
    InputError: The repository or one of its files is not in the cache, or cannot be fetched.
  """
  repository, revision = parted(name)
  requires("text", "Networks of the hub")
  get = _fetched if download else _cached
  found = (get(repository, config, revision) for config in CONFIGS)
  config = next((path for path in found if path is not None), None)
  if config is None:
    raise _missing(name, " or ".join(CONFIGS), download)
  folder, commit = config.parent, config.parent.name
  if bundles.has_bundle_config(folder):
    # The weights come last: where they are, the rest is.
    if download and _cached(repository, WEIGHTS[0], commit) is None:
      for file in _of_bundle(repository, commit):
        get(repository, file, commit)
  else:
    get(repository, PREPROCESSOR, commit)
    for file in TOKENIZER if b'"vocab_size"' in config.read_bytes() else ():
      get(repository, file, commit)
  for weights in WEIGHTS:
    if (path := get(repository, weights, commit)) is not None:
      for shard in _shards(path):
        if get(repository, shard, commit) is None:
          raise _missing(name, shard, download)
      return folder
  raise _missing(name, " or ".join(WEIGHTS), download)


def _of_bundle(repository: str, commit: str) -> list[str]:
  """Returns the files of a bundle's folders."""
  import huggingface_hub

  try:
    files = huggingface_hub.HfApi().list_repo_files(repository, revision=commit)
  except Exception as error:  # connections fail in many ways
    raise _unreachable(f"the files of {repository!r}", error) from error
  return [name for name in files if name.partition("/")[0] in (bundles.TOKENIZER, bundles.EXAMPLES)]


def _shards(path: pathlib.Path) -> Iterable[str]:
  if not path.name.endswith(".index.json"):
    return ()
  try:
    return sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return ()  # the reader of the index says what is wrong with it


def _cached(repository: str, file: str, revision: str | None) -> pathlib.Path | None:
  import huggingface_hub

  found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
  return pathlib.Path(found) if isinstance(found, str) else None


def _fetched(repository: str, file: str, revision: str | None) -> pathlib.Path | None:
  import huggingface_hub
  from huggingface_hub import errors

  try:
    return pathlib.Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
  except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError):
    return _cached(repository, file, revision)
  except Exception as error:  # connections fail in many ways
    raise _unreachable(f"{file!r} of {repository!r}", error) from error


def _unreachable(what: str, error: Exception) -> InputError:
  return InputError(
    f"Cannot fetch {what}: {' '.join(str(error).split())[:300]}",
    "Check the id, the connection, and whether the repository asks you to log in.",
  )


def _missing(name: str, file: str, download: bool) -> InputError:
  from huggingface_hub import constants

  if download:
    return InputError(
      f"{name!r} has no {file}, or it cannot be reached.",
      "Check the id and the connection (HF_HUB_OFFLINE forbids fetching).",
    )
  return InputError(
    f"There is no folder {name!r} here, and {file} of the repository {name!r} is not in the cache "
    f"{str(constants.HF_HUB_CACHE)!r}; nothing is downloaded without --download.",
    "Check the path, or pass --download (download=True) to fetch the repository.",
  )
