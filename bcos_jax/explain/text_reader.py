"""Text readers: a language model with its tokenizer, from texts to explanations.

```python
reader = bcos_jax.TextReader.load("bundles/reviews")
ex = reader.explain(["a warm and funny film", "not funny at all"], target="positive")
ex.words(0)                                   # what each word contributed
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from ..errors import InputError, unknown_name
from ..io import bundles
from ..models import is_language_model
from ..render import kinds
from ..text.tokenizer import check_vocabulary, read_tokenizer, short
from ..text.tokens import tokenize
from ..text.words import TextBatch
from .targets import Target
from .texts import Contrast, TextExplanation
from .tokens import explain_tokens

BATCH_SIZE = 32
BUCKETS = tuple(2**k for k in range(4, 17))
"""Lengths to which texts are padded: at most half of what is computed is padding."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextReader:
  """A language model that reads texts.

  Attributes:
    model: The network.
    variables: Its variables.
    tokenizer: A tokenizer of transformers.
    labels: Names of the classes, or () where they are not known.
    length: Largest number of tokens of a text.
    truncate: Cuts longer texts, instead of refusing them; `TextBatch.dropped` counts.
    config: Of the bundle that it comes from; empty where there is none.
  """

  model: Any
  variables: Mapping[str, Any]
  tokenizer: Any
  labels: tuple[str, ...] = ()
  length: int
  truncate: bool = False
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def load(
    cls,
    bundle: bundles.Bundle | str | os.PathLike,
    tokenizer: str | os.PathLike | None = None,
    *,
    length: int | None = None,
    truncate: bool = False,
  ) -> TextReader:
    """Returns the language model of a bundle with its tokenizer.

    Args:
      bundle: A bundle, or the folder of one.
      tokenizer: Folder of the tokenizer's files; None takes those in the bundle.
      length: Largest number of tokens of a text; None takes the network's context.
      truncate: Whether longer texts are cut.

    Raises:
      InputError: Either cannot be read, the network is not a language model, or the two do not fit.
    """
    if not isinstance(bundle, bundles.Bundle):
      bundle = bundles.load(bundle)
    model = bundle.model
    if not is_language_model(model):
      raise InputError(
        f"A {type(model).__name__} is not a language model.",
        "Pass the bundle of a language model, such as bert_base.",
      )
    if length is not None and not 0 < length <= model.context_length:
      raise InputError(
        f"length is {length}, expected 1 to {model.context_length}, the network's context.",
        "Omit it to use the whole context.",
      )
    return cls(
      model=model,
      variables=bundle.variables,
      tokenizer=load_language_tokenizer(bundle, tokenizer),
      labels=bundle.labels,
      length=length or model.context_length,
      truncate=truncate,
      config=bundle.config,
    )

  def read(self, texts: Sequence[str]) -> TextBatch:
    """Returns texts as tokens, padded to the longest.

    Raises:
      InputError: No texts, an empty one, one of special tokens only, or one that is too long.
    """
    return tokenize(
      self.tokenizer,
      texts,
      length=self.length,
      truncate=self.truncate,
      pad=pad_id(self.model, self.tokenizer),
    )

  def explain(
    self,
    texts: Sequence[str],
    target: Target | Contrast | str = None,
    *,
    at: Any = None,
    batch_size: int | None = BATCH_SIZE,
    buckets: Sequence[int] = BUCKETS,
    keep_weights: bool = False,
  ) -> TextExplanation:
    """Explains an output for each text; see `explain_tokens`.

    Args:
      texts: N texts.
      target: As there; classes may be given by label, tokens of a vocabulary as text. None explains
        the predicted class, or the predicted next token.
      at: As there; masked language models predict at their only mask token if it is not given.
      batch_size: Texts at a time.
      buckets: Lengths to which texts are padded, each compiled for once.
      keep_weights: As there.

    Returns:
      The explanation, which knows the texts: `words` merges tokens.

    Raises:
      InputError: What `read` and `explain_tokens` refuse, or an unknown label.
    """
    batch = self.read(texts)
    if at is None and self.model.predicts == "masked_tokens":
      at = self._masks(batch)
    ex = explain_tokens(
      self.model,
      self.variables,
      batch.ids,
      self._target(target),
      batch_size,
      mask=batch.mask,
      at=at,
      buckets=buckets,
      keep_weights=keep_weights,
    )
    origin = kinds.origin_of(self.config)
    described = self._described(ex, target)
    return dataclasses.replace(ex, batch=batch, labels=self.labels, origin=origin, **described)

  def _described(self, ex: TextExplanation, target: Any) -> dict[str, Any]:
    """Returns what is explained of each text, and what is predicted, in words."""
    explained = tuple(self._asked(ex, target, index) for index in range(len(ex.ids)))
    if np.ndim(ex.logits) != 2:
      return {"explained": explained}
    best = np.argmax(ex.logits, axis=-1)
    logits = ex.logits[np.arange(len(best)), best] - np.logaddexp.reduce(ex.logits, axis=-1)
    predicted = (
      f"{self.name_of(index)!r} ({share:.1%})"
      for index, share in zip(best, np.exp(logits), strict=True)
    )
    return {"explained": explained, "predicted": tuple(predicted)}

  def _asked(self, ex: TextExplanation, target: Any, index: int) -> str:
    if ex.target is not None:
      wanted = np.ravel(ex.target[index])
      return ", ".join(repr(self.name_of(int(one))) for one in wanted)
    if not isinstance(target, Contrast):
      return "the chosen output"
    sides = (_of_text(side, index) for side in (target.target, target.foil))
    of, than = (None if side is None else self.name_of(self.class_of(side)) for side in sides)
    of = self.name_of(int(np.argmax(ex.logits[index]))) if of is None else of
    return f"{of!r} rather than " + ("the mean of all" if than is None else repr(than))

  def class_of(self, name: str | int) -> int:
    """Returns a class by its label, or a token of the vocabulary by its text.

    Raises:
      InputError: An unknown label, with the nearest; or a text of several tokens.
    """
    if not isinstance(name, str):
      return name
    if self._predicts_tokens:
      ids = self.tokenizer(name, add_special_tokens=False)["input_ids"]
      if len(ids) != 1:
        raise InputError(
          f"{name!r} has {len(ids)} tokens, expected one.",
          "Give a single token; a word inside a text often begins with a space.",
        )
      return ids[0]
    if name in self.labels:
      return self.labels.index(name)
    if name.isdecimal():
      return int(name)
    raise unknown_name("class", name, self.labels)

  def name_of(self, index: int) -> str:
    """Returns the label of a class, or the text of a token."""
    if self._predicts_tokens:
      return self.tokenizer.decode([int(index)])
    return self.labels[index] if self.labels else str(int(index))

  @property
  def _predicts_tokens(self) -> bool:
    return self.model.predicts_tokens

  def _target(self, target: Any) -> Any:
    if isinstance(target, str):
      return self.class_of(target)
    if isinstance(target, Contrast):
      return Contrast(self._target(target.target), self._target(target.foil))
    if isinstance(target, Sequence):
      return np.array([self.class_of(name) for name in target])
    return target

  def _masks(self, batch: TextBatch) -> np.ndarray:
    masked = batch.ids == self.tokenizer.mask_token_id
    wrong = masked.sum(axis=1) != 1
    if wrong.any():
      index = int(np.argmax(wrong))
      raise InputError(
        f"Text {index} ({short(batch.texts[index])}) has {int(masked[index].sum())} mask tokens, "
        "expected one.",
        f"Write {self.tokenizer.mask_token} where a word is to be filled in, or give at=.",
      )
    return np.argmax(masked, axis=1)


