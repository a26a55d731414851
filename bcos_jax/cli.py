"""The command `bcos-jax`.

Exit codes: 0 done, 1 the run failed, 2 bad usage or input. A failure prints one line of cause and
one of fix; `--debug` shows the traceback. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
import dataclasses
import pathlib
import sys

from .cache import keep_compiled
from .errors import InputError, RunError


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns its exit code."""
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  if rest and not options.takes_overrides:
    parser.error(
      f"unrecognized arguments: {' '.join(rest)}; see `bcos-jax {options.command} --help`"
    )
  keep_compiled()
  try:
    return options.run(options, rest) or 0
  except (InputError, RunError) as error:
    if options.debug:
      raise
    print(f"error: {error.cause}", f"  fix: {error.fix}", sep="\n", file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  except KeyboardInterrupt as stop:
    print(
      f"stopped: {stop or 'by the keyboard'}",
      f"  fix: {options.after_stop}",
      sep="\n",
      file=sys.stderr,
    )
    return 1
  except Exception as error:
    if options.debug:
      raise
    cause = " ".join(str(error).split()) or "no message"
    print(
      f"error: {type(error).__name__}: {cause}",
      "  fix: run again with --debug to see where it happened.",
      sep="\n",
      file=sys.stderr,
    )
    return 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="bcos-jax",
    description="B-cos networks: networks that explain themselves.",
    epilog="Start with: bcos-jax quickstart",
  )
  parser.set_defaults(takes_overrides=False, after_stop="run the same command again.")
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for add in (
    _add_quickstart,
    _add_models,
    _add_convert,
    _add_bcosify,
    _add_prepare,
    _add_train,
    _add_compile,
    _add_evaluate,
    _add_probe,
    _add_explain,
    _add_study,
    _add_app,
  ):
    add(commands)
  return parser


def _add(commands, name: str, run, help: str, example: str) -> argparse.ArgumentParser:
  command = commands.add_parser(
    name,
    help=help,
    description=f"{help[0].upper()}{help[1:]}.",
    epilog=f"Example: {example}",
    allow_abbrev=False,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  command.add_argument("--debug", action="store_true", help="show tracebacks")
  command.set_defaults(run=run)
  return command


def _add_quickstart(commands):
  command = _add(
    commands,
    "quickstart",
    _quickstart,
    "train, B-cosify, fine-tune and explain a small network on real digits",
    "bcos-jax quickstart --workdir=runs/quickstart",
  )
  command.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs/quickstart"),
    help="folder for networks, figure and report",
  )
  command.set_defaults(after_stop="run the same command again; a quickstart begins anew.")
  command.add_argument("--seed", type=int, default=0, help="seed of everything")
  command.add_argument(
    "--short", action="store_true", help="a fraction of the steps; shows that everything runs"
  )


def _quickstart(options, _):
  from .train import quickstart

  quickstart.quickstart(
    options.workdir, seed=options.seed, length=quickstart.SHORT if options.short else None
  )


def _add_models(commands):
  command = _add(
    commands,
    "models",
    _models,
    "list the networks, what they come from and what was published",
    "bcos-jax models vit",
  )
  command.add_argument("pattern", nargs="?", default="", help="part of a name")


def _models(options, _):
  from .convert import catalogue

  catalogue.show(options.pattern)


