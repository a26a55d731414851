"""Networks with all that belongs to them, which explain and predict files, pictures and texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import compiling, render
from ..batches import Progress, check_batch_size, check_picture_batch
from ..errors import InputError
from ..explain.images import Explanation, explain
from ..explain.text_reader import TextReader
from ..explain.texts import TextExplanation
from ..inputs import of_pictures
from ..io import bundles
from ..models import is_language_model
from . import card, sharing
from .inputs import Picture, batches, gathered
from .labels import classes_of, named_classes

BATCH_SIZE = 16


class RankedClass(NamedTuple):
  """A class, or token, and how probable it is.

  Attributes:
    label: Its name; its number where names are not known.
    probability: In [0, 1]; a sigmoid of its own, or a softmax, as the network was trained.
    number: Of the class or token.
  """

  label: str
  probability: float
  number: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network(bundles.Bundle):
  """A bundle that reads files, pictures and texts, and explains what it makes of them."""

  @classmethod
  def of(cls, bundle: bundles.Bundle) -> Network:
    """Returns the network of a bundle; nothing is copied."""
    fields = dataclasses.fields(bundles.Bundle)
    return cls(**{field.name: getattr(bundle, field.name) for field in fields})

  def __repr__(self) -> str:
    model, known = self.model, ""
    if self.labels:
      shown = ", ".join(map(repr, self.labels[:3]))
      known = f": {shown}{', ...' if len(self.labels) > 3 else ''}"
    what = f"{getattr(model, 'num_classes', 0)} classes{known}"
    what = what if getattr(model, "num_classes", 0) else model.predicts.replace("_", " ")
    return f"Network({self.name}, {type(model.ops).__name__}, {what})"

  @property
  def name(self) -> str:
    """Name of the architecture."""
    return self.config.get("architecture") or type(self.model).__name__

  def explain(
    self,
    inputs: Any,
    target: Any = None,
    *,
    batch_size: int = BATCH_SIZE,
    frame: int = 0,
    progress: Progress = iter,
  ) -> Explanation | TextExplanation:
    """Explains an output for each picture, or text.

    Args:
      inputs: Pictures: a file, folder, pattern or list file (see `io.pictures.expanded`), a PIL
        image, an array [H, W, C] or [N, H, W, C] in [0, 1], or a list of these. They are turned
        upright, resized and cropped as the network's evaluation does it; `readings` of the
        explanation says how. For language models a text, or a list of texts.
      target: What to explain: None, the predicted class; a class by name or number, one for all
        or a list with one for each input; or whatever `bcos_jax.explain` takes.
      batch_size: Inputs at a time.
      frame: Of animated pictures and files of several pages, counted from 0.
      progress: Wraps the loop over batches, such as `tqdm.tqdm`.

    Returns:
      The explanation: `show()` it, `save(folder)` it, or take its arrays.

    Raises:
      InputError: An input that cannot be read, an unknown class, or a network that has no classes.
    """
    if is_language_model(self.model):
      return self._reader.explain(_texts(inputs), target, batch_size=batch_size)
    batches = self.explanations(
      inputs, target, batch_size=batch_size, frame=frame, progress=progress
    )
    return joined(list(batches))

  def explanations(
    self,
    inputs: Any,
    target: Any = None,
    *,
    batch_size: int = BATCH_SIZE,
    frame: int = 0,
    progress: Progress = iter,
  ) -> Iterator[Explanation]:
    """Yields explanations of pictures, batch by batch, so that any number fits into memory.

    Arguments and errors as for `explain`; what can be told from the arguments is told at once.
    """
    pictures = self.pictures(inputs)
    for picture in pictures:
      picture.check(frame)
    if not callable(target):
      self._check_classes()
      target = classes_of(target, self.labels, self.model.num_classes, len(pictures))
    size = min(check_batch_size(batch_size) or len(pictures), len(pictures))
    side, encoding = of_pictures(self.preprocess).size, self.model.ops.encoding
    channels = encoding.colors + encoding.channels
    check_picture_batch(size, side, channels, "Choose a smaller batch size.")
    return self._explained(pictures, target, size, frame, progress)

  def _explained(
    self, pictures: Sequence[Picture], target: Any, size: int, frame: int, progress: Progress
  ) -> Iterator[Explanation]:
    preprocess = of_pictures(self.preprocess)
    for rows, kept, images, readings in batches(pictures, preprocess, size, frame, progress):
      asked = target[rows] if isinstance(target, np.ndarray) else target
      ex = explain(self.model, self._on_device, images, asked)
      assert isinstance(ex, Explanation)  # of images
      ex = jax.tree.map(lambda leaf, kept=kept: leaf[:kept], ex)
      yield dataclasses.replace(
        ex,
        labels=named_classes(self.labels, ex.logits),
        names=tuple(pictures[i].name for i in rows[:kept]),
        readings=readings,
        network=self.name,
        options=render.options_of(self),
      )

  def predict(
    self, inputs: Any, top: int = 5, *, batch_size: int = BATCH_SIZE, frame: int = 0
  ) -> list[RankedClass] | list[list[RankedClass]]:
    """Returns the most probable classes of a picture or text, or of each of several.

    Args:
      inputs: As for `explain`.
      top: Number of classes, the most probable first.
      batch_size: Inputs at a time.
      frame: As for `explain`.

    Returns:
      A list of predictions for a single file, image or text; else a list of such lists.

    Raises:
      InputError: As `explain`.
    """
    if not isinstance(top, int) or top < 1:
      raise InputError(f"top is {top!r}, expected at least 1.", "For example: top=5.")
    if is_language_model(self.model):
      single = isinstance(inputs, str)
      logits = self._reader.explain(
        _texts(inputs), batch_size=batch_size, keep_weights=False
      ).logits
      softmax, name_of = True, self._reader.name_of
    else:
      self._check_classes()
      pictures = self.pictures(inputs)
      single = len(pictures) == 1 and pictures[0].single(inputs)
      logits = self._logits(pictures, min(check_batch_size(batch_size) or 1, len(pictures)), frame)
      softmax = self.model.ops.probability == "softmax"
      names = self.labels or tuple(map(str, range(logits.shape[1])))
      name_of = names.__getitem__
    function = jax.nn.softmax if softmax else jax.nn.sigmoid
    shares = np.asarray(function(jnp.asarray(logits, jnp.float32)))
    found = []
    for row, own in zip(logits, shares, strict=True):
      best = np.argsort(-row, kind="stable")[:top].tolist()
      found.append([RankedClass(name_of(i), float(own[i]), i) for i in best])
    return found[0] if single else found

  def save_pretrained(
    self,
    folder: str | os.PathLike,
    *,
    repository: str = "",
    examples: Any = None,
    license: str = "",
    base_model: str = "",
    datasets: Sequence[str] = (),
    overwrite: bool = False,
  ) -> pathlib.Path:
    """Writes the network as a folder for others: a bundle with a model card.

    The card, README.md, is written from what the bundle records and from explanations that are
    computed now; what is not known is left out. Absolute paths in the record are cut to their last
    part.

    Args:
      folder: Where to; new, or a bundle.
      repository: Hub id that it is meant for, which the card then opens it by.
      examples: Pictures or texts to explain in the card, as for `explain`; None takes the examples
        that came with the network, if there are any.
      license: As the hub names it, such as "apache-2.0".
      base_model: Hub id of the network that it was made from, where the bundle does not know it.
      datasets: Hub ids of what it was trained on.
      overwrite: Replaces what was written there before.

    Returns:
      The folder; `bcos_jax.load` reads it.

    Raises:
      InputError: It cannot be written or holds something else; examples that cannot be read.
    """
    stated = card.Stated(license=license, base_model=base_model, datasets=tuple(datasets))
    return sharing.save(
      self, folder, name=repository, examples=examples, stated=stated, overwrite=overwrite
    )

  def push_to_hub(
    self,
    repository: str,
    *,
    private: bool | None = None,
    examples: Any = None,
    license: str = "",
    base_model: str = "",
    datasets: Sequence[str] = (),
    overwrite: bool = False,
  ) -> str:
    """Uploads what `save_pretrained` writes to the Hugging Face hub, by one commit.

    The token is that of HF_TOKEN or of `hf auth login`.

    Args:
      repository: `owner/name`, or `owner/name@branch`; made if it is not there.
      private: Whether a new repository is private; None leaves it to the owner's settings.
      examples: See `save_pretrained`, as for the following.
      license: Its license.
      base_model: What it was made from.
      datasets: What it was trained on.
      overwrite: Replaces the files of a branch that holds some; its history keeps the old ones.

    Returns:
      The address of the commit.

    Raises:
      InputError: A malformed id, no token, HF_HUB_OFFLINE, a repository that holds files already
        or is public where a private one is asked for; or the hub refuses.
      RunError: The hub cannot be reached, or the connection fails; the branch is as it was.
    """
    stated = card.Stated(license=license, base_model=base_model, datasets=tuple(datasets))
    return sharing.push(
      self, repository, private=private, examples=examples, stated=stated, overwrite=overwrite
    )

  def pictures(self, inputs: Any) -> list[Picture]:
    """Returns the pictures that inputs name, unread.

    Raises:
      InputError: There are none, or the network reads no pictures.
    """
    if self.preprocess is None:
      raise InputError(
        f"{self.name} reads no images: it is the text tower of another network.",
        "Explain the image tower, with texts: bcos_jax.explain_text.",
      )
    return gathered(inputs)

  def _logits(self, pictures: Sequence[Picture], size: int, frame: int) -> np.ndarray:
    parts = []
    preprocess = of_pictures(self.preprocess)
    for _, kept, images, _ in batches(pictures, preprocess, size, frame):
      with jax.default_matmul_precision("highest"):
        parts.append(np.asarray(_predicted(self._exact, self._on_device, images))[:kept])
    return np.concatenate(parts)

  def _check_classes(self) -> None:
    if not getattr(self.model, "num_classes", 0):
      raise InputError(
        f"{self.name} returns features and has no classes to explain.",
        "Pass texts to compare with as --text, or use a network with classes.",
      )

  @functools.cached_property
  def _reader(self) -> TextReader:
    return TextReader.load(self)

  @functools.cached_property
  def _on_device(self) -> Any:
    return jax.tree.map(jnp.asarray, self.variables)  # copied once, not for each batch

  @property
  def _exact(self) -> Any:
    """The network in float32, as it is explained."""
    return self.model.clone(ops=dataclasses.replace(self.model.ops, dtype=None))


@functools.partial(compiling.jit, static_argnums=0)
def _predicted(model: Any, variables: Any, images: jax.Array) -> jax.Array:
  return model.apply(variables, model.ops.encoding(images))


def joined(parts: Sequence[Explanation]) -> Explanation:
  """Returns explanations of batches as one."""
  if len(parts) == 1:
    return parts[0]
  told = {
    name: tuple(value for part in parts for value in getattr(part, name))
    for name in ("names", "readings")
  }
  alike = [dataclasses.replace(part, **told) for part in parts]
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *alike)


def _texts(inputs: Any) -> Sequence[str]:
  texts = [inputs] if isinstance(inputs, str) else inputs
  fits = isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts)
  if not fits or not texts:
    raise InputError(
      f"The inputs are {inputs!r:.60}, expected a text or texts, which the network reads.",
      'For example: net.explain("so funny").',
    )
  return texts
