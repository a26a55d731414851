"""The networks of the app: loading, names, and explanations of one picture at a time."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib

import jax
import numpy as np

from .. import attribution, render
from ..errors import InputError
from ..explain.explainer import Explainer
from ..explain.images import Explanation
from ..inputs import Preprocess, of_pictures
from ..io import bundles
from ..models import is_language_model
from ..network import load
from .texts import TextNetwork, text_network


@dataclasses.dataclass(frozen=True)
class ServedNetwork:
  """A network, and how it is shown.

  Attributes:
    name: As the page calls it.
    bundle: The network; its variables are on the device.
    labels: Names of its classes; numbers where they are not known.
    options: How to draw its explanations.
  """

  name: str
  bundle: bundles.Bundle
  labels: tuple[str, ...]
  options: render.Options

  @property
  def conventional(self) -> bool:
    """Whether the network is conventional, not B-cos."""
    return self.bundle.model.ops.conventional

  @property
  def preprocess(self) -> Preprocess:
    """From a picture to what the network is given."""
    return of_pictures(self.bundle.preprocess)

  def explain(self, image: np.ndarray, targets: Sequence[int]) -> Explanation:
    """Explains classes `targets` [N] of one image [H, W, colors], as N explanations.

    One at a time, so that one compiled program serves every question of the page.
    """
    self._check(targets)
    images = np.repeat(image[None], len(targets), axis=0)
    return self._explainer(images, np.asarray(targets, np.int32))

  @functools.cached_property
  def _explainer(self) -> Explainer:
    model, variables = self.bundle.model, self.bundle.variables
    return Explainer(model, variables, size=self.preprocess.size, questions=("classes",))

  def input_x_gradient(self, image: np.ndarray, target: int) -> np.ndarray:
    """Returns the attribution [H, W] of one class of an image [H, W, colors]."""
    self._check([target])
    maps = attribution.input_x_gradient(
      self.bundle.model, self.bundle.variables, image[None], np.asarray([target], np.int32)
    )
    return maps[0]

  def _check(self, targets: Sequence[int]) -> None:
    if not all(isinstance(t, int) and 0 <= t < len(self.labels) for t in targets):
      raise InputError(
        f"Class {list(targets)} does not exist, expected 0 to {len(self.labels) - 1}.",
        "Choose a class from the list.",
      )


def load_networks(
  sources: Sequence[str | os.PathLike], *, download: bool = False
) -> tuple[ServedNetwork, ...] | tuple[TextNetwork]:
  """Loads one or two networks of images, or a language model.

  Args:
    sources: Whatever `bcos_jax.load` opens.
    download: Lets hub ids be fetched.

  Raises:
    InputError: A source that cannot be opened, or a network that does not classify images or texts.
  """
  paths = [pathlib.Path(source) for source in sources]
  if not 1 <= len(paths) <= 2:
    raise InputError(f"Got {len(paths)} networks, expected one or two.", "Pass one or two of them.")
  names = _names(paths)
  loaded = [load(source, download=download) for source in sources]
  texts = [bool(is_language_model(bundle.model)) for bundle in loaded]
  if any(texts) and len(paths) > 1:
    raise InputError(
      f"{str(paths[texts.index(True)])!r} reads texts, and two networks are given.",
      "Pass this one alone; two networks of images can be compared.",
    )
  if any(texts):
    return (text_network(loaded[0], names[0]),)
  return tuple(_network(*each) for each in zip(paths, loaded, names, strict=True))


def _network(path: pathlib.Path, bundle: bundles.Bundle, name: str) -> ServedNetwork:
  classes = getattr(bundle.model, "num_classes", 0)
  if bundle.preprocess is None or not classes:
    raise InputError(
      f"The network in {str(path)!r} does not classify images.",
      "Use a network that classifies images.",
    )
  # Explanations are requested repeatedly: the weights are copied to the device once.
  bundle = dataclasses.replace(bundle, variables=jax.device_put(bundle.variables))
  return ServedNetwork(
    name=name,
    bundle=bundle,
    labels=bundle.labels or tuple(map(str, range(classes))),
    options=render.options_of(bundle),
  )


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
  """The folders' names, with as much of the path before them as tells two apart.

  A training names its bundle `bundle`, which is not informative; the name of the run's folder is.
  """
  full = [path.resolve().parts for path in paths]
  for depth in (1, 2, 3):
    names = ["/".join(parts[-depth:]) for parts in full]
    if len(set(names)) == len(names) and "bundle" not in names:
      return [name.removesuffix("/bundle") for name in names]
  return [f"{name} ({i})" for i, name in enumerate(names, start=1)]