def _add_convert(commands):
  command = _add(
    commands,
    "convert",
    _convert,
    "convert a PyTorch or Hugging Face checkpoint to a bundle, or a bundle back",
    "bcos-jax convert resnet50.pth bundles/resnet50 --architecture=resnet50",
  )
  command.add_argument("source", help="file, folder, hub id owner/name, or bundle")
  command.add_argument("destination", type=pathlib.Path, help="what to write")
  command.add_argument("--architecture", help="see `bcos-jax models`; found out if not given")
  command.add_argument("--source", dest="layout", help="whose keys these are, e.g. torchvision")
  command.add_argument("--dtype", help="float32 (default), bfloat16, float16, or source")
  command.add_argument("--num_classes", type=int, help="puts a new head of so many classes")
  command.add_argument("--to", default="bundle", help="bundle, orbax, or a source's own layout")
  command.add_argument("--ema", action="store_true", help="take a training's averaged weights")
  command.add_argument("--download", action="store_true", help="fetch a hub id")
  command.add_argument("--dry-run", action="store_true", help="print the table and stop")
  command.add_argument("--verify", action="store_true", help="compare with PyTorch before writing")
  command.add_argument(
    "--verify_images", nargs="+", default=(), type=pathlib.Path, help="pictures to compare on too"
  )
  command.add_argument("--every_key", action="store_true", help="a line for every tensor")
  command.add_argument(
    "--default_preprocess", action="store_true", help="take the architecture's preprocessing"
  )
  command.add_argument(
    "--allow_nonfinite", action="store_true", help="take weights that are NaN or infinite"
  )


def _convert(options, _):
  from .convert import commands

  known = {field.name for field in dataclasses.fields(commands.Choices)}
  given = {name: value for name, value in vars(options).items() if name in known}
  choices = commands.Choices(**given | {"source": options.layout})
  commands.convert(options.source, options.destination, choices)


def _add_bcosify(commands):
  command = _add(
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
    help="option of the B-cos family, e.g. b=1.5, use_bias=true, pool=max; may be given again",
  )
  command.add_argument(
    "--keep_mean", action="store_true", help="do not fold the norms' means into biases"
  )


def _bcosify(options, _):
  from .convert import commands

  fields = dict(_field(text) for text in options.ops)
  commands.bcosify(options.source, options.destination, fields, fold_mean=not options.keep_mean)


def _field(text: str) -> tuple[str, object]:
  name, equals, value = text.partition("=")
  if not equals:
    raise InputError(f"--ops {text!r}; expected FIELD=VALUE.", "Write e.g. --ops b=1.5.")
  words = {"true": True, "false": False, "none": None}
  if value.lower() in words:
    return name, words[value.lower()]
  try:
    return name, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return name, value


def _add_prepare(commands):
  command = _add(
    commands,
    "prepare",
    _prepare,
    "turn the official archives of a data set into array_record, without TensorFlow",
    "bcos-jax prepare imagenet2012 --archives=downloads --data_dir=data",
  )
  command.add_argument("dataset", choices=["imagenet2012"], help="name of the data set")
  command.add_argument(
    "--archives",
    type=pathlib.Path,
    required=True,
    help="folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
  )
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument("--splits", default="train,validation", help="which archives to read")
  command.add_argument(
    "--any_size", action="store_true", help="take archives that hold only a part of the pictures"
  )


def _prepare(options, _):
  from .train.data import imagenet

  folder = imagenet.prepare(
    options.archives,
    data_dir=options.data_dir,
    splits=options.splits.split(","),
    complete=not options.any_size,
  )
  print(f"Prepared {folder}")


def _add_train(commands):
  from .train import hosts

  command = _add(
    commands,
    "train",
    _train,
    "train a recipe and save the network",
    "bcos-jax train --config=digits:scratch --workdir=runs/scratch --config.optimizer.lr=1e-3",
  )
  command.set_defaults(
    takes_overrides=True, after_stop="run the same command to go on from the last checkpoint."
  )
  command.add_argument(
    "--config",
    required=True,
    help="name or .py file of a recipe, then :variant,variant; single fields as --config.a.b=value",
  )
  command.add_argument("--workdir", type=pathlib.Path, help="folder of the run; resumed if begun")
  command.add_argument("--print_config", action="store_true", help="print the recipe and stop")
  hosts.add_arguments(command)


def _train(options, overrides):
  from .train import config, hosts
  from .train import main as training

  if options.print_config:
    print(config.format_config(config.load_config(options.config, overrides)))
    return
  if options.workdir is None:
    raise InputError(
      "--workdir is missing, expected a folder for the run.", "Give e.g. --workdir=runs/first."
    )
  hosts.join(options)
  print(f"Saved {training.main(options.config, overrides, options.workdir)}")


