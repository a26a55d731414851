"""Tokenizers built from a user's texts, saved in the format of transformers.

A tokenizer of words has one id per word, which suits small tasks whose words are known; one of
word-pieces learns from texts, as BERT's did. Both cut at spaces and punctuation.
"""

from __future__ import annotations

from collections.abc import Iterable
import os
import pathlib
from typing import Any

from bcos_jax.errors import InputError, requires, unknown_name

SPECIAL = {
  "encoder": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
  "decoder": ("[PAD]", "[UNK]", "[EOS]"),
}
"""Special tokens by kind of network, their ids from 0 on. An encoder's texts are `[CLS] words
[SEP]`; a decoder's have none, and `[EOS]` separates texts that are packed."""


def save_words(
  folder: str | os.PathLike, words: Iterable[str], *, kind: str = "encoder", lower: bool = True
) -> Any:
  """Saves a tokenizer of whole words.

  Args:
    folder: To write it to.
    words: The vocabulary, in the order of the ids behind those of the special tokens.
    kind: A name of `SPECIAL`.
    lower: Whether texts are written in lower case first.

  Returns:
    The tokenizer of transformers.

  Raises:
    InputError: An unknown kind, no words, or a word that comes twice.
  """
  requires("text", "Tokenizers")
  from tokenizers import models

  known = [*_special(kind), *words]
  if len(known) == len(SPECIAL[kind]) or len(set(known)) < len(known):
    twice = sorted({word for word in known if known.count(word) > 1})[:5]
    raise InputError(
      f"The vocabulary has {len(known) - len(SPECIAL[kind])} words, {len(twice)} of them twice"
      f" {twice}; expected distinct ones.",
      "Give every word once.",
    )
  ids = {word: i for i, word in enumerate(known)}
  return _saved(models.WordLevel(ids, unk_token="[UNK]"), folder, kind, lower)


def train_pieces(
  folder: str | os.PathLike,
  texts: Iterable[str],
  size: int,
  *,
  kind: str = "encoder",
  lower: bool = True,
) -> Any:
  """Learns a tokenizer of word-pieces from texts, and saves it.

  Args:
    folder: To write it to.
    texts: What it learns from.
    size: Most ids, special tokens included.
    kind: As for `save_words`.
    lower: As for `save_words`.

  Returns:
    The tokenizer of transformers.

  Raises:
    InputError: An unknown kind, or a vocabulary too small for its special tokens.
  """
  requires("text", "Tokenizers")
  from tokenizers import models, trainers

  special = _special(kind)
  if size <= len(special):
    raise InputError(
      f"size={size}, expected more than the {len(special)} special tokens.", "For example: 8000."
    )
  backend = _backend(models.WordPiece(unk_token="[UNK]"), kind, lower)
  trainer = trainers.WordPieceTrainer(
    vocab_size=size, special_tokens=list(special), show_progress=False
  )
  backend.train_from_iterator(texts, trainer)
  return _wrapped(backend, folder, kind)


def _special(kind: str) -> tuple[str, ...]:
  if kind not in SPECIAL:
    raise unknown_name("kind of network", kind, SPECIAL)
  return SPECIAL[kind]


def _saved(model: Any, folder: str | os.PathLike, kind: str, lower: bool) -> Any:
  return _wrapped(_backend(model, kind, lower), folder, kind)


def _backend(model: Any, kind: str, lower: bool) -> Any:
  from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors

  backend = Tokenizer(model)
  backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.decoder = decoders.WordPiece()
  if kind == "encoder":
    ends = [(token, SPECIAL[kind].index(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
      single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
  return backend


def _wrapped(backend: Any, folder: str | os.PathLike, kind: str) -> Any:
  from transformers import PreTrainedTokenizerFast

  roles = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
  if kind == "encoder":
    roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
  else:
    roles |= {"eos_token": "[EOS]"}
  tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  tokenizer.save_pretrained(os.fspath(folder))
  return tokenizer
