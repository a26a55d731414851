"""The commands `models`, `convert` and `bcosify`."""

from __future__ import annotations

import ast
import dataclasses
import pathlib

from ..errors import InputError
from .command import Commands, add_command


def add_models(commands: Commands) -> None:
  command = add_command(
    commands,
    "models",
    _models,
    "list the networks, their sources and published accuracies",
    "bcos-jax models vit",
  )
  command.add_argument("pattern", nargs="?", default="", help="part of a name")
  command.add_argument(
    "--parameters", action="store_true", help="count the parameters, which takes a while"
  )


def _models(options, _):
  from . import catalogue

  catalogue.show(options.pattern, parameters=options.parameters)


def add_convert(commands: Commands) -> None:
  command = add_command(
    commands,
    "convert",
    _convert,
    "convert a PyTorch or Hugging Face checkpoint to a bundle, or a bundle back",
    "bcos-jax convert resnet50.pth bundles/resnet50 --architecture=resnet50",
  )
  command.add_argument("source", help="file, folder, hub id owner/name, or bundle")
  command.add_argument("destination", type=pathlib.Path, help="bundle, folder or file to write")
  command.add_argument("--architecture", help="see `bcos-jax models`; detected if omitted")
  command.add_argument(
    "--layout", help="how the checkpoint names its tensors, e.g. torchvision; detected if omitted"
  )
  command.add_argument("--dtype", help="float32 (default), bfloat16, float16, or source")
  command.add_argument(
    "--num_classes", type=int, help="replaces the head by a new one with this many classes"
  )
  command.add_argument(
    "--image_size", help="pixels, as 224 or 224x112, where the file does not tell them"
  )
  command.add_argument(
    "--prefix", help="taken off the keys, such as backbone.; keys without it are left out"
  )
  command.add_argument("--no_labels", action="store_true", help="leave the classes without names")
  command.add_argument(
    "--to", default="bundle", help="bundle, orbax, or a layout such as huggingface"
  )
  command.add_argument(
    "--ema", action="store_true", help="convert the averaged (EMA) weights of a training run"
  )
  command.add_argument("--download", action="store_true", help="download from the Hugging Face hub")
  command.add_argument("--dry-run", action="store_true", help="print the table and stop")
  command.add_argument("--verify", action="store_true", help="compare with PyTorch before writing")
  command.add_argument(
    "--verify_images",
    nargs="+",
    default=(),
    type=pathlib.Path,
    help="further pictures to compare on",
  )
  command.add_argument("--every_key", action="store_true", help="print one line for every tensor")
  command.add_argument(
    "--default_preprocess", action="store_true", help="use the architecture's default preprocessing"
  )
  command.add_argument(
    "--allow_nonfinite", action="store_true", help="accept weights that are NaN or infinite"
  )


def _convert(options, _):
  from . import conversion

  known = {field.name for field in dataclasses.fields(conversion.ConversionChoices)}
  given = {name: value for name, value in vars(options).items() if name in known}
  choices = conversion.ConversionChoices(**given)
  conversion.convert(options.source, options.destination, choices)


def add_bcosify(commands: Commands) -> None:
  command = add_command(
    commands,
    "bcosify",
    _bcosify,
    "turn a conventional network into a B-cos network that starts from its weights",
    "bcos-jax bcosify bundles/resnet50 bundles/bcos_resnet50",
  )
  command.add_argument("source", type=pathlib.Path, help="bundle of a conventional network")
  command.add_argument("destination", type=pathlib.Path, help="folder of the new bundle")
  command.add_argument(
    "--ops",
    action="append",
    default=[],
    metavar="FIELD=VALUE",
    help="option of the B-cos family, e.g. b=1.5, use_bias=true, pool=max; may be repeated",
  )
  command.add_argument(
    "--keep_mean", action="store_true", help="do not fold the running means of norms into biases"
  )


def _bcosify(options, _):
  from . import conversion

  fields = dict(_field(text) for text in options.ops)
  conversion.bcosify(options.source, options.destination, fields, fold_mean=not options.keep_mean)


def _field(text: str) -> tuple[str, object]:
  name, equals, value = text.partition("=")
  if not equals:
    raise InputError(f"--ops {text!r}; expected FIELD=VALUE.", "For example: --ops b=1.5.")
  words = {"true": True, "false": False, "none": None}
  if value.lower() in words:
    return name, words[value.lower()]
  try:
    return name, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return name, value
