"""The scores of FunnyBirds: whether an explanation names the parts that a network decides by.

Published for birds of five parts (Hesse et al., arXiv 2308.06248, section 4, and the authors'
evaluation code); here for any `PartScenes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any
import zlib

from flax import linen as nn
import numpy as np
from scipy import ndimage

from ...errors import InputError
from ..scores import Explainer, logits_of, maps_of, random_maps
from ..similarities import similarity
from .part_scenes import PartScenes, bits

_IRRELEVANT = 0.05  # of the output: the loss up to which a part is irrelevant


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartScores:
  """What FunnyBirds reports, each from 0 to 1, high being good.

  Attributes:
    accuracy: A, of the network on whole scenes.
    data_check: CSDC, the largest share of a sufficient set of parts that is called important.
    preservation: PC, how often the important parts alone keep the prediction.
    deletion: DC, how often the prediction changes without the important parts.
    distractibility: D, 1 less the share of irrelevant parts and things that is called important.
    correctness: SD, the rank correlation of parts' attributions and their removal's effect, from 0.
    contrastivity: TS, how often parts count more for the class that has them; NaN if never tried.
    threshold: Share of the attribution above which a part is called important: that at which
      completeness is best, as published.
    num_scenes: Scenes that were scored.
  """

  accuracy: float
  data_check: float
  preservation: float
  deletion: float
  distractibility: float
  correctness: float
  contrastivity: float
  threshold: float
  num_scenes: int

  @property
  def completeness(self) -> float:
    """Com, half of it the mean of CSDC, PC and DC, half D."""
    return _completeness(self.data_check, self.preservation, self.deletion, self.distractibility)

  @property
  def mean(self) -> float:
    """mX, the mean of completeness, correctness and contrastivity."""
    return (self.completeness + self.correctness + self.contrastivity) / 3

  def summary(self) -> dict[str, float]:
    """The contents of a report, as plain numbers."""
    return {
      "mean": self.mean,
      "completeness": self.completeness,
      **dataclasses.asdict(self),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartEffects:
  """A network's outputs for part scenes, which every explanation of it is compared with.

  Attributes:
    scenes: The scenes.
    logits: float [N, 2**P, C], for each set of parts.
    without_thing: float [N, B, C].
  """

  scenes: PartScenes
  logits: np.ndarray
  without_thing: np.ndarray

  @property
  def predicted(self) -> np.ndarray:
    """int [N, 2**P]."""
    return self.logits.argmax(axis=2)

  def losses(self) -> np.ndarray:
    """What the labelled class loses without each part and each thing, [N, P + B]."""
    scenes, rows = self.scenes, np.arange(len(self.scenes))
    start = self.logits[rows, scenes.whole, scenes.labels]
    singles = scenes.whole - (1 << np.arange(scenes.masks.shape[1]))
    parts = self.logits[rows[:, None], singles, scenes.labels[:, None]]
    things = np.take_along_axis(self.without_thing, scenes.labels[:, None, None], 2)[..., 0]
    return start[:, None] - np.concatenate([parts, things], axis=1)


def measure_parts(
  model: nn.Module, variables: Mapping[str, Any], scenes: PartScenes, batch_size: int = 64
) -> PartEffects:
  """Measures a network's outputs for every set of parts: N * (2**P + B) forward passes.

  Raises:
    InputError: A network of other classes.
  """
  shape, things = scenes.pictures.shape, scenes.without_thing.shape
  flat = np.concatenate(
    [a.reshape(-1, *shape[2:]) for a in (scenes.pictures, scenes.without_thing)]
  )
  blocks = [flat[at : at + 1024].astype(np.float32) / 255 for at in range(0, len(flat), 1024)]
  logits = np.concatenate([logits_of(model, variables, some, batch_size) for some in blocks])
  if logits.shape[1] != len(scenes.classes):
    raise InputError(
      f"The network has {logits.shape[1]} classes, the scenes have {len(scenes.classes)}.",
      "Train it on these scenes.",
    )
  cut = shape[0] * shape[1]
  return PartEffects(
    scenes=scenes,
    logits=logits[:cut].reshape(*shape[:2], -1),
    without_thing=logits[cut:].reshape(*things[:2], -1),
  )


def part_scores(
  effects: PartEffects,
  explainer: Explainer,
  *,
  thresholds: Sequence[float] = tuple(np.linspace(0.01, 0.5, 80)),
  dilation: int | None = None,
  batch_size: int = 16,
) -> PartScores:
  """Scores an explainer by the parts that it names.

  The attribution of a part is the sum of the map over its pixels and those around it; a part is
  important if that is more than a share of the whole map's sum. For CSDC, D, SD and TS the
  labelled class, or two others, are explained, for PC and DC the predicted one, as published.
  TS asks only where the network itself loses more of each class without the parts it shares.

  Args:
    effects: From `measure_parts`.
    explainer: (images, targets) -> maps.
    thresholds: Shares that are tried. Published: these.
    dilation: Odd width of a square that part masks are dilated by. Published: 5 of 256 pixels,
      which None scales.
    batch_size: Scenes explained at once.

  Raises:
    InputError: Maps that cannot be used.
  """
  scenes = effects.scenes
  whole = scenes.images(np.arange(len(scenes)), np.full(len(scenes), scenes.whole))
  width = dilation or 2 * round(2 * whole.shape[1] / 256) + 1
  masks = _dilated(np.concatenate([scenes.masks, scenes.thing_masks], axis=1), width)
  predicted = effects.predicted[:, scenes.whole]

  def given(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = maps_of(explainer, whole, targets, batch_size).astype(np.float64)
    return np.einsum("nhw,nphw->np", maps, masks), maps.sum(axis=(1, 2))[:, None]

  own, total = given(scenes.labels)
  same = (predicted == scenes.labels).all()
  guessed, guessed_total = (own, total) if same else given(predicted)
  shares = np.array(thresholds)[:, None, None]
  important, for_prediction = own > shares * total, guessed > shares * guessed_total
  preserved, changed = _kept_and_changed(effects, for_prediction[..., : scenes.masks.shape[1]])
  found = _data_check(effects, important, predicted == scenes.labels)
  undistracted = _undistracted(effects, important)
  best = int(np.argmax(_completeness(found, preserved, changed, undistracted)))
  return PartScores(
    accuracy=float((predicted == scenes.labels).mean()),
    data_check=float(found[best]),
    preservation=float(preserved[best]),
    deletion=float(changed[best]),
    distractibility=float(undistracted[best]),
    correctness=_correctness(effects, own),
    contrastivity=_contrastivity(effects, lambda targets: given(targets)[0]),
    threshold=float(thresholds[best]),
    num_scenes=len(scenes),
  )


def random_explainer(seed: int = 0) -> Explainer:
  """Returns an explainer whose maps are noise, another for every picture and target."""

  def explain(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    rows = [
      zlib.crc32(image.tobytes(), int(target))
      for image, target in zip(images, targets, strict=True)
    ]
    return random_maps(seed, rows, images.shape[1:3])

  return explain


def oracle_explainer(effects: PartEffects) -> Explainer:
  """Returns an explainer that gives each part, all over its pixels, what the target loses without.

  No network explains itself so: it is the measured truth, drawn as a map of whole scenes.
  """
  scenes, parts = effects.scenes, effects.scenes.masks.shape[1]
  whole = scenes.images(np.arange(len(scenes)), np.full(len(scenes), scenes.whole))
  places = {image.tobytes(): i for i, image in enumerate(whole)}
  singles = scenes.whole - (1 << np.arange(parts))
  losses = effects.logits[:, [scenes.whole]] - effects.logits[:, singles]  # [N, P, C]

  def explain(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    rows = np.array([places[image.tobytes()] for image in images.astype(np.float32)])
    own = losses[rows[:, None], np.arange(parts), targets[:, None]]
    sizes = np.maximum(scenes.masks[rows].sum(axis=(2, 3)), 1)
    return np.einsum("np,nphw->nhw", own / sizes, scenes.masks[rows])

  return explain


def _completeness(data_check: Any, preservation: Any, deletion: Any, undistracted: Any) -> Any:
  return ((data_check + preservation + deletion) / 3 + undistracted) / 2


def _dilated(masks: np.ndarray, width: int) -> np.ndarray:
  return ndimage.binary_dilation(masks, np.ones((1, 1, width, width), bool))


def _data_check(effects: PartEffects, important: np.ndarray, right: np.ndarray) -> np.ndarray:
  """CSDC at each threshold, over the scenes that are classified rightly."""
  scenes, parts = effects.scenes, effects.scenes.masks.shape[1]
  shares = [
    np.max([important[:, i, :parts][:, one].mean(axis=1) for one in scenes.sufficient[k]], axis=0)
    for i, k in enumerate(scenes.labels)
    if right[i]
  ]
  return np.mean(shares, axis=0) if shares else np.zeros(len(important))


def _kept_and_changed(effects: PartEffects, important: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """PC and DC at each threshold, for the parts that are important to the prediction."""
  predicted, whole = effects.predicted, effects.scenes.whole
  rows, kept = np.arange(important.shape[1]), bits(important)
  before = predicted[:, whole]
  same = predicted[rows, kept] == before
  changed = predicted[rows, whole - kept] != before
  return same.mean(axis=1), changed.mean(axis=1)


def _undistracted(effects: PartEffects, important: np.ndarray) -> np.ndarray:
  """D at each threshold, over scenes with parts or things whose removal costs next to nothing."""
  scenes, losses = effects.scenes, effects.losses()
  start = effects.logits[np.arange(len(scenes)), scenes.whole, scenes.labels]
  irrelevant = losses < _IRRELEVANT * np.abs(start)[:, None]
  some = irrelevant.any(axis=1)
  if not some.any():
    return np.ones(len(important))
  named = (important & irrelevant)[:, some].sum(axis=2) / irrelevant[some].sum(axis=1)
  return 1 - named.mean(axis=1)


def _correctness(effects: PartEffects, attributed: np.ndarray) -> float:
  """SD, over scenes where both sides have ranks."""
  parts = effects.scenes.masks.shape[1]
  found = similarity("spearman", attributed[:, :parts], effects.losses()[:, :parts])
  found = found[np.isfinite(found)]
  return float(found.mean() / 2 + 0.5) if len(found) else 0.5


def _contrastivity(effects: PartEffects, given: Callable[[np.ndarray], np.ndarray]) -> float:
  """TS, over scenes with two classes that share parts with theirs, where the network sees these."""
  scenes = effects.scenes
  pairs = [scenes.foils(int(k)) for k in scenes.labels]
  rows = np.array([i for i, pair in enumerate(pairs) if pair is not None], int)
  if not len(rows):
    return float("nan")
  foils = np.array([pair or (0, 0) for pair in pairs])
  common = scenes.classes[foils] == scenes.classes[scenes.labels][:, None]  # [N, 2, P]
  gone = effects.logits[np.arange(len(scenes))[:, None], scenes.whole - bits(common)]
  left = np.take_along_axis(gone, foils[:, None].repeat(2, axis=1), 2)  # [N, parts of, class]
  seen = (left[:, 0, 0] < left[:, 1, 0]) & (left[:, 1, 1] < left[:, 0, 1])
  rows = rows[seen[rows]]
  if not len(rows):
    return float("nan")
  parts = scenes.masks.shape[1]
  sums = np.stack([given(foils[:, k])[:, :parts] for k in (0, 1)], axis=1)
  counted = np.einsum("nkp,nsp->nks", sums, common)[rows]  # attribution of class k to shared set s
  hits = np.stack([counted[:, 0, 0] > counted[:, 1, 0], counted[:, 1, 1] > counted[:, 0, 1]])
  return float(hits.mean())
