"""The implementation of `bcos-jax bcosify`: weights that are copied, or fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import shutil
import sys
from typing import Any

from flax import linen as nn
import numpy as np

import bcos_jax

from .. import calibration, ops, render
from ..batches import check_picture_batch
from ..errors import InputError
from ..explain import saving
from ..explain.text_reader import TextReader
from ..inputs import of_pictures
from ..io import bundles
from ..models import is_language_model
from ..network import Network
from ..network.inputs import batches
from ..ops import idle
from ..render import kinds
from ..variables import num_parameters
from .command import bar
from .explain_text import read_lines

Say = Callable[[str], object]
_EXPLAINED, _DRAWN = 16, 3  # of the held-out pictures or texts
_AT_A_TIME = 16


@dataclasses.dataclass(frozen=True)
class Given:
  """What a network is calibrated with.

  Attributes:
    pictures: Files, folders, patterns and lists.
    texts: A file with a text per line.
    count: Most of them that are used.
    blocks: Rounds of the second sweep, which improves the maps of each block together.
    tokenizer: Folder of the texts' tokenizer; None takes the one in the bundle.
    truncate: Whether texts over the network's length are cut.
    output: Figure or page to write; None writes it into the new bundle.
  """

  pictures: Sequence[str] = ()
  texts: pathlib.Path | None = None
  count: int = 2048
  blocks: int = 0
  tokenizer: pathlib.Path | None = None
  truncate: bool = False
  output: pathlib.Path | None = None


def bcosify(
  source: str | os.PathLike,
  destination: str | os.PathLike,
  fields: dict[str, object],
  *,
  fold_mean: bool = True,
  download: bool = False,
  given: Given | None = None,
  say: Say = print,
) -> pathlib.Path:
  """Writes the B-cosified network of a bundle.

  Args:
    source: A conventional network, whatever `bcos_jax.load` opens.
    destination: Folder of the new bundle.
    fields: Fields of the family: `family` and others, as for `ops.from_dict`.
    fold_mean: As for `bcos_jax.bcosify`.
    download: Lets a hub id be fetched.
    given: What maps are fitted on; None copies the weights. Finished maps lie in a folder beside
      the bundle, `DESTINATION.calibration`, from which the same call goes on.
    say: Function that prints one line of output.

  Returns:
    The new bundle's folder.

  Raises:
    InputError: A network that cannot be B-cosified, unknown fields, pictures or texts that it
      cannot be calibrated with, or a place that cannot be written.
  """
  folder = _check_destination(source, destination)
  family: Any = ops.from_dict({"family": "bcos", **fields})
  bundle = bcos_jax.load(source, download=download)
  if given is not None:
    _check_given(bundle, given)
  model, variables = bcos_jax.bcosify(
    bundle.model, bundle.variables, ops=family, fold_mean=fold_mean
  )
  _check_effects(model, fields)
  provenance = {
    "source": "bcosification",
    "bcosified": {"from": bundle.config["provenance"], "fold_mean": fold_mean},
  }
  work = folder.with_name(f"{folder.name}.calibration")
  made = _ClosedForm(bundle, model, variables, given, work, say) if given else None
  written = bcos_jax.save(
    folder,
    model,
    made.variables if made else variables,
    preprocess=bundle.preprocess,
    labels=bundle.labels,
    tokenizer=bundle.tokenizer,
    examples=bundle.examples,
    provenance=provenance | ({"calibrated": made.record} if made else {}),
  )
  _say_what(bundle, model, family, say)
  if made:
    shutil.rmtree(work, ignore_errors=True)  # networks of other libraries record nothing there
    made.show(written)
  say(f"written: {written}")
  return written


def _say_what(bundle: bundles.Bundle, model: nn.Module, family: Any, say: Say) -> None:
  counts = [num_parameters(network) for network in (bundle.model, model)]
  fields = {field: getattr(family, field, None) for field in ("b", "weights", "pool")}
  chosen = [f"{field} {value}" for field, value in fields.items() if value is not None]
  chosen.append(f"biases {'kept' if family.has_biases else 'removed'}")
  say(
    f"{bundle.config['architecture']}: {counts[0]:,} parameters, B-cosified {counts[1]:,}; "
    f"{', '.join(chosen)}"
  )


def _check_destination(source: str | os.PathLike, destination: str | os.PathLike) -> pathlib.Path:
  """Returns the folder to write, if that is no input."""
  folder = bundles.check_replaceable(destination)
  if folder.exists() and pathlib.Path(source).exists() and folder.samefile(source):
    raise InputError(
      f"The destination {str(folder)!r} is the source, which would be replaced.",
      "Choose another folder.",
    )
  return folder


def _check_effects(model: nn.Module, fields: dict[str, object]) -> None:
  """Refuses given fields of the family that change nothing in this network."""
  for name, needed in idle.needed_by_idle(model).items():
    if name in fields:
      raise InputError(
        f"--ops {name}={fields[name]} does nothing: a {type(model).__name__} has no {needed}.",
        f"Omit {name}.",
      )


def _check_given(bundle: Network, given: Given) -> None:
  """Refuses what the network does not read, and too few of it, before any work."""
  texts = is_language_model(bundle.model)
  wanted, other = ("texts", "pictures") if texts else ("pictures", "texts")
  if getattr(given, other):
    raise InputError(
      f"--{other} is given, but {bundle.name!r} reads {wanted}.",
      f"Give --{wanted}" + (", a file with a text per line." if texts else ", such as a folder."),
    )
  if not texts and (idle_ := next(filter(given.__getattribute__, ("tokenizer", "truncate")), "")):
    raise InputError(f"--{idle_} is for texts, but {bundle.name!r} reads pictures.", "Omit it.")
  if given.count < calibration.FEWEST:
    raise InputError(
      f"--count={given.count}, expected at least {calibration.FEWEST}.",
      "512 are a good start; they need no labels.",
    )
  if given.blocks < 0:
    raise InputError(
      f"--blocks={given.blocks}, expected at least 0.", "For example --blocks=2; 0 omits the sweep."
    )
  if given.output is not None:
    suffixes = (".html",) if texts else (".png", ".pdf", ".svg")
    if given.output.suffix.lower() not in suffixes:
      raise InputError(
        f"--output={str(given.output)!r}, expected a name that ends in {' or '.join(suffixes)}.",
        f"For example: --output=closed_form{suffixes[0]}.",
      )
    saving.checked_output(given.output.parent, [*given.pictures, *filter(None, [given.texts])], ())


class _ClosedForm:
  """A network in closed form: its variables, how it was made, and what it explains."""

  def __init__(
    self,
    teacher: Network,
    model: nn.Module,
    variables: Any,
    given: Given,
    work: pathlib.Path,
    say: Say,
  ):
    self._teacher, self._model, self._say, self._given = teacher, model, say, given
    self._reader: TextReader | None = None
    if is_language_model(model):
      self._reader = TextReader.load(teacher, given.tokenizer, truncate=given.truncate)
    inputs, self._shown, there = self._texts() if self._reader else self._pictures()
    settings = calibration.Calibration()
    effort = dataclasses.replace(settings.effort, block_rounds=given.blocks)
    settings = dataclasses.replace(settings, effort=effort)
    self._before = variables
    self.variables, report = calibration.calibrate(
      teacher.model,
      teacher.variables,
      model,
      variables,
      inputs,
      settings,
      cache=work,
      progress=bar("fitting maps", unit="maps"),
    )
    self.record = calibration.record(
      report, settings, "texts" if self._reader else "pictures", count=there
    )
    say(f"{report}\n{report.agreed}")
    for warning in report.warnings:
      print(f"warning: {warning}", file=sys.stderr)

  def _chosen(self, found: Sequence[Any]) -> list[Any]:
    if len(found) < calibration.FEWEST:
      what = "texts" if self._reader else "pictures"
      raise InputError(
        f"--{what} gives {len(found)} {what}, expected at least {calibration.FEWEST}.",
        "512 are a good start; they need no labels.",
      )
    return [found[i] for i in calibration.chosen(len(found), self._given.count)]

  def _pictures(self) -> tuple[Any, Any, int]:
    """Returns all pictures [N, H, W, C], those to explain, and how many there are."""
    chosen = self._chosen(self._teacher.pictures(list(self._given.pictures)))
    preprocess = of_pictures(self._teacher.preprocess)
    check_picture_batch(
      len(chosen), preprocess.size, preprocess.colors, "Choose a smaller --count."
    )
    for picture in chosen:
      picture.check()
    read = batches(chosen, preprocess, _AT_A_TIME, progress=bar("reading pictures"))
    images = np.concatenate([images[:kept] for _, kept, images, _ in read])
    return images, images[-_EXPLAINED:], len(images)

  def _texts(self) -> tuple[Any, Any, int]:
    """Returns all texts as tokens, those to explain, and how many there are."""
    assert self._reader and self._given.texts
    chosen = self._chosen(read_lines(self._given.texts))
    batch = self._reader.read(chosen)
    return {"tokens": batch.ids, "mask": batch.mask}, chosen[-_EXPLAINED:], len(chosen)

  def show(self, folder: pathlib.Path) -> None:
    """Explains some held-out inputs, before and after, and draws three of them."""
    model = self._model
    if not (getattr(model, "num_classes", 0) or is_language_model(model)):
      self._say("no explanations: the network returns features and has no classes")
      return
    if getattr(model, "predicts", "") == "masked_tokens":
      self._say("no explanations: the texts have no mask token that is to be filled in")
      return
    path = self._given.output or folder / bundles.CLOSED_FORM[bool(self._reader)]
    error = (self._draw_texts if self._reader else self._draw)(path)
    self._say(f"largest completeness error, of {len(self._shown)} explanations: {error:.0e}")
    self._say(f"explanations before and after: {path}")

  def _draw(self, path: pathlib.Path) -> float:
    ex: Any = bcos_jax.explain(self._model, self.variables, self._shown, batch_size=_AT_A_TIME)
    drawn = range(min(_DRAWN, len(self._shown)))
    before: Any = bcos_jax.explain(
      self._model, self._before, self._shown, ex.target, batch_size=_AT_A_TIME
    )
    side = of_pictures(self._teacher.preprocess).size[0]
    options = dataclasses.replace(
      render.options_for(self._model.ops, side), origin=kinds.Origin.CLOSED_FORM
    )
    render.figures(
      ex,
      drawn,
      self._teacher.labels,
      path,
      baselines={"contributions before: weights copied": np.asarray(before.contributions)},
      title=f"{self._teacher.name}, B-cosified in closed form",
      options=options,
    )
    return float(np.max(ex.completeness_error))

  def _draw_texts(self, path: pathlib.Path) -> float:
    reader: Any = self._reader
    made = dataclasses.replace(reader, model=self._model, variables=self.variables)
    ex = made.explain(self._shown)
    ex = dataclasses.replace(ex, origin=kinds.Origin.CLOSED_FORM)
    asked = None if ex.target is None else np.asarray(ex.target)
    before = dataclasses.replace(made, variables=self._before).explain(self._shown, asked)
    before = dataclasses.replace(before, origin=kinds.Origin.COPIED)
    heats = []
    for i in range(min(_DRAWN, len(self._shown))):
      for when, found in (("in closed form", ex), ("before, weights copied", before)):
        heat = found.heat(i)
        heats.append(dataclasses.replace(heat, title=f"{when}: {heat.title}"))
    render.text_report(path, f"{self._teacher.name}, B-cosified in closed form", heats)
    return float(np.max(ex.completeness_error))
