"""The commands `explain`, for pictures, prompts and texts, and `check`, its certificate."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import pathlib

from ..errors import InputError
from .command import Commands, add_command, add_network


def add_explain(commands: Commands) -> None:
  command = add_command(
    commands,
    "explain",
    _explain,
    "explain the predictions of a network for pictures or texts",
    "bcos-jax explain runs/quickstart/bcosified digit.png; or for an image tower: bcos-jax explain "
    'bundles/clip_image photo.jpg --text "a dog, a cat" --text_tower bundles/clip_text '
    "--tokenizer tokenizers/clip; or for a language model: bcos-jax explain bundles/reviews "
    '--text "not funny at all"',
  )
  add_network(command)
  command.add_argument(
    "pictures",
    nargs="*",
    metavar="picture",
    help="picture file of any kind and size, folder, pattern in quotes, or list (.txt, .csv) of "
    "files",
  )
  command.add_argument(
    "--target", help="class to explain, by name or number; default: the predicted one"
  )
  command.add_argument(
    "--output",
    type=pathlib.Path,
    default=pathlib.Path("explanations"),
    help="folder for a figure and arrays per picture, tables and report.html",
  )
  command.add_argument("--batch_size", type=int, default=16, help="pictures at a time")
  command.add_argument(
    "--frame", type=int, default=0, help="frame of animations, or page of a file, counted from 0"
  )
  command.add_argument(
    "--published",
    action="store_true",
    help="contributions as the authors' code has them, which do not add up to the output of "
    "B-cosified networks; for pictures without --text",
  )
  command.add_argument(
    "--write",
    type=_kinds,
    metavar="KINDS",
    help="files of each picture, comma-separated, of: figure, arrays (NPZ), map (contributions, "
    "NPY), picture (what the network sees, PNG), or none; tables and report are always written; "
    "default: figure,arrays",
  )
  _add_texts(command)


def _kinds(text: str) -> tuple[str, ...]:
  from ..explain import saving

  names = tuple(dict.fromkeys(text.split(","))) if text != "none" else ()
  if unknown := set(names) - set(saving.KINDS):
    expected = f"some of {', '.join(saving.KINDS)}, or none"
    raise argparse.ArgumentTypeError(f"={text}: {min(unknown)!r} is not one of them, {expected}")
  return names


def _add_texts(command):
  """Adds what is read for language models, or for texts that pictures are compared with."""
  command.add_argument(
    "--text",
    help="for image towers: texts to compare with, comma-separated; for language models: the text "
    "to explain",
  )
  command.add_argument(
    "--text_file", "--text-file", type=pathlib.Path, help="texts to explain, one per line"
  )
  command.add_argument("--foil", help="class or token to contrast the target with, for texts")
  command.add_argument("--truncate", action="store_true", help="truncate texts that are too long")
  command.add_argument(
    "--own_scales", action="store_true", help="color each text on its own scale, not all on one"
  )
  command.add_argument(
    "--text_tower", help="the text tower: a bundle, or any other network as above"
  )
  command.add_argument("--tokenizer", type=pathlib.Path, help="folder of its tokenizer")
  command.add_argument(
    "--unpooled",
    action="store_true",
    help="compare texts with every position of a CLIP ResNet, without pooling",
  )
  command.add_argument(
    "--power", type=float, help="exponent of the cosines at these positions; default: 1"
  )


def _explain(options, _):
  from ..explain import saving
  from ..models import is_language_model
  from ..network import load
  from .explain_images import explain_pictures

  network = load(options.bundle, download=options.download)
  given = [*options.pictures, *([options.text_file] if options.text_file else [])]
  saving.checked_output(options.output, given, saving.WRITTEN)  # lists and texts are files as well
  if is_language_model(network.model):
    _explain_sentences(network, options)
    return
  for name in ("text_file", "foil", "truncate", "own_scales"):
    if getattr(options, name):
      raise InputError(
        f"--{name} is for language models, the bundle holds another network.", f"Omit --{name}."
      )
  if not options.pictures:
    raise InputError(
      "No pictures are given, expected at least one.", "Name picture files after the bundle."
    )
  shared = {name: getattr(options, name) for name in ("output", "batch_size", "frame")}
  if options.text is not None:
    if options.published:
      raise InputError("--published is not for texts to compare with.", "Omit --published.")
    if options.write is not None:
      raise InputError("--write is not for texts to compare with.", "Omit --write.")
    _check_text(options)
    from .explain_prompts import explain_prompts

    explain_prompts(
      network,
      options.pictures,
      [text.strip() for text in options.text.split(",")],
      text_tower=load(options.text_tower, download=options.download),
      tokenizer=options.tokenizer,
      unpooled=options.unpooled,
      power=1.0 if options.power is None else options.power,
      **shared,
    )
    return
  for name in ("text_tower", "tokenizer", "unpooled", "power"):
    if getattr(options, name) not in (None, False):
      raise InputError(
        f"--{name} is given without --text.", 'For example, add --text "a dog, a cat".'
      )
  kinds = saving.DEFAULT_KINDS if options.write is None else options.write
  fields = {"target": options.target, "published": options.published, "kinds": kinds}
  explain_pictures(network, options.pictures, **fields, **shared)


def _explain_sentences(network, options):
  from .explain_text import explain_sentences, read_lines

  for name in ("pictures", "frame", "text_tower", "unpooled", "power", "published", "write"):
    if getattr(options, name) not in (None, False, 0, []):
      raise InputError(f"{name} is given, but the network reads texts.", f"Omit {name}.")
  if (options.text is None) == (options.text_file is None):
    raise InputError(
      "Neither or both of --text and --text_file are given.",
      'Pass one of them, for example --text "so funny".',
    )
  texts = [options.text] if options.text_file is None else read_lines(options.text_file)
  explain_sentences(
    network,
    texts,
    tokenizer=options.tokenizer,
    target=options.target,
    foil=options.foil,
    truncate=options.truncate,
    own_scales=options.own_scales,
    output=options.output,
    batch_size=options.batch_size,
  )


def _check_text(options):
  for name in ("text_tower", "tokenizer"):
    if getattr(options, name) is None:
      raise InputError(
        f"--text is given without --{name}.",
        "Pass --text_tower, a bundle, and --tokenizer, the folder of its tokenizer.",
      )
  if options.target is not None:
    raise InputError(
      "--target and --text are both given, expected one of them.", "Pass a class or texts."
    )


def add_check(commands: Commands) -> None:
  command = add_command(
    commands,
    "check",
    _check,
    "prove that a network is affine in its input once its dynamic weights are held",
    "bcos-jax check runs/quickstart/bcosified",
  )
  add_network(command)
  command.add_argument("--sources", action="store_true", help="list what is added on the way")
  command.add_argument(
    "--no_transpose", action="store_true", help="leave out the second witness, which computes"
  )


def _check(options, _):
  import bcos_jax

  network = bcos_jax.load(options.bundle, download=options.download)
  check(network, transpose=not options.no_transpose, sources=options.sources)


def check(
  network,
  *,
  transpose: bool = True,
  sources: bool = False,
  say: Callable[[str], object] = print,
) -> None:
  """Prints the certificate of a network.

  Args:
    network: What `bcos_jax.load` returns.
    transpose: Whether `jax.linear_transpose` is asked as well, at a random input.
    sources: Whether each constant that is added to the signal is listed.
    say: Function that prints one line of output.

  Raises:
    InputError: It is not affine, and which equation prevents it; or it reads token ids alone.
  """
  import jax

  from .. import program

  function, example = program.network_function(network.model)
  traced = program.trace(function, network.variables, example)
  inputs = None
  if transpose:
    inputs = jax.random.normal(jax.random.key(0), example.shape, example.dtype)
  certificate = traced.check(network.variables, inputs)
  for line in f"{network.name}: {certificate}".splitlines():
    say(line)
  for source in certificate.sources if sources else ():
    say(f"  {source}")
