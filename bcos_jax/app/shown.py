"""The content of the page: cards that answer one question, and one figure to download."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import re
import tempfile

import numpy as np

from .. import render
from ..errors import InputError
from ..explain.images import Explanation
from ..render import kinds
from ..render.figure import completeness, percent
from .networks import ServedNetwork

ONE, CLASSES, NETWORKS = "one", "classes", "networks"


@dataclasses.dataclass(frozen=True)
class Question:
  """What the user asks about a picture.

  Attributes:
    mode: "one" class of the first network, two "classes" of it, or one class of two "networks".
    target: The class, of the first network.
    rival: The class to compare with; of mode "classes" only.
  """

  mode: str
  target: int
  rival: int | None = None

  @property
  def pair(self) -> tuple[int, int]:
    """The two classes of mode "classes"."""
    assert self.rival is not None, "only mode 'classes' compares two"
    return self.target, self.rival


@dataclasses.dataclass(frozen=True)
class Card:
  """One explanation, ready to lay out.

  Attributes:
    title: What is explained.
    panels: (caption, image [H, W, 3] in [0, 1]) in reading order, before the map.
    caption: Of the map.
    values: The map, [H, W] floats.
    cutoff: Contribution at which its colour saturates.
    words: What blue and what red support.
    unit: What a value of the map is.
    sum: The completeness line.
    kind: What kind of explanation it is, in words.
    note: A further remark; may be empty.
    classes: (class, name, probability), most probable first; of the first card also the
      explained class.
  """

  title: str
  panels: tuple[tuple[str, np.ndarray], ...]
  caption: str
  values: np.ndarray
  cutoff: float
  words: tuple[str, str] = ("opposes", "supports")
  unit: str = "contribution"
  sum: str = ""
  kind: str = ""
  note: str = ""
  classes: tuple[tuple[int, str, float], ...] = ()


def top_classes(
  network: ServedNetwork, image: np.ndarray, also: int | None = None
) -> tuple[tuple[int, str, float], ...]:
  """Returns (class, name, probability) of the most probable classes of an image.

  Args:
    network: Whose classes.
    image: [H, W, colors] in [0, 1].
    also: A class that is always listed; it replaces the last one if necessary.
  """
  ex = network.explain(image, [also or 0])
  if also is None:
    ex = dataclasses.replace(ex, target=None)
  return render.view(ex, 0, network.labels, network.options).classes


def answer(
  networks: Sequence[ServedNetwork], images: Sequence[np.ndarray], question: Question
) -> tuple[Card, ...]:
  """Answers a question about a picture.

  Args:
    networks: One or two.
    images: The picture as each network is given it, [H, W, colors] in [0, 1].
    question: See `Question`.

  Returns:
    One card; or both classes' and that of their difference; or one card per network.

  Raises:
    InputError: A class that does not exist, one class compared with itself, no second network.
  """
  _check(networks, question)
  if question.mode == CLASSES:
    return _two_classes(networks[0], images[0], question)
  if question.mode == NETWORKS:
    return _two_networks(networks, images, question)
  shown = view_of(networks[0], networks[0].explain(images[0], [question.target]))
  card = _card(shown, _title(shown))
  note = (
    "This is a conventional network. Its gates are held fixed here; what its biases add belongs "
    "to no pixel, so read the sum below before the picture."
  )
  return (dataclasses.replace(card, note=note if networks[0].conventional else ""),)


def _check(networks: Sequence[ServedNetwork], question: Question) -> None:
  if question.mode not in (ONE, CLASSES, NETWORKS):
    raise InputError(f"Unknown view {question.mode!r}.", "Choose one of the page's views.")
  if question.mode == CLASSES and question.rival in (None, question.target):
    raise InputError(
      "Both classes are the same.", "Choose another class to compare with, or another on the left."
    )
  if question.mode == NETWORKS and len(networks) < 2:
    raise InputError(
      "Only one network is loaded.", "Start the app with two: bcos-jax app BUNDLE BUNDLE2."
    )


def view_of(network: ServedNetwork, ex: Explanation, index: int = 0) -> render.View:
  """Returns one of a network's explanations, ready to be shown."""
  return render.view(ex, index, network.labels, network.options)


def _title(shown: render.View) -> str:
  known = shown.probability
  return shown.name if known is None else f"{shown.name}  ·  {percent(known)}"


def _card(shown: render.View, title: str, picture: bool = True) -> Card:
  panels = [("Picture", shown.picture)] if picture or shown.colored is None else []
  if shown.colored is not None:
    panels.append(("What the network sees in it", shown.colored))
  if picture:
    panels.append(("Contributions on the picture", shown.overlay))
  return Card(
    title=title,
    panels=tuple(panels),
    caption="Contributions",
    values=shown.contributions,
    cutoff=shown.cutoff,
    sum=completeness(shown),
    kind=shown.kind,
    classes=shown.classes,
  )


