"""Tokenizers of transformers, checked against the text towers that use them.

A tokenizer is a folder of files, as `save_pretrained` of transformers writes it and as it lies
beside the weights on the hub. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import string
import tempfile
from typing import Any

import numpy as np

from ..errors import InputError, requires, unknown_name
from ..models import TextTransformer

CASINGS = ("given", "lower", "bare")
_LEAST_SHARE = 0.9  # of a tower's rows that have tokens; some tables are padded to round sizes
_BARE = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
  """Turns texts into token ids of one length.

  Attributes:
    source: A tokenizer of transformers.
    length: Number of ids of every text; shorter texts are padded.
    casing: 'given' leaves texts to the tokenizer; 'lower' writes them in lower case (SigLIP 2);
      'bare' also drops punctuation, as SigLIP's own tokenizer does.
    truncate: Cuts longer texts, their end token kept, instead of refusing them.
  """

  source: Any
  length: int
  casing: str = "given"
  truncate: bool = False

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """Returns ids, int32 [N, length].

    Raises:
      InputError: No texts, an empty one, or one that is too long.
    """
    cleaned = self._cleaned(texts)
    if not self.truncate:
      for i, ids in enumerate(self.source(cleaned)["input_ids"]):
        if len(ids) > self.length:
          raise InputError(
            f"Text {i} ({short(texts[i])}) has {len(ids)} tokens, expected at most {self.length}.",
            "Shorten it, or set truncate=True.",
          )
    padded = self.source(
      cleaned, padding="max_length", truncation=self.truncate, max_length=self.length
    )
    return np.asarray(padded["input_ids"], np.int32)

  def _cleaned(self, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not len(texts) or not all(isinstance(t, str) for t in texts):
      raise InputError(
        f"The texts are {texts!r:.80}, expected a list of at least one text.",
        "Give a list of strings, also for a single text.",
      )
    cleaned = [clean(text, self.casing) for text in texts]
    for i, text in enumerate(cleaned):
      if not text:
        raise InputError(
          f"Text {i} ({short(texts[i])}) is empty, expected words.",
          "Remove it, or write what to compare with.",
        )
    return cleaned


def clean(text: str, casing: str) -> str:
  """Returns a text with single spaces, in the casing of a `Tokenizer`."""
  if casing == "given":
    return text.strip()
  text = text.lower()
  return " ".join((text.translate(_BARE) if casing == "bare" else text).split())


def load_tokenizer(
  folder: str | os.PathLike,
  model: TextTransformer,
  *,
  length: int | None = None,
  casing: str | None = None,
  truncate: bool = False,
) -> Tokenizer:
  """Reads a tokenizer from a folder, and checks that a text tower can read its ids.

  Args:
    folder: With the tokenizer's files.
    model: The text tower.
    length: Number of ids of every text; None takes the tower's context length.
    casing: See `Tokenizer`; None takes 'lower' for towers that read padded texts to their last
      token (SigLIP), 'given' for others: CLIP's tokenizer lowers texts itself.
    truncate: See `Tokenizer`.

  Raises:
    InputError: The folder has no tokenizer, the network reads no text, or the two do not fit:
      ids beyond the vocabulary, far fewer of them, no padding, or another end of texts.
  """
  if not model.is_text_tower:
    raise InputError(
      f"A {type(model).__name__} reads no text.", "Give a text tower, such as clip_text_vit_base."
    )
  casing = casing or ("lower" if model.pool == "last" else "given")
  if casing not in CASINGS:
    raise unknown_name("casing", casing, CASINGS)
  length = model.context_length if length is None else length
  if not 0 < length <= model.context_length:
    raise InputError(
      f"length is {length}, expected 1 to {model.context_length}, the tower's context.",
      "Omit it to use the whole context.",
    )
  source = read_tokenizer(folder)
  check_vocabulary(source, model.vocab_size, "text tower")
  _check_padding(source)
  tokenizer = Tokenizer(source=source, length=length, casing=casing, truncate=truncate)
  _check_end(tokenizer, model)
  return tokenizer


END = "</s>"


def word_tokenizer(words: Sequence[str], length: int) -> Tokenizer:
  """Returns a tokenizer of whole words, for texts that have few different ones.

  Args:
    words: In the order of their ids, which begin behind those of padding, the end of a text
      (`END`, id 1) and unknown words.
    length: Number of ids of every text.

  Raises:
    InputError: No words, a word twice, or one that is not a single word.
  """
  known = ("<pad>", END, "<unk>", *words)
  if not words or len(set(known)) < len(known) or any(len(word.split()) != 1 for word in words):
    raise InputError(
      f"The words of a tokenizer are {words!r:.80}, expected different single words.",
      "For example: ['a', 'red', 'star'].",
    )
  requires("text", "Tokenizers")
  from tokenizers import Tokenizer as Backend
  from tokenizers import models, pre_tokenizers, processors
  from transformers import PreTrainedTokenizerFast

  ids = {word: i for i, word in enumerate(known)}
  backend = Backend(models.WordLevel(ids, unk_token="<unk>"))
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  backend.post_processor = processors.TemplateProcessing(
    single=f"$A {END}", special_tokens=[(END, ids[END])]
  )
  source = PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token=END, unk_token="<unk>", pad_token="<pad>"
  )
  return Tokenizer(source=source, length=length)


def read_tokenizer(folder: str | os.PathLike) -> Any:
  """Returns the tokenizer of transformers that a folder holds; nothing is downloaded.

  Raises:
    InputError: There is no folder, or no tokenizer in it.
  """
  if not pathlib.Path(folder).is_dir():
    raise InputError(
      f"No folder at {os.fspath(folder)!r}, expected one with a tokenizer.",
      "Give the folder that has tokenizer.json, or the tokenizer's other files.",
    )
  requires("text", "Tokenizers")
  from transformers import AutoTokenizer

  try:
    return AutoTokenizer.from_pretrained(os.fspath(folder), local_files_only=True)
  except Exception as error:  # any error of damaged files or missing packages
    raise InputError(
      f"{os.fspath(folder)!r} holds no tokenizer that transformers can read: "
      f"{' '.join(str(error).split())[:200]}",
      "Give the folder that has tokenizer.json; tokenizers of SentencePiece files (spiece.model) "
      "also need `pip install sentencepiece`.",
    ) from error


def saved_files(source: Any) -> dict[str, bytes]:
  """Returns the files of a tokenizer of transformers by name, as bundles hold them."""
  with tempfile.TemporaryDirectory() as folder:
    source.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def check_vocabulary(source: Any, vocab_size: int, whose: str, least: float = _LEAST_SHARE) -> None:
  """Raises InputError if a tokenizer has more ids than a network, or less than this share."""
  highest = max(source.get_vocab().values(), default=-1)
  if highest >= vocab_size or highest + 1 < least * vocab_size:
    raise InputError(
      f"The tokenizer has {highest + 1} ids, the {whose} {vocab_size}.",
      f"Use the tokenizer of the {whose.rpartition(' ')[2]}'s checkpoint.",
    )


def _check_padding(source: Any) -> None:
  if source.pad_token_id is None:
    raise InputError(
      "The tokenizer has no padding token, expected one that pads short texts.",
      "Set pad_token in its tokenizer_config.json, as its checkpoint does.",
    )


def _check_end(tokenizer: Tokenizer, model: TextTransformer) -> None:
  """The tower reads a text at its end token: texts must have one, and it must be the tower's."""
  if model.pool == "last":
    return
  source = tokenizer.source
  highest = max(source.get_vocab().values())
  end = model.eos_token if model.pool == "eos" else highest
  probe = source("a")["input_ids"]
  if source.eos_token_id != end or probe[-1] != end:
    raise InputError(
      f"The tokenizer ends a text with id {probe[-1] if probe else None} (its end token is "
      f"{source.eos_token_id}), the text tower expects {end}.",
      "Use the tokenizer of the tower's checkpoint.",
    )


def short(text: str) -> str:
  """Returns the beginning of a text, quoted, for messages."""
  return repr(text if len(text) <= 40 else f"{text[:39]}…")
