"""Ids of tokenizers, read from their files without building them."""

from __future__ import annotations

from collections.abc import Mapping
import json

from bcos_jax.errors import InputError


def check(files: Mapping[str, bytes], vocab_size: int) -> None:
  """Raises InputError if a tokenizer has an id without a row in the network's table.

  A table with more rows than ids is fine: many are padded, or made larger for tokens to come.
  """
  highest = _highest(files)
  if highest is not None and highest >= vocab_size:
    raise InputError(
      f"The tokenizer has {highest + 1} ids, the network {vocab_size}: some words have no row.",
      "Put the tokenizer of this checkpoint beside it, or resize the network's embeddings first.",
    )


def _highest(files: Mapping[str, bytes]) -> int | None:
  """Returns the largest id; None where no file tells it."""
  try:
    if "tokenizer.json" in files:
      about = json.loads(files["tokenizer.json"])
      words = about["model"].get("vocab", {})
      ids = list(words.values()) if isinstance(words, dict) else list(range(len(words)))
      return max([*ids, *(token["id"] for token in about.get("added_tokens") or ())], default=None)
    if "vocab.json" in files:
      return max(json.loads(files["vocab.json"]).values(), default=None)
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return None  # the reader of tokenizers says what is wrong with it
  if "vocab.txt" in files:
    return len(files["vocab.txt"].decode("utf-8", "replace").splitlines()) - 1
  return None
