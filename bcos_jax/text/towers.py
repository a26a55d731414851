"""Text towers with their tokenizers, from texts to features.

```python
reader = TextTower.load("bundles/clip_text", "tokenizers/clip")
reader.features(["a photo of a dog", "a photo of a cat"])      # [2, D], of unit length
reader.class_features(["dog", "cat"], ["a photo of a {}."])    # [2, D], one per class
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

import jax
import numpy as np

from .. import functional as F
from ..batches import in_batches
from ..errors import InputError
from ..io import bundles
from ..models import TextTransformer
from .tokenizer import Tokenizer, load_tokenizer

BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextTower:
  """A text tower with the tokenizer that it reads with.

  Attributes:
    model: The tower.
    variables: Its variables.
    tokenizer: From texts to the tower's token ids.
    extras: Other tensors of the tower's checkpoint, see `Bundle`.
  """

  model: TextTransformer
  variables: Mapping[str, Any]
  tokenizer: Tokenizer
  extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @classmethod
  def load(
    cls,
    bundle: bundles.Bundle | str | os.PathLike,
    tokenizer: str | os.PathLike,
    **options: Any,
  ) -> TextTower:
    """Returns the tower of a bundle with the tokenizer of a folder.

    Args:
      bundle: A text tower, or the folder of one.
      tokenizer: Folder of the tokenizer's files.
      **options: As for `load_tokenizer`.

    Raises:
      InputError: Either cannot be read, the network reads no text, or the two do not fit.
    """
    if not isinstance(bundle, bundles.Bundle):
      bundle = bundles.load(bundle)
    model: Any = bundle.model  # `load_tokenizer` refuses what reads no text
    return cls(
      model=model,
      variables=bundle.variables,
      tokenizer=load_tokenizer(tokenizer, model, **options),
      extras=bundle.extras,
    )

  def features(self, texts: Sequence[str], *, batch_size: int | None = BATCH_SIZE) -> np.ndarray:
    """Returns the directions of texts, float32 [P, D] of unit length.

    Computed in float32 at the highest matmul precision.

    Args:
      texts: P texts.
      batch_size: Texts at a time, compiled once; None takes all at once.

    Raises:
      InputError: A text that the tokenizer refuses, or features that are not directions: NaN or
        zero.
    """
    model = self.model.clone(ops=dataclasses.replace(self.model.ops, dtype=None))
    found = in_batches(
      lambda ids: _directions(model, self.variables, ids), self.tokenizer(texts), batch_size
    )
    return check_features(found, "The text tower's features")

  def class_features(
    self,
    names: Sequence[str],
    templates: Sequence[str] = ("a photo of a {}.",),
    *,
    batch_size: int | None = BATCH_SIZE,
  ) -> np.ndarray:
    """Returns one direction per class, the mean over prompts, float32 [C, D] of unit length.

    Each prompt's features are normalised, averaged over the templates, and normalised again
    (CLIP, arXiv 2103.00020, section 3.1.4).

    Args:
      names: C names of classes.
      templates: Prompts with {} for the name; see `zero_shot.templates`.
      batch_size: As for `features`.

    Raises:
      InputError: As for `features`; no names, or a template without {}.
    """
    prompts = filled_templates(names, templates)
    features = self.features(prompts, batch_size=batch_size)
    means = features.reshape(len(names), len(templates), -1).mean(axis=1)
    return check_features(means, "The mean features of the classes")


@jax.jit(static_argnums=0)
def _directions(model: TextTransformer, variables: Mapping[str, Any], ids: jax.Array) -> jax.Array:
  features: Any = model.apply(variables, ids)
  return F.unit_length(features)


def filled_templates(names: Sequence[str], templates: Sequence[str]) -> list[str]:
  """Returns every class in every template: all prompts of the first class, then the next's.

  Raises:
    InputError: No class, no template, or a template without {}.
  """
  for kind, given in (("class names", names), ("templates", templates)):
    if isinstance(given, str) or not len(given):
      raise InputError(
        f"The {kind} are {given!r}, expected a list of at least one text.", "Give a list."
      )
  for template in templates:
    if "{}" not in template:
      raise InputError(
        f"The template {template!r} has no placeholder for the class.",
        "Put {} in place of the class name, for example 'a photo of a {}.'.",
      )
  return [template.replace("{}", str(name)) for name in names for template in templates]


def check_features(features: np.ndarray, whose: str = "The text features") -> np.ndarray:
  """Returns features as directions, float32 [P, D] of unit length.

  Args:
    features: [P, D] finite floats of any length but zero.
    whose: Begins the message.

  Raises:
    InputError: Another shape or type, NaN or infinite values, or a row of zeros.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.size or not np.issubdtype(features.dtype, np.floating):
    raise InputError(
      f"{whose} are {features.dtype} {features.shape}, expected floats [P, D].",
      "Give one row per text, as TextTower.features returns them.",
    )
  features = features.astype(np.float32)
  if not np.isfinite(features).all():
    row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
    raise InputError(
      f"{whose} contain NaN or infinite values, first in row {row}.",
      "Look for NaN among the text tower's weights.",
    )
  lengths = np.linalg.norm(features, axis=1, keepdims=True)
  if not lengths.all():
    row = int(np.argmin(lengths))
    raise InputError(
      f"{whose} are all zero in row {row}, which has no direction.", "Remove that text."
    )
  return features / lengths