def _two_classes(network: ServedNetwork, image: np.ndarray, question: Question) -> tuple[Card, ...]:
  ex = network.explain(image, question.pair)
  views = [view_of(network, ex, 0), view_of(network, ex, 1)]
  between = view_of(network, ex.rather_than((0,), (1,)))
  names = [shown.name for shown in views]
  cards = [_card(shown, _title(shown), picture=False) for shown in views]
  rest = completeness(between).removeprefix("output ")
  cards.append(
    dataclasses.replace(
      _card(between, f"{names[0]} rather than {names[1]}"),
      panels=(("Picture", between.picture),),
      caption="Difference of the contributions",
      unit="difference",
      words=(f"for {names[1]}", f"for {names[0]}"),
      sum=f"difference of the outputs {rest}",
    )
  )
  # Contributions to outputs of one network have one unit: one scale makes them comparable.
  cutoff = max(card.cutoff for card in cards)
  cards[2] = dataclasses.replace(cards[2], note="All three maps have one scale.")
  return tuple(dataclasses.replace(card, cutoff=cutoff) for card in cards)


def _two_networks(
  networks: Sequence[ServedNetwork], images: Sequence[np.ndarray], question: Question
) -> tuple[Card, ...]:
  first, second = networks
  name = first.labels[question.target]
  cards = []
  for network, image in zip(networks, images, strict=True):
    target = question.target if network is first else same_class(first, second, question.target)
    note = "" if target is not None else f"This network has no class {name}: its own best is shown."
    target = top_classes(network, image)[0][0] if target is None else target
    shown = view_of(network, network.explain(image, [target]))
    card = _card(shown, f"{network.name}  ·  {_title(shown)}", picture=False)
    card = dataclasses.replace(card, note=note)
    if network.conventional:
      card = _post_hoc(card, network, network.input_x_gradient(image, target), shown.value)
    cards.append(card)
  return tuple(cards)


def same_class(first: ServedNetwork, second: ServedNetwork, target: int) -> int | None:
  """Returns the number that a class of the first network has in the second, None for no such."""
  if first.labels[target] in second.labels:
    return second.labels.index(first.labels[target])
  unnamed = not (first.bundle.labels and second.bundle.labels)
  return target if unnamed and len(first.labels) == len(second.labels) else None


def _post_hoc(card: Card, network: ServedNetwork, values: np.ndarray, output: float) -> Card:
  """The card of a conventional network beside another: a map labelled as post hoc."""
  text = (
    "This is a conventional network. Input × gradient is a post-hoc attribution: it need not "
    "add up to the output."
  )
  return dataclasses.replace(
    card,
    caption="Input × gradient (post hoc)",
    unit="attribution",
    values=values,
    cutoff=float(render.cutoff_of(values, network.options.percentile)),
    kind=kinds.POST_HOC,
    sum=f"output {output:.3f}; sum of the map {float(values.sum()):.3f}".replace("-", "−"),
    note=f"{card.note} {text}".strip(),
  )


def draw(
  networks: Sequence[ServedNetwork], images: Sequence[np.ndarray], question: Question
) -> bytes:
  """Draws the figure of an answer, as `bcos_jax.render` does it, and returns it as PNG.

  Arguments and errors as for `answer`.
  """
  _check(networks, question)
  network = networks[0]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "figure.png"
    if question.mode == ONE:
      ex = network.explain(images[0], [question.target])
      render.figure(ex, 0, network.labels, path, options=network.options)
    elif question.mode == CLASSES:
      _draw_classes(network, images[0], question, path)
    else:
      _draw_networks(networks, images, question, path)
    return path.read_bytes()


def _draw_classes(
  network: ServedNetwork, image: np.ndarray, question: Question, path: pathlib.Path
):
  ex = network.explain(image, question.pair)
  between = np.asarray(ex.rather_than((0,), (1,)).contributions)
  render.figures(
    ex,
    [0, 1],
    network.labels,
    path,
    baselines={"this class rather than the other": np.concatenate([between, -between])},
    title=" or ".join(network.labels[number] for number in question.pair),
    options=network.options,
  )


def _draw_networks(
  networks: Sequence[ServedNetwork],
  images: Sequence[np.ndarray],
  question: Question,
  path: pathlib.Path,
):
  first, second = networks
  cards = _two_networks(networks, images, question)
  # The first network's own contributions are drawn in any case; a post-hoc map differs in kind.
  beside = cards if first.conventional else cards[1:]
  render.figures(
    first.explain(images[0], [question.target]),
    [0],
    first.labels,
    path,
    baselines={f"{card.title}  ·  {card.caption.lower()}": card.values[None] for card in beside},
    title=f"{first.name} and {second.name}",
    options=first.options,
  )


def file_name(networks: Sequence[ServedNetwork], question: Question) -> str:
  """Returns a name for the figure that every file system takes."""
  labels = networks[0].labels
  parts = [labels[question.target]]
  if question.mode == CLASSES:
    parts += ["or", labels[question.pair[1]]]
  if question.mode == NETWORKS:
    parts += ["by", *(network.name for network in networks)]
  words = re.sub(r"[^A-Za-z0-9]+", "-", " ".join(parts)).strip("-").lower()
  return f"explanation-{words[:60] or question.target}.png"


def share(values: np.ndarray) -> np.ndarray:
  """Returns each value of a map [H, W] as a share of the sum of their sizes, signs kept."""
  total = float(np.abs(values).sum(dtype=np.float64))
  return values / total if total else np.zeros_like(values)