def _add_compile(commands):
  command = _add(
    commands,
    "compile",
    _compile,
    "compile a recipe's training step for a TPU slice, without having one",
    "bcos-jax compile --config=bcosify_cnn:resnet50_v1 --topology=v5e:16x16 "
    "--config.data.batch_size=4096",
  )
  command.set_defaults(takes_overrides=True)
  command.add_argument("--config", required=True, help="as for train")
  command.add_argument("--topology", required=True, help="e.g. v5e:16x16, v4:2x2x4, v6e:4x4")
  command.add_argument(
    "--examples", type=int, default=1_281_167, help="size of the training set (ImageNet's)"
  )
  command.add_argument(
    "--utilisation", type=float, default=0.4, help="share of the chip's peak, for the estimates"
  )


def _compile(options, overrides):
  from .train import config, pod

  recipe = config.load_config(options.config, overrides)
  print(f"Compiling for {options.topology}; this takes minutes.", flush=True)
  try:
    cost = pod.compile_recipe(recipe, options.topology, options.examples)
  except MemoryError as error:
    print(f"error: the step does not fit: {error}", file=sys.stderr)
    print(
      "  fix: more devices, a smaller --config.data.batch_size, --config.accumulate, or "
      "--config.ops.dtype=bfloat16.",
      file=sys.stderr,
    )
    return 1
  pod.report(cost, print, examples=options.examples, utilisation=options.utilisation)
  return 0 if cost.fits else 1


def _add_evaluate(commands):
  command = _add(
    commands,
    "evaluate",
    _evaluate,
    "measure accuracy and, if asked, explanations",
    "bcos-jax evaluate runs/quickstart/bcosified --dataset=digits "
    "--metrics=accuracy,grid_pointing,deletion,completeness --grid=2",
  )
  command.add_argument("bundle", type=pathlib.Path, help="folder of a saved network")
  command.add_argument("--dataset", required=True, help="TFDS name, in array_record")
  command.add_argument("--split", default="test", help="TFDS split")
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument("--batch_size", type=int, default=64, help="images at a time")
  command.add_argument(
    "--metrics",
    default="accuracy",
    help="comma-separated: accuracy, grid_pointing, energy_pointing (of data with masks), "
    "deletion, insertion, comprehensiveness, sufficiency, completeness",
  )
  command.add_argument(
    "--num_images", type=int, default=128, help="images to measure explanations on"
  )
  command.add_argument(
    "--grid",
    type=int,
    default=0,
    help="pictures per side in the grid pointing game, which this asks for as well; 0: 3",
  )
  command.add_argument("--num_grids", type=int, default=250, help="most grids to play")
  command.add_argument("--smooth", type=int, default=15, help="odd averaging window, in pixels")
  command.add_argument(
    "--block", type=int, default=0, help="pixels per side of what is deleted; 0: a 14th of the side"
  )
  command.add_argument(
    "--fill",
    choices=["mean", "zero"],
    default="mean",
    help="what is deleted gets the picture's mean colour, or zero in all encoded channels",
  )
  command.add_argument(
    "--report", type=pathlib.Path, help="HTML file to write, with explained predictions"
  )