def _of_text(side: Any, index: int) -> Any:
  """Returns the side of a contrast that counts for a text."""
  if side is None or isinstance(side, str) or np.ndim(side) == 0:
    return side
  one = side[index]
  return one if isinstance(one, str) else int(one)


def pad_id(model: Any, tokenizer: Any) -> int:
  """Returns the id that fills short texts; where there is none, the mask alone hides it."""
  if model.pad_token >= 0:
    return model.pad_token
  return 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def load_language_tokenizer(bundle: bundles.Bundle, folder: str | os.PathLike | None = None) -> Any:
  """Reads the tokenizer of a language model, and checks that the two fit.

  Args:
    bundle: The network.
    folder: With the tokenizer's files; None takes those in the bundle.

  Raises:
    InputError: There is none, it cannot be read, or it has another vocabulary.
  """
  source = tokenizer_in(bundle) if folder is None else read_tokenizer(folder)
  check_tokenizer(source, bundle.model)
  return source


def tokenizer_in(bundle: bundles.Bundle) -> Any:
  """Returns the tokenizer of a bundle, or raises InputError if it has none."""
  if not bundle.tokenizer:
    raise InputError(
      "The bundle has no tokenizer.", "Pass the folder with the tokenizer's files as tokenizer=."
    )
  with tempfile.TemporaryDirectory() as temporary:
    path = pathlib.Path(temporary)
    bundles.write_files(path, bundle.tokenizer)
    # Says which class of tokenizer it is, where the tokenizer's own files do not.
    kind = bundle.config["provenance"].get("source_config", {}).get("model_type")
    if kind is not None:
      (path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    return read_tokenizer(path)


def check_tokenizer(source: Any, model: Any) -> None:
  """Raises InputError unless a language model can read what a tokenizer writes."""
  # Tables are often padded, or resized for tokens to come: each id has a row all the same.
  check_vocabulary(source, model.vocab_size, "network", least=0.0)
  if not source.is_fast:
    raise InputError(
      f"A {type(source).__name__} does not return the positions of its tokens in a text.",
      "Use a tokenizer with a tokenizer.json.",
    )
  pad = getattr(model, "pad_token", -1)
  if pad >= 0 and source.pad_token_id not in (None, pad):
    raise InputError(
      f"The tokenizer pads texts with id {source.pad_token_id}, the network expects {pad}.",
      "Use the tokenizer of the network's checkpoint.",
    )
