"""Exact explanations of image-text similarity, per pixel.

A cosine does not change when the features grow, so its gradient times the input sums to zero for
a network that is linear in its input. The length of the features is therefore a constant here, as
every dynamic weight is (B-cosification, arXiv 2411.00715, section 5): contributions and residuals
then sum to the similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from ..errors import InputError
from ..explain.images import Explanation, explain
from ..explain.targets import Variables
from ..text.towers import TextTower, check_features
from .classifier import check_tower
from .similarity import Similarity


def explain_text(
  model: nn.Module,
  variables: Variables,
  images: Any,
  texts: np.ndarray | Sequence[str],
  *,
  reader: TextTower | None = None,
  power: float = 1.0,
  reduce: str = "mean",
  batch_size: int | None = None,
) -> Explanation:
  """Explains the similarity of each image to each of P texts.

  One forward pass and P backward passes, independent of the texts; compiled once for each P.

  Args:
    model: An image tower: its outputs are features [N, D], or maps of them [N, h, w, D], as those
      of a CLIP ResNet with pooling='none'.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    texts: Features [P, D], of any length but zero; or P texts, which `reader` turns into features.
    reader: The text tower; needed for texts only.
    power: Exponent of the cosines l at the positions of a map: the mean of l |l|^(power - 1), its
      factor |l|^(power - 1) held. 1 explains the mean cosine.
    reduce: Over positions: 'mean', 'sum' or 'max', the position that fits best.
    batch_size: Images at a time, to bound memory; None takes all at once.

  Returns:
    The explanation, with an axis of texts: value [N, P] are the similarities, contributions
    [N, P, H, W]; logits are the image features.

  Raises:
    InputError: A network with classes, features of another width or with NaN, texts without a
      reader, and what `explain` refuses.
  """
  check_tower(model)
  similarity = Similarity(power, reduce, hold=True)
  target = jax.tree_util.Partial(similarity, _features(texts, reader))
  ex = explain(model, variables, images, target, batch_size)
  assert isinstance(ex, Explanation)  # of images
  return ex


def _features(texts: np.ndarray | Sequence[str], reader: TextTower | None) -> np.ndarray:
  if not isinstance(texts, Sequence):
    return check_features(texts)
  if reader is None:
    raise InputError(
      f"The texts are {texts!r:.80}, but no reader is given for them.",
      "Pass reader=TextTower.load(bundle, tokenizer), or the features [P, D] of the texts.",
    )
  return reader.features(texts)
