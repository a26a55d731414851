"""The commands `models`, `convert`, `bcosify` and `push`."""

from __future__ import annotations

import ast
import dataclasses
import pathlib

from ..errors import InputError
from .command import NETWORK, Commands, add_command, add_download, add_network


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
  command.add_argument(
    "source", help="file, folder, hub id owner/name, program of PyTorch (.pt2), or bundle"
  )
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
    "--to",
    default="bundle",
    help="bundle, orbax, a layout such as huggingface, or, of what was a program, state_dict",
  )
  command.add_argument(
    "--ema", action="store_true", help="convert the averaged (EMA) weights of a training run"
  )
  add_download(command)
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
  group = command.add_argument_group("programs of PyTorch (.pt2)")
  group.add_argument(
    "--mean", help="of each colour channel in [0, 1], as the network was trained: 0.5,0.5,0.5"
  )
  group.add_argument("--std", help="deviation, likewise")
  group.add_argument("--labels", type=pathlib.Path, help="file with the name of a class per line")


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
    "turn a conventional network into a B-cos network that starts from its weights or, with "
    "--pictures or --texts, computes nearly the same: in closed form, without labels or training",
    "bcos-jax bcosify bundles/resnet50 bundles/bcos_resnet50 --pictures photos",
  )
  command.add_argument("source", help=f"{NETWORK}, a conventional one")
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
  add_download(command)
  group = command.add_argument_group("closed form")
  group.add_argument(
    "--pictures",
    nargs="+",
    default=(),
    help="pictures of the network's domain, without labels: files, folders, patterns in quotes, or "
    "lists (.txt, .csv) of files; each map is fitted to the conventional one on them",
  )
  group.add_argument(
    "--texts", type=pathlib.Path, help="for language models: file of texts, one per line"
  )
  group.add_argument(
    "--count", type=int, help=f"most pictures or texts that are used; default: {COUNT:,}"
  )
  group.add_argument(
    "--blocks",
    type=int,
    default=0,
    metavar="ROUNDS",
    help="improve the maps of each block together in a second sweep, which takes several times as "
    "long; 2 are a good start",
  )
  group.add_argument("--tokenizer", type=pathlib.Path, help="folder of the texts' tokenizer")
  group.add_argument("--truncate", action="store_true", help="truncate texts that are too long")
  group.add_argument(
    "--output",
    type=pathlib.Path,
    help="figure (.png, .pdf, .svg) or, for texts, page (.html) of explanations before and after; "
    "default: closed_form.png or .html in the new bundle",
  )


COUNT = 2048
"""Pictures or texts from which a network is calibrated, unless --count says otherwise."""


def _bcosify(options, _):
  from . import bcosification

  fields = dict(_field(text) for text in options.ops)
  given = None
  if options.pictures or options.texts:
    count = COUNT if options.count is None else options.count
    shared = {name: getattr(options, name) for name in _CALIBRATING if name != "count"}
    given = bcosification.Given(options.pictures, options.texts, count=count, **shared)
  elif idle := [name for name in _CALIBRATING if getattr(options, name)]:
    raise InputError(
      f"--{idle[0]} is given without --pictures or --texts.",
      f"Add --pictures or --texts, or omit --{idle[0]}.",
    )
  bcosification.bcosify(
    options.source,
    options.destination,
    fields,
    fold_mean=not options.keep_mean,
    download=options.download,
    given=given,
  )


_CALIBRATING = ("count", "blocks", "tokenizer", "truncate", "output")


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


def add_push(commands: Commands) -> None:
  command = add_command(
    commands,
    "push",
    _push,
    "upload a network with a model card to the Hugging Face hub",
    "HF_TOKEN=... bcos-jax push runs/mine/bundle me/bcos-flowers --private",
  )
  add_network(command)
  command.add_argument("repository", help="owner/name, or owner/name@branch; made if not there")
  command.add_argument("--private", action="store_true", help="make a private repository")
  command.add_argument(
    "--overwrite", action="store_true", help="replace the files of a repository that holds some"
  )
  command.add_argument(
    "--examples",
    nargs="+",
    metavar="FILE",
    help="pictures, or a file with a text per line, to explain in the card; default: those that "
    "came with the network, if any",
  )
  command.add_argument("--license", default="", help="as the hub names it, such as apache-2.0")
  command.add_argument("--base_model", default="", help="hub id of what it was made from")
  command.add_argument(
    "--dataset", action="append", default=[], help="hub id of its training data; may be repeated"
  )
  command.add_argument(
    "--save",
    type=pathlib.Path,
    metavar="DIR",
    help="write what would be uploaded to a new folder, and send nothing",
  )


def _push(options, _):
  from ..io import upload
  from ..models import is_language_model
  from ..network import load
  from .explain_text import read_lines

  if options.save is None:  # before the network is read
    upload.destination(
      options.repository, private=options.private or None, overwrite=options.overwrite
    )
  network = load(options.bundle, download=options.download)
  examples = options.examples
  if examples and is_language_model(network.model):
    examples = [text for path in examples for text in read_lines(path)]
  about = {
    "examples": examples,
    "license": options.license,
    "base_model": options.base_model,
    "datasets": options.dataset,
    "overwrite": options.overwrite,
  }
  if options.save is not None:
    folder = network.save_pretrained(options.save, repository=options.repository, **about)
    print(f"written: {folder}; nothing is sent. The card: {folder / 'README.md'}")
    return
  print(
    f"pushed: {network.push_to_hub(options.repository, private=options.private or None, **about)}"
  )
  print(f"open it: bcos_jax.load({options.repository.removeprefix('hf:')!r}, download=True)")
