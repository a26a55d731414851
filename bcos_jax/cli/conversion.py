"""The implementation of `bcos-jax convert`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import sys

import numpy as np
import tqdm

import bcos_jax

from .. import models
from ..convert import original, report, stated, targets, verify
from ..convert.plan import ConversionPlan, plan
from ..convert.readers import writing
from ..errors import InputError
from ..inputs import of_pictures
from ..io import bundles
from ..network import located
from ..variables import num_parameters

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


def _back(
  path: pathlib.Path, source: str, target: pathlib.Path, choices: ConversionChoices, say: Say
) -> pathlib.Path | None:
  """Writes a bundle in another layout; of one of the hub, also a bundle here."""
  if choices.to == targets.BUNDLE and pathlib.Path(source).exists():
    raise InputError(
      f"{str(source)!r} is a bundle already.",
      "Give --to, such as --to=huggingface; bcos-jax bcosify makes a B-cos network of it.",
    )
  ignored = [
    f"--{field.name}={getattr(choices, field.name)}"
    for field in dataclasses.fields(ConversionChoices)
    if field.name not in ("to", "dry_run", "download")
    and getattr(choices, field.name) != field.default
  ]
  if ignored:
    raise InputError(
      f"{', '.join(ignored)} would do nothing: {str(source)!r} is a bundle, and is written as it "
      "is.",
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
