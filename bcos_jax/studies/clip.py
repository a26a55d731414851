"""B-cosified CLIP against its teacher: a study of accuracy and of prompt explanations."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

import bcos_jax

from .. import TextTower, render, zero_shot
from ..inputs import of_pictures
from ..io import bundles
from ..train.data import captions, open_dataset
from ..train.loop import TrainResult
from ..train.objectives import pairs
from ..train.probes import heads, knn
from ..train.start import Network
from . import frozen
from .alignment import BEGUN, STUDENT, TEACHER, bars, pointing, points
from .frozen import Worth
from .lab import Lab, StudyPictures
from .study import Findings
from .tables import Table

STEPS, STUDENT_STEPS, SHORT_STEPS = 500, 600, 6
FIGURE_PROMPTS = 5
_KS = (5,)
_BATCH = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
  """What an image tower says of texts.

  Attributes:
    accuracy: Of the classes by their names alone.
    recall: 'image_to_text@k' and 'text_to_image@k' on the test pictures and full captions.
  """

  accuracy: float
  recall: dict[str, float]


def study(lab: Lab) -> Findings:
  """Trains a pair on captions, B-cosifies its image tower, and compares both on texts."""
  frozen.check(lab, "shape_scenes")
  result, text, networks = _trained(lab)
  read = of_pictures(result.preprocess)
  everything = lab.pictures_of(read)
  towers = {name: _towers(network, result, text) for name, network in networks.items()}
  seen = {name: _seen(lab, tower, everything) for name, tower in towers.items()}
  for name, found in seen.items():
    lab.say(f"  {name}: zero-shot {found.accuracy:.1%}")
  worth = frozen.worth(lab, networks, read)
  pictures = everything.some(lab.setting.num_images)
  maps = _maps(lab, networks, text, pictures)
  scores = {name: frozen.localised(lab, found, pictures) for name, found in maps.items()}
  return Findings(
    title=f"A B-cosified CLIP of captions, {lab.dataset}",
    question=_question(lab),
    table=_table(seen, worth, scores),
    answer=_answer(seen, worth, scores),
    plots=_plots(networks[STUDENT], text, pictures, maps, scores),
  )


def _trained(lab: Lab) -> tuple[TrainResult, TextTower, dict[str, Network]]:
  """Returns the conventional pair's result, its text tower, and the image towers by name."""
  first, second = (SHORT_STEPS,) * 2 if lab.short else (STEPS, STUDENT_STEPS)
  begin = lab.bundle("conventional", lab.conventional())
  result = lab.trained("pair", "shape_captions", first, f"--config.init={begin}")
  assert result.objective is not None, "it comes from a run"
  result.objective.save(lab.workdir / "pair", jax.device_get(result.state.params))
  text = TextTower.load(lab.workdir / "pair" / pairs.TEXT, lab.workdir / "pair" / pairs.TOKENIZER)
  bundle = lab.bundle("pair", result)
  begun, student = lab.taught("pair-bcosified", "shape_captions:bcosify", second, bundle)
  networks = {
    TEACHER: (result.model, jax.device_get(result.variables)),
    BEGUN: begun,
    STUDENT: (student.model, jax.device_get(student.variables)),
  }
  return result, text, networks


def _towers(network: Network, result: TrainResult, text: TextTower) -> zero_shot.Towers:
  image = bundles.make_bundle(*network, preprocess=result.preprocess)
  return zero_shot.Towers.of(image, text)


def _prompts(names: tuple[str, ...]) -> list[str]:
  return [captions.noun(name) for name in names]


def _seen(lab: Lab, towers: zero_shot.Towers, pictures: StudyPictures) -> Seen:
  """Classifies by names, and looks for the caption of a picture and the picture of a caption."""
  classifier = towers.classifier(_prompts(pictures.names), ("{}",))
  best = classifier.classify(pictures.images, batch_size=100).classes[:, 0]
  dataset = open_dataset(lab.dataset, "test")
  texts = [own for (own,) in captions.captions(dataset, 1, share=1.0)]
  scores = towers.logits(
    towers.image_features(pictures.images, batch_size=100), towers.text_features(texts)
  )
  return Seen(
    accuracy=float(np.mean(best == pictures.labels)),
    recall=zero_shot.recall(scores, np.arange(len(texts)), ks=_KS),
  )


def _maps(
  lab: Lab, networks: Mapping[str, Network], text: TextTower, pictures: StudyPictures
) -> dict[str, np.ndarray]:
  """Returns maps [N, H, W] of each picture's prompt, by network or by method on the teacher."""
  directions = text.features(_prompts(pictures.names))
  own = {}
  for name in (BEGUN, STUDENT):
    ex = bcos_jax.explain_text(*networks[name], pictures.images, directions, batch_size=_BATCH)
    own[name] = ex.contributions[np.arange(len(pictures.labels)), pictures.labels]
  return {**own, **frozen.post_hoc(lab, *_scored(networks[TEACHER], directions), pictures)}