def _evaluate(options, _):
  _check_evaluation(options)
  import jax

  from . import pretrained
  from .render import files
  from .train import data, evaluate, evaluation_report, measure

  names = dict.fromkeys(options.metrics.split(",") + ["grid_pointing"] * (options.grid > 0))
  choices = measure.Choices(
    names=tuple(names),
    num_images=options.num_images,
    batch_size=options.batch_size,
    grid=options.grid or 3,
    num_grids=options.num_grids,
    smooth=options.smooth,
    block=options.block,
    fill=options.fill,
  )
  if options.report:
    files.check_folder(options.report)
  bundle = pretrained.load(options.bundle)
  examples = data.pipeline.Examples(
    data.open_dataset(options.dataset, options.split, options.data_dir), bundle.preprocess
  )
  classes = len(examples.dataset.label_names)
  if classes != bundle.model.num_classes:
    raise InputError(
      f"The network has {bundle.model.num_classes} classes, {options.dataset!r} has {classes}.",
      "Evaluate a network trained on this data set.",
    )
  accuracy, found = None, {}
  with jax.default_matmul_precision("highest"):
    if "accuracy" in names:
      result = evaluate.evaluate(
        bundle.model, bundle.variables, examples, batch_size=options.batch_size
      )
      accuracy = result["accuracy"]
      print(f"accuracy {accuracy:.2%} on {result['count']:.0f} images", flush=True)
    for metric, found[metric] in measure.measure(bundle, examples, choices):
      for name, value in found[metric].summary().items():
        print(f"{metric.replace('_', ' ')} {name:<14} {value:.4g}", flush=True)
  if options.report:
    evaluation_report.write(
      options.report, bundle, examples, accuracy, found, batch_size=options.batch_size
    )
    print(f"report: {options.report}")


def _check_evaluation(options):
  """Refuses what would fail only after the work."""
  for name, fits, expected in (
    ("batch_size", options.batch_size >= 1, "at least 1"),
    ("grid", options.grid == 0 or options.grid >= 2, "at least 2, or 0 for no game"),
    ("num_grids", options.num_grids >= 1, "at least 1"),
    ("num_images", options.num_images >= 1, "at least 1"),
    ("block", options.block >= 0, "at least 1, or 0 for a 14th of the side"),
    ("smooth", options.smooth == 0 or options.smooth % 2 == 1, "an odd number of pixels, or 0"),
  ):
    if not fits or getattr(options, name) < 0:
      value = getattr(options, name)
      raise InputError(f"--{name}={value}, expected {expected}.", f"Change --{name}.")


def _add_probe(commands):
  command = _add(
    commands,
    "probe",
    _probe,
    "train a classifier on a network's features, and classify by nearest neighbours",
    "bcos-jax probe runs/quickstart/bcosified --dataset=digits --features=runs/features "
    "--output=runs/probed",
  )
  command.add_argument("bundle", type=pathlib.Path, help="folder of a saved network")
  command.add_argument("--dataset", required=True, help="TFDS name, in array_record")
  command.add_argument("--train_split", default="train", help="TFDS split to train on")
  command.add_argument("--test_split", default="test", help="TFDS split to measure on")
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument(
    "--damaged", choices=["fail", "skip"], default="fail", help="pictures that cannot be read"
  )
  command.add_argument(
    "--features", type=pathlib.Path, help="folder to keep features in, and to take them from"
  )
  command.add_argument("--batch_size", type=int, default=64, help="images at a time, for features")
  command.add_argument("--workers", type=int, default=0, help="decoding processes")
  command.add_argument(
    "--head",
    default="",
    help="linear, bcos or bcos_mlp; if not given, what the network's family has",
  )
  command.add_argument(
    "--loss",
    default="",
    help="uniform_off_label_bce, bce or cross_entropy; if not given, the first for B-cos heads and "
    "the last for linear ones",
  )
  command.add_argument("--rates", default="0.01,0.003,0.001", help="learning rates to try together")
  command.add_argument("--epochs", type=int, default=50, help="passes over the training set")
  command.add_argument(
    "--probe_batch",
    type=int,
    default=0,
    help="examples at a time, for the probe; 0: 8192, or fewer for small data sets",
  )
  command.add_argument("--weight_decay", type=float, default=1e-4, help="of AdamW")
  command.add_argument(
    "--hidden", type=int, default=0, help="of bcos_mlp; 0: as many as the network has features"
  )
  command.add_argument(
    "--normalise", action="store_true", help="scale features to unit length, for the probe"
  )
  command.add_argument(
    "--select",
    default="held_out",
    help="what chooses rate and epoch: held_out examples of the training set or, as published and "
    "optimistic, test",
  )
  command.add_argument("--held_out", type=float, default=0.1, help="share that held_out takes")
  command.add_argument("--knn", type=int, default=20, help="neighbours; 0 for none")
  command.add_argument("--metric", default="euclidean", help="of the neighbours, or cosine")
  command.add_argument(
    "--teacher", type=pathlib.Path, help="bundle whose neighbours' predictions are compared"
  )
  command.add_argument("--seed", type=int, default=0, help="seed of everything")
  command.add_argument(
    "--output", type=pathlib.Path, help="folder for network and probe as one bundle"
  )


