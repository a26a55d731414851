"""Sanity checks: similarity of explanations before and after randomisation.

Adebayo et al., Sanity Checks for Saliency Maps (arXiv 1810.03292), and the check of Sixt et al.
(arXiv 1912.09818) with another class. A similarity near that of unrelated maps passes; one near 1
means that the explanation does not depend on what was randomised. Known limits: the similarity
also depends on how noisy maps are, and on structure that any network of the kind passes on from
its input, so methods should not be ranked by these scores alone (arXiv 2405.02383).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any
import zlib

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from ..errors import InputError, unknown_name
from .scores import Explainer, Maps, Scores, assembled, check_count, maps_of, random_maps
from .similarities import compared
from .similarities import similarity as compare

Variables = Mapping[str, Any]
_MODES = ("cascading", "independent")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomizationScores(Scores):
  """Similarities of explanations before and after layers were randomised; low is good.

  `scores` are means over the stages, `oracle_scores` those of an explanation that keeps nothing:
  0. `random_scores` are similarities with noise, what unrelated maps have.

  Attributes:
    mode: "cascading" or "independent".
    layers: The S stages, by the name of the layer that each randomised.
    similarities: [M, S]; NaN where a stage gave a map that the similarity is not defined for.
    num_undefined: Number of these.
  """

  mode: str
  layers: tuple[str, ...]
  similarities: np.ndarray
  num_undefined: int

  def by_layer(self) -> dict[str, float]:
    """Mean similarity at each stage; NaN if it is defined for no image."""
    return {
      layer: float(column[np.isfinite(column)].mean()) if np.isfinite(column).any() else np.nan
      for layer, column in zip(self.layers, self.similarities.T, strict=True)
    }


def parameter_randomization(
  explainer_of: Callable[[Variables], Explainer],
  variables: Variables,
  images: np.ndarray,
  targets: np.ndarray,
  layers: Sequence[str],
  *,
  mode: str = "cascading",
  similarity: str = "spearman",
  fresh: Variables | None = None,
  batch_size: int = 16,
  seed: int = 0,
) -> RandomizationScores:
  """Compares explanations with those of networks whose layers were randomised.

  Adebayo et al. (arXiv 1810.03292, section 4): "cascading" randomises one layer more at each
  stage, from the logits down; "independent" randomises one layer at a time.

  Args:
    explainer_of: Makes an explainer of variables, e.g. `partial(attribute_with, model)`.
    variables: Those of the network.
    images: [N, H, W, colors] in [0, 1].
    targets: int [N]; they stay the same when the network changes.
    layers: Paths of the parameters to randomise, one per stage, in the order of the stages: see
      `layers_of`. Everything whose path starts with it belongs to a layer.
    mode: As above.
    similarity: "spearman" of signed values, "cosine" or "ssim".
    fresh: Variables to take for randomised layers, `model.init(...)` as published. None shuffles
      each array's own values, which suits every architecture: freshly drawn, small layer scales
      and norms' statistics of no data can silence a network.
    batch_size: Images explained at once.
    seed: Of the shuffling and of the random maps.

  Returns:
    Similarities. Excluded are images with a map that the similarity is not defined for, such as
    a flat one, from the network itself or at every stage.

  Raises:
    InputError: A layer without parameters, an unknown mode or similarity, or unusable images.
  """
  if mode not in _MODES:
    raise unknown_name("mode", mode, _MODES)
  if not layers:
    raise InputError("No layers to randomise were given.", "Use layers_of(model, images).")
  base = maps_of(explainer_of(variables), images, targets, batch_size)
  changed, columns = variables, []
  for layer in layers:
    before = changed if mode == "cascading" else variables
    changed = randomized(before, layer, fresh=fresh, seed=seed)
    maps = maps_of(explainer_of(changed), images, targets, batch_size)
    columns.append(compare(similarity, base, maps))
  similarities = np.stack(columns, axis=1)
  noise = compare(similarity, base, random_maps(seed, range(len(base)), base.shape[1:]))
  return _over_stages(similarity, similarities, noise, mode=mode, layers=tuple(layers))


def _over_stages(
  name: str, similarities: np.ndarray, noise: np.ndarray, **whole: Any
) -> RandomizationScores:
  """Scores similarities [N, S] by their mean over the stages, beside those with noise [N]."""
  defined = np.isfinite(similarities)
  kept = np.isfinite(noise) & defined.any(axis=1)
  reasons = {
    f"a map that {name} is not defined for": ~np.isfinite(noise),
    "such a map at every stage": ~defined.any(axis=1),
  }
  rows = {
    "scores": np.nanmean(np.where(kept[:, None], similarities, 0), axis=1),
    "random_scores": noise,
    "oracle_scores": 0.0,
    "similarities": similarities,
  }
  undefined = int((~defined[kept]).sum())
  return assembled(
    RandomizationScores, reasons, rows, higher_is_better=False, num_undefined=undefined, **whole
  )


def label_randomization(
  maps: Maps,
  maps_of_random: Maps,
  images: np.ndarray | None = None,
  targets: np.ndarray | None = None,
  *,
  similarity: str = "spearman",
  batch_size: int = 16,
  seed: int = 0,
) -> Scores:
  """Compares explanations with those of a network trained on labels that were shuffled.

  Adebayo et al. (arXiv 1810.03292, section 5). Low is good.

  Args:
    maps: An explainer of the network, or its maps [N, H, W].
    maps_of_random: The same for the network that was trained on shuffled labels.
    images: [N, H, W, colors], for explainers.
    targets: int [N], for explainers.
    similarity: "spearman" of signed values, "cosine" or "ssim".
    batch_size: Images explained at once.
    seed: Of the random maps.

  Returns:
    Similarities, beside those with noise and, as oracle, 0. Excluded are images with a map that
    the similarity is not defined for.

  Raises:
    InputError: Maps of different sizes or with NaN, an unknown similarity, nothing to score.
  """
  first = maps_of(maps, images, targets, batch_size)
  second = maps_of(maps_of_random, images, targets, batch_size)
  return _compared(first, second, similarity, seed)


def class_randomization(
  explainer: Explainer,
  images: np.ndarray,
  targets: np.ndarray,
  num_classes: int,
  *,
  similarity: str = "spearman",
  batch_size: int = 16,
  seed: int = 0,
) -> Scores:
  """Compares explanations of the target with those of another class, drawn at random.

  Sixt et al. (arXiv 1912.09818, section 4.2, "random logit"). Low is good. Arguments and result
  as for `label_randomization`, and `num_classes`, at least 2.
  """
  check_count("num_classes - 1", num_classes - 1)
  targets = np.asarray(targets)
  shift = np.random.default_rng(seed).integers(1, num_classes, len(targets))
  first = maps_of(explainer, images, targets, batch_size)
  second = maps_of(explainer, images, (targets + shift) % num_classes, batch_size)
  return _compared(first, second, similarity, seed)


def layers_of(model: nn.Module, images: np.ndarray, depth: int = 1) -> tuple[str, ...]:
  """Names the layers of a network that have parameters, from the logits down.

  Args:
    model: Network with `ops`.
    images: [N, H, W, colors], of which only the shape counts.
    depth: Of the names: 1 gives stem, blocks and head, more what is inside them.

  Returns:
    Paths below `params`, parts joined by "/", in the opposite order of their first use.
  """
  called: list[tuple[str, ...]] = []

  def record(function, arguments, keywords, context):
    called.append(context.module.path)
    return function(*arguments, **keywords)

  one = jax.ShapeDtypeStruct((1, *np.shape(images)[1:3], model.ops.encoding.channels), np.float32)
  with nn.intercept_methods(record):
    shapes = jax.eval_shape(model.init, jax.random.key(0), one)
  owners = {path[:-1] for path in traverse_util.flatten_dict(shapes["params"])}
  # Parameters at the top (tokens, positions) are called by no layer: their own name comes last.
  order = {"/".join(path[:depth]): None for path in called if path in owners and path}
  loose = {path[0] for path in traverse_util.flatten_dict(shapes["params"]) if len(path) == 1}
  return (*reversed(order), *sorted(loose))


def randomized(
  variables: Variables, layer: str, *, fresh: Variables | None = None, seed: int = 0
) -> dict[str, Any]:
  """Returns variables with one layer's parameters shuffled, or taken from `fresh`.

  Norms' statistics are kept where parameters are shuffled, and taken from `fresh` otherwise.

  Raises:
    InputError: No parameter's path starts with the layer's.
  """
  flat: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  new = None if fresh is None else traverse_util.flatten_dict(fresh, sep="/")
  found = False
  for path, leaf in flat.items():
    collection, _, rest = path.partition("/")
    if not f"{rest}/".startswith(f"{layer}/"):
      continue
    found |= collection == "params"
    if new is not None:
      flat[path] = new[path]
    elif collection == "params":
      random = np.random.default_rng((seed, zlib.crc32(path.encode())))
      values = np.asarray(leaf)
      flat[path] = random.permutation(values.reshape(-1)).reshape(values.shape)
  if not found:
    names = {path.split("/")[1] for path in flat if path.startswith("params/")}
    raise unknown_name("layer", layer, names)
  return traverse_util.unflatten_dict(flat, sep="/")


def _compared(first: np.ndarray, second: np.ndarray, similarity: str, seed: int) -> Scores:
  if first.shape != second.shape:
    raise InputError(
      f"The maps have shapes {first.shape} and {second.shape}, expected the same.",
      "Explain the same images with both.",
    )
  fields = {"oracle": 0.0, "seed": seed, "higher_is_better": False}
  return compared(Scores, similarity, first, second, **fields)