def _scored(network: Network, directions: np.ndarray) -> Network:
  """Returns the tower with a logit for each prompt: the product of features and direction.

  The cosine with the length of the features held, but for a factor that a picture has in common:
  what the student's explanations are of. The plain cosine has no gradient along the features.
  """
  head = heads.make(network[0], len(directions), "linear")
  return heads.join(*network, head, {heads.LAST: {"kernel": directions.T}})


def _question(lab: Lab) -> str:
  steps, more = (SHORT_STEPS,) * 2 if lab.short else (STEPS, STUDENT_STEPS)
  return (
    f"An image tower and a text tower learn for {steps} steps from captions such as 'a red star "
    "with a bar', by CLIP's loss. The image tower begins as the classifier of the other studies, "
    "without its head (trained with labels); the text tower begins at random. The B-cos twin of "
    f"the image tower (B=2, no biases) learns for {more} steps, from pictures alone, the "
    "embeddings of the conventional one; the text tower stays. Zero-shot: the 12 "
    "classes by prompts such as 'a star'. Retrieval among all test "
    "pictures and their captions with every detail, the right one among the 5 best. Probes and 20 "
    "nearest neighbours on frozen features. Energy pointing game: the prompt of the labelled class "
    f"in {lab.setting.num_images} pictures, masks of its object, maps averaged over "
    f"{lab.setting.smooth}x{lab.setting.smooth} pixels. The B-cos towers explain themselves "
    "(`explain_text`), the teacher is explained by post-hoc methods, of the product of its "
    "features with the same prompt."
  )


def _table(seen: dict[str, Seen], worth: dict[str, Worth], scores: Mapping[str, Any]) -> Table:
  rows = []
  for name, found in seen.items():
    own = scores.get(name)
    rows.append(
      (
        name,
        "itself" if own else "see below",
        found.accuracy,
        *found.recall.values(),
        worth[name].probe.accuracy,
        knn.agreement(worth[TEACHER].neighbours, worth[name].neighbours),
        own and own.mean,
        own and own.standard_error,
      )
    )
  gap = (None,) * 5
  for name, score in scores.items():
    if name not in seen:
      rows.append((TEACHER, name, *gap, score.mean, score.standard_error))
  rows.append(("–", "random map", *gap, scores[STUDENT].random, None))
  columns = {"network": "", "explained by": "", "zero-shot": ".1%", "image to text": ".1%"}
  columns |= {"text to image": ".1%", "probe": ".1%", "k-NN as the teacher": ".1%"}
  return Table({**columns, "energy pointing": ".3f", "±": ".3f"}, rows)


def _answer(
  seen: dict[str, Seen], worth: dict[str, Worth], scores: Mapping[str, Any]
) -> tuple[str, ...]:
  shot = {name: found.accuracy for name, found in seen.items()}
  probes = {name: found.probe.accuracy for name, found in worth.items()}
  return (
    f"Zero-shot: the student is {points(shot[STUDENT], shot[TEACHER])} the teacher "
    f"({shot[STUDENT]:.1%} and {shot[TEACHER]:.1%}); before, it had {shot[BEGUN]:.1%}.",
    f"Probe: the student is {points(probes[STUDENT], probes[TEACHER])} the teacher.",
    pointing(scores, STUDENT, (BEGUN,)),
  )


def _plots(
  student: Network,
  text: TextTower,
  pictures: StudyPictures,
  maps: dict[str, np.ndarray],
  scores: Mapping[str, Any],
):
  drawn = slice(0, 3)
  return {
    "clip-prompts": ("One picture, a column for each prompt", _figure(student, text, pictures)),
    "clip-energy": (
      "Energy pointing score of prompts: the student, and post-hoc methods on the teacher",
      bars(scores, STUDENT),
    ),
    "clip-maps": (
      "Maps of the prompt of the class: the student before and after, and methods on the teacher",
      render.comparison(
        pictures.images[drawn],
        {name: found[drawn] for name, found in maps.items()},
        _prompts(tuple(pictures.names[label] for label in pictures.labels[drawn])),
        exact=[STUDENT, BEGUN],
      ),
    ),
  }


def _figure(student: Network, text: TextTower, pictures: StudyPictures):
  """Draws the first picture for its own prompt and for those of other classes."""
  label = int(pictures.labels[0])
  classes = [(label + i) % len(pictures.names) for i in range(FIGURE_PROMPTS)]
  prompts = _prompts(tuple(pictures.names[i] for i in classes))
  ex = bcos_jax.explain_text(*student, pictures.images[:1], prompts, reader=text)
  return render.prompts(ex, 0, prompts, options=render.Options(smooth=5))