def _probe(options, _):
  from .train import probe, probing

  bounds = {"batch_size": 1, "probe_batch": 0, "workers": 0, "knn": 0, "seed": 0}
  for name, least in bounds.items():
    if (value := getattr(options, name)) < least:
      raise InputError(f"--{name}={value}, expected at least {least}.", f"Change --{name}.")
  try:
    rates = tuple(float(rate) for rate in options.rates.split(","))
  except ValueError as error:
    raise InputError(
      f"--rates={options.rates!r}, expected numbers.", "Write e.g. --rates=0.01,0.003."
    ) from error
  shared = {"head", "loss", "epochs", "weight_decay", "hidden", "normalise", "select", "held_out"}
  chosen = probe.Options(
    rates=rates,
    batch_size=options.probe_batch,
    seed=options.seed,
    **{name: getattr(options, name) for name in shared},
  )
  choices = probing.Choices(
    folder=options.features,
    image_batch=options.batch_size,
    options=chosen,
    **{
      name: getattr(options, name)
      for name in (
        *("dataset", "train_split", "test_split", "data_dir", "damaged"),
        *("workers", "knn", "metric", "teacher", "output"),
      )
    },
  )
  probing.run(options.bundle, choices)


def _add_explain(commands):
  command = _add(
    commands,
    "explain",
    _explain,
    "explain what a network sees in pictures, or which words decided",
    "bcos-jax explain runs/quickstart/bcosified digit.png; or for an image tower: bcos-jax explain "
    'bundles/clip_image photo.jpg --text "a dog, a cat" --text_tower bundles/clip_text '
    "--tokenizer tokenizers/clip; or for a language model: bcos-jax explain bundles/reviews "
    '--text "not funny at all"',
  )
  command.add_argument("bundle", type=pathlib.Path, help="folder of a saved network")
  command.add_argument(
    "pictures",
    nargs="*",
    metavar="picture",
    type=pathlib.Path,
    help="PNG, JPEG, WebP, ...: any size and kind",
  )
  command.add_argument(
    "--target", help="class to explain, by name or number; the predicted one if not given"
  )
  command.add_argument(
    "--output",
    type=pathlib.Path,
    default=pathlib.Path("explanations"),
    help="folder for one figure per picture, and report.html",
  )
  command.add_argument("--batch_size", type=int, default=16, help="pictures at a time")
  command.add_argument(
    "--text",
    help="texts to look for, separated by commas, for bundles of image towers; the text to explain "
    "for those of language models",
  )
  command.add_argument(
    "--text_file", "--text-file", type=pathlib.Path, help="texts to explain, one per line"
  )
  command.add_argument("--foil", help="class or token that the target is compared with, for texts")
  command.add_argument("--truncate", action="store_true", help="cut texts that are too long")
  command.add_argument("--text_tower", type=pathlib.Path, help="bundle of the text tower")
  command.add_argument("--tokenizer", type=pathlib.Path, help="folder of its tokenizer")
  command.add_argument(
    "--unpooled", action="store_true", help="compare texts with every position of a CLIP ResNet"
  )
  command.add_argument(
    "--power", type=float, help="of the cosines at these positions; 1 if not given"
  )


