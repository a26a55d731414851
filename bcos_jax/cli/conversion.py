"""The implementation of `bcos-jax convert`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
import dataclasses
import os
import pathlib
import sys

import numpy as np
import tqdm

import bcos_jax

from .. import models
from ..convert import original, report, sizes, stated, targets, verify
from ..convert.plan import ConversionPlan, plan
from ..convert.programs.networks import SUFFIX, from_exported, largest_difference
from ..convert.readers import writing
from ..errors import InputError
from ..inputs import Encoding, of_pictures
from ..io import bundles
from ..network import located
from ..variables import num_parameters
from .explain_text import read_lines

Say = Callable[[str], object]
_VERIFIED_TOKENS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionChoices:
  """The options of a conversion; see `convert.from_pretrained` for those not said here.

  Attributes:
    to: What to write, one of `targets.names()`.
    dry_run: Stops before anything is read or written.
    verify: Compares with the PyTorch original before writing.
    verify_images: Pictures to compare on besides the fixed random ones.
    every_key: One line per tensor in the table.
    no_labels: Leaves the classes without names.
    mean: Of programs (.pt2), the mean of each colour channel in [0, 1], separated by commas.
    std: Likewise the deviation; both or none.
    labels: Of programs, a file with the name of a class per line.
  """

  architecture: str | None = None
  layout: str | None = None
  dtype: str | None = None
  num_classes: int | None = None
  ema: bool = False
  download: bool = False
  default_preprocess: bool = False
  image_size: str | None = None
  prefix: str | None = None
  no_labels: bool = False
  allow_nonfinite: bool = False
  to: str = targets.BUNDLE
  dry_run: bool = False
  verify: bool = False
  verify_images: Sequence[str | os.PathLike] = ()
  every_key: bool = False
  mean: str | None = None
  std: str | None = None
  labels: pathlib.Path | None = None

  def check_idle(self, used: Collection[str], why: str, fix: str) -> None:
    """Raises InputError if an option is given that would do nothing."""
    ignored = [
      f"--{field.name}={getattr(self, field.name)}"
      for field in dataclasses.fields(self)
      if field.name not in used and getattr(self, field.name) != field.default
    ]
    if ignored:
      raise InputError(f"{', '.join(ignored)} would do nothing: {why}.", fix)


_OF_PROGRAMS = ("mean", "std", "labels", "image_size")


def convert(
  source: str | os.PathLike,
  destination: str | os.PathLike,
  choices: ConversionChoices,
  say: Say = print,
) -> pathlib.Path | None:
  """Converts a checkpoint to a bundle, or a bundle to another layout.

  Args:
    source: A checkpoint file, a folder, a hub id, or a bundle.
    destination: What to write; complete, or not there.
    choices: The options.
    say: Function that prints one line of output.

  Returns:
    What was written; None after a dry run.

  Raises:
    InputError: The source cannot be read or does not fit, the target cannot be written, or the
      result departs from the original.
  """
  target = targets.check(destination, choices.to)
  path = located(source, download=choices.download)
  if bundles.has_bundle_config(path):
    return _back(path, str(source), target, choices, say)
  if path.suffix == SUFFIX and path.is_file():
    return _program(path, target, choices, say)
  return _checkpoint(source, target, choices, say)


def _checkpoint(
  source: str | os.PathLike, target: pathlib.Path, choices: ConversionChoices, say: Say
) -> pathlib.Path | None:
  """Converts a checkpoint, whose network is one of this package."""
  for name in ("mean", "std", "labels"):
    if getattr(choices, name) is not None:
      raise InputError(
        f"--{name}={getattr(choices, name)} is for programs ({SUFFIX}): {str(source)!r} is a "
        "checkpoint, whose layout or configuration says it.",
        f"Omit --{name}.",
      )
  made = plan(
    source,
    choices.architecture,
    layout=choices.layout,
    dtype=choices.dtype,
    num_classes=choices.num_classes,
    ema=choices.ema,
    download=choices.download,
    default_preprocess=choices.default_preprocess,
    image_size=choices.image_size,
    prefix=choices.prefix,
    labels=not choices.no_labels,
  )
  for line in report.lines(made, every_key=choices.every_key):
    say(line)
  if choices.dry_run:
    say(f"dry run: nothing is written to {str(target)!r}")
    return None
  size = sum(made.state[key].nbytes for row in made.rows if row.targets for key in row.sources)
  with tqdm.tqdm(
    total=size, unit="B", unit_scale=True, desc="reading", disable=not sys.stderr.isatty()
  ) as bar:
    verified = choices.verify or bool(choices.verify_images)
    bundle = made.bundle(
      allow_nonfinite=choices.allow_nonfinite,
      progress=bar.update,
      lazy=choices.to == targets.BUNDLE and not verified,
    )
    if verified:
      _verify(made, bundle, choices.verify_images, say)
    written = targets.write(bundle, target, choices.to)
  say(f"written: {written}")
  if not verified:
    say("not compared with PyTorch: --verify does so, where torch and the original library are")
  return written


def _program(
  path: pathlib.Path, target: pathlib.Path, choices: ConversionChoices, say: Say
) -> pathlib.Path | None:
  """Converts a program of PyTorch, which says itself what it computes."""
  choices.check_idle(
    (*_OF_PROGRAMS, "to", "dry_run", "download", "verify"),
    f"{path.name} is a program, whose network and weights are in it",
    "Omit it.",
  )
  bundle = from_exported(
    path,
    encoding=_encoding(choices),
    image_size=sizes.parsed(choices.image_size),
    labels=_names(choices.labels),
  )
  model = bundle.model
  height, width = model.image_sides
  say(
    f"{path.name}: {num_parameters(model):,} parameters, pictures of {height}x{width} pixels, "
    f"{model.num_classes} classes"
  )
  if choices.mean is None:
    say("normalisation unknown: it is given colours in [0, 1]; --mean and --std state another")
  if choices.dry_run:
    say(f"dry run: nothing is written to {str(target)!r}")
    return None
  if choices.verify:
    _verify_program(path, bundle, say)
  written = targets.write(bundle, target, choices.to)
  say(f"written: {written}")
  if not choices.verify:
    say("not compared with PyTorch: --verify does so, where torch is installed")
  return written


def _encoding(choices: ConversionChoices) -> Encoding | None:
  given = {"mean": choices.mean, "std": choices.std}
  missing = [name for name, text in given.items() if text is None]
  if len(missing) == 1:
    raise InputError(f"--{missing[0]} is missing.", "Give both --mean and --std.")
  if missing:
    return None
  return Encoding(mean=_numbers("mean", str(choices.mean)), std=_numbers("std", str(choices.std)))


def _numbers(name: str, text: str) -> tuple[float, ...]:
  try:
    return tuple(map(float, text.split(",")))
  except ValueError:
    raise InputError(
      f"--{name} is {text}, expected one number per colour channel.",
      "For example --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225.",
    ) from None


def _names(path: pathlib.Path | None) -> tuple[str, ...]:
  return () if path is None else tuple(read_lines(path))


def _verify_program(path: pathlib.Path, bundle: bundles.Bundle, say: Say) -> None:
  """Compares a program with what PyTorch computes.

  Raises:
    InputError: They differ.
  """
  found = largest_difference(path, bundle)
  if found is None:
    say("not verified against PyTorch: torch is not installed. Every operator has its rule.")
    return
  if not found <= verify.TOLERANCE:
    raise InputError(
      f"The network differs from {path.name} as PyTorch runs it: relative difference {found:.2e}.",
      "Nothing was written. Report it, with the file.",
    )
  say(
    f"verified against PyTorch: the outputs of two random inputs; relative difference {found:.1e}"
  )


def _back(
  path: pathlib.Path, source: str, target: pathlib.Path, choices: ConversionChoices, say: Say
) -> pathlib.Path | None:
  """Writes a bundle in another layout; of one of the hub, also a bundle here."""
  if choices.to == targets.BUNDLE and pathlib.Path(source).exists():
    raise InputError(
      f"{str(source)!r} is a bundle already.",
      "Give --to, such as --to=huggingface; bcos-jax bcosify makes a B-cos network of it.",
    )
  choices.check_idle(
    ("to", "dry_run", "download"),
    f"{str(source)!r} is a bundle, and is written as it is",
    "Omit it. A bundle gets a new head by fine-tuning: bcos-jax train --config=finetune.",
  )
  bundle = bcos_jax.load(path)
  say(
    f"{bundle.config['architecture']} of {source!r}: "
    f"{num_parameters(bundle.model):,} parameters to the layout {choices.to!r}"
  )
  if choices.dry_run:
    say(f"dry run: nothing is written to {str(target)!r}")
    return None
  written = targets.write(bundle, target, choices.to)
  say(f"written: {written}")
  if choices.to == writing.LAYOUT and written.is_dir() and not (written / "config.json").exists():
    say("without config.json: transformers has no network like this one; safetensors reads it")
  return written


def _verify(made: ConversionPlan, bundle: bundles.Bundle, pictures: Sequence, say: Say) -> None:
  """Compares a conversion with its original, where that can be built.

  Raises:
    InputError: Naming the first layer that departs.
  """
  network, about = original.build(made)
  if network is None:
    say(f"not verified against PyTorch: {about}. Every key and shape fits.")
    return
  exact = _in_float32(made, bundle)
  if pictures:
    _verify_reading(made, bundle, pictures, about, say)
  for name, inputs in _inputs(exact, pictures):
    checks = verify.compare(network, exact, made.keys, inputs)
    worst = max(checks, key=lambda check: check.error)
    first = next((check for check in checks if not check.agrees), None)
    if first is not None:
      raise InputError(
        f"The network differs from {about} on {name}, first at {first.torch!r} "
        f"({first.flax!r}): relative difference {first.error:.2e}.",
        "Nothing was written. Check --architecture and --layout; if they are right, report it.",
      )
    say(
      f"{_verified(made)} {about} on {name}: {_counted(checks)}; "
      f"largest relative difference {worst.error:.1e} ({worst.torch})"
    )


def _verified(made: ConversionPlan) -> str:
  """What a comparison shows: of which network, only if the source itself says which one it is."""
  if not stated.is_unproven(made.notes):
    return "verified against"
  name = models.describe(made.model)[0]
  return f"as a {name!r}, which the file does not say it is, equal to"


def _counted(checks: Sequence[verify.Check]) -> str:
  ends = {verify.OUTPUT: "outputs", verify.GRADIENT: "input gradients"}
  layers = sum(check.torch not in ends for check in checks)
  said = [ends[check.torch] for check in checks if check.torch in ends]
  return f"{layers} layers, {' and '.join(said)}"


def _verify_reading(
  made: ConversionPlan, bundle: bundles.Bundle, pictures: Sequence, about: str, say: Say
) -> None:
  """Compares what becomes of pictures before the network sees them.

  Raises:
    InputError: They are scaled, cropped or normalised differently.
  """
  theirs = None
  if made.described.reading is not None:
    theirs = original.read_pictures(made, pictures)
  if theirs is None:
    say("not verified: how pictures are read; the source has nothing to compare with")
    return
  encode = bundle.model.ops.encoding
  read = of_pictures(bundle.preprocess)
  ours = np.asarray(encode(np.stack([read(picture) for picture in pictures])))
  error = verify.error(theirs, ours)
  if not error <= verify.TOLERANCE:
    raise InputError(
      f"Pictures are read differently from {about}: {list(ours.shape)} and {list(theirs.shape)}, "
      f"relative difference {error:.2e}.",
      "Nothing was written. --default_preprocess takes the architecture's own; report it.",
    )
  say(f"verified against {about}: how pictures are read; relative difference {error:.1e}")


def _in_float32(made: ConversionPlan, bundle: bundles.Bundle) -> bundles.Bundle:
  """Returns the network with the numbers of the original, where a lower precision was requested."""
  if made.model.ops.param_dtype == "float32" and not made.keep_dtypes:
    return bundle
  ops_ = dataclasses.replace(made.model.ops, param_dtype="float32")
  made = dataclasses.replace(made, model=made.model.clone(ops=ops_), keep_dtypes=False)
  return made.bundle(allow_nonfinite=True)


def _inputs(bundle: bundles.Bundle, pictures: Sequence) -> list[tuple[str, np.ndarray]]:
  """Returns what to compare on: fixed random inputs, and the given pictures."""
  spec, rng = bundle.model.input_spec, np.random.default_rng(0)
  if not np.issubdtype(spec.dtype, np.floating):
    if pictures:
      raise InputError("The network reads no pictures.", "Omit --verify_images.")
    length = spec.shape[1]
    if models.is_language_model(bundle.model):  # whose contexts may be very long
      length = min(length, _VERIFIED_TOKENS)
    tokens = rng.integers(0, bundle.model.vocab_size, (2, length))
    return [("random tokens", tokens.astype(np.int32))]
  encode, colors = bundle.model.ops.encoding, bundle.model.ops.encoding.colors
  images = rng.random((2, *spec.shape[1:3], colors), np.float32)
  given = [("fixed random pictures", images)]
  if pictures:
    read = of_pictures(bundle.preprocess)
    given.append((f"{len(pictures)} given pictures", np.stack([read(p) for p in pictures])))
  return [(name, np.asarray(encode(images))) for name, images in given]