def _explain(options, _):
  from .explain_sentences import is_language_bundle

  if is_language_bundle(options.bundle):
    _explain_sentences(options)
    return
  for name in ("text_file", "foil", "truncate"):
    if getattr(options, name):
      raise InputError(f"--{name} is for language models, the bundle is of none.", "Leave it out.")
  if not options.pictures:
    raise InputError("No pictures are given.", "Name picture files after the bundle.")
  shared = {"output": options.output, "batch_size": options.batch_size}
  if options.text is not None:
    _check_text(options)
    from .explain_prompts import explain_prompts

    explain_prompts(
      options.bundle,
      options.pictures,
      [text.strip() for text in options.text.split(",")],
      text_bundle=options.text_tower,
      tokenizer=options.tokenizer,
      unpooled=options.unpooled,
      power=1.0 if options.power is None else options.power,
      **shared,
    )
    return
  for name in ("text_tower", "tokenizer", "unpooled", "power"):
    if getattr(options, name) not in (None, False):
      raise InputError(f"--{name} is given without --text.", 'Add e.g. --text "a dog, a cat".')
  from .explain_pictures import explain_pictures

  explain_pictures(options.bundle, options.pictures, target=options.target, **shared)


def _explain_sentences(options):
  from .explain_sentences import explain_sentences, read_lines

  for name in ("pictures", "text_tower", "unpooled", "power"):
    if getattr(options, name) not in (None, False, []):
      raise InputError(f"{name} is given, the network reads texts.", "Leave it out.")
  if (options.text is None) == (options.text_file is None):
    raise InputError(
      "Neither or both of --text and --text_file are given.", 'Give one, e.g. --text "so funny".'
    )
  texts = [options.text] if options.text_file is None else read_lines(options.text_file)
  explain_sentences(
    options.bundle,
    texts,
    tokenizer=options.tokenizer,
    target=options.target,
    foil=options.foil,
    truncate=options.truncate,
    output=options.output,
    batch_size=options.batch_size,
  )


def _check_text(options):
  for name in ("text_tower", "tokenizer"):
    if getattr(options, name) is None:
      raise InputError(
        f"--text is given without --{name}.",
        "Give --text_tower, a bundle, and --tokenizer, the folder of its tokenizer.",
      )
  if options.target is not None:
    raise InputError("--target and --text are both given.", "Give a class or texts, not both.")


def _add_study(commands):
  command = _add(
    commands,
    "study",
    _study,
    "train small networks, and measure what B-cosification does to them",
    "bcos-jax study b-sweep --dataset=digits",
  )
  command.add_argument(
    "study", help="equivalence, speedup, b-sweep, options, methods, sanity or robustness"
  )
  command.add_argument("--dataset", default="shape_scenes", help="shape_scenes or digits")
  command.add_argument(
    "--network", default="", help="architecture, see `bcos-jax models`; the recipe's if not given"
  )
  command.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs/studies"),
    help="folder of networks and findings, shared by all studies",
  )
  command.add_argument("--seed", type=int, default=0, help="seed of everything")
  command.add_argument(
    "--short", action="store_true", help="a fraction of the steps; shows that everything runs"
  )


def _study(options, _):
  from . import studies

  studies.run(
    options.study,
    workdir=options.workdir,
    dataset=options.dataset,
    network=options.network,
    seed=options.seed,
    short=options.short,
  )


def _add_app(commands):
  command = _add(
    commands,
    "app",
    _app,
    "explain pictures on a page in the browser, on this machine",
    "bcos-jax app runs/quickstart/bcosified",
  )
  command.set_defaults(after_stop="run the same command again.")
  command.add_argument(
    "bundles",
    nargs="+",
    metavar="bundle",
    type=pathlib.Path,
    help="folder of a saved network; two to compare them",
  )
  command.add_argument("--host", default="127.0.0.1", help="address to listen on")
  command.add_argument("--port", type=int, default=7860, help="port to listen on; 0: a free one")
  command.add_argument("--max_upload_mb", type=float, default=10.0, help="largest picture file")
  command.add_argument(
    "--max_megapixels", type=float, default=50.0, help="largest picture, in million pixels"
  )
  command.add_argument("--no_examples", action="store_true", help="offer no pictures to begin with")


def _app(options, _):
  from . import app

  limits = app.Limits(options.max_upload_mb, options.max_megapixels)
  settings = app.Settings(options.host, options.port, limits, not options.no_examples)
  app.serve(options.bundles, settings, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
  sys.exit(main())
