"""The command `bcos-jax`.

Exit codes: 0 done, 1 the run failed, 2 bad usage or input. A failure prints one line of cause and
one of fix; `--debug` shows the traceback. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import sys

from .cache import cache_folder
from .errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns its exit code."""
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  if rest and not options.takes_overrides:
    parser.error(
      f"unrecognized arguments: {' '.join(rest)}; see `bcos-jax {options.command} --help`"
    )
  _keep_compiled()
  try:
    return options.run(options, rest) or 0
  except InputError as error:
    if options.debug:
      raise
    print(f"error: {error.cause}", f"  fix: {error.fix}", sep="\n", file=sys.stderr)
    return 2
  except KeyboardInterrupt as stop:
    print(
      f"stopped: {stop or 'by the keyboard'}",
      "  fix: run the same command to go on.",
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


def _keep_compiled():
  """Lets the next run of a command start without compiling again."""
  import jax

  if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="bcos-jax",
    description="B-cos networks: networks that explain themselves.",
    epilog="Start with: bcos-jax quickstart",
  )
  parser.set_defaults(takes_overrides=False)
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for add in (_add_quickstart, _add_models, _add_train, _add_evaluate, _add_explain):
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
  command = _add(commands, "models", _models, "list the architectures", "bcos-jax models vit")
  command.add_argument("pattern", nargs="?", default="", help="part of a name")


def _models(options, _):
  from . import models, ops, pretrained
  from .errors import unknown_name

  names = [name for name in models.names() if options.pattern in name]
  if not names:
    raise unknown_name("architecture", options.pattern, models.names())
  print(f"{'architecture':<28}{'input':>6}{'classes':>9}{'conventional':>14}{'B-cosified':>14}")
  for name in names:
    sizes = []
    for family in (ops.StandardOps(), ops.BcosOps()):
      model = models.create(name, ops=family)
      sizes.append(f"{pretrained.num_parameters(model) / 1e6:.3f} M")
    print(
      f"{name:<28}{model.input_spec.shape[1]:>6}{model.num_classes:>9}{sizes[0]:>14}{sizes[1]:>14}",
      flush=True,
    )


def _add_train(commands):
  command = _add(
    commands,
    "train",
    _train,
    "train a recipe and save the network",
    "bcos-jax train --config=digits:scratch --workdir=runs/scratch --config.optimizer.lr=1e-3",
  )
  command.set_defaults(takes_overrides=True)
  command.add_argument(
    "--config",
    required=True,
    help="name or .py file of a recipe, then :variant,variant; single fields as --config.a.b=value",
  )
  command.add_argument("--workdir", type=pathlib.Path, help="folder of the run; resumed if begun")
  command.add_argument("--print_config", action="store_true", help="print the recipe and stop")


def _train(options, overrides):
  from .train import config
  from .train import main as training

  if options.print_config:
    print(config.format_config(config.load_config(options.config, overrides)))
    return
  if options.workdir is None:
    raise InputError(
      "--workdir is missing, expected a folder for the run.", "Give e.g. --workdir=runs/first."
    )
  print(f"Saved {training.main(options.config, overrides, options.workdir)}")


def _add_evaluate(commands):
  command = _add(
    commands,
    "evaluate",
    _evaluate,
    "measure accuracy and, if asked, how well explanations localise",
    "bcos-jax evaluate runs/quickstart/bcosified --dataset=digits --grid=2",
  )
  command.add_argument("bundle", type=pathlib.Path, help="folder of a saved network")
  command.add_argument("--dataset", required=True, help="TFDS name, in array_record")
  command.add_argument("--split", default="test", help="TFDS split")
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument("--batch_size", type=int, default=64, help="images at a time")
  command.add_argument(
    "--grid",
    type=int,
    default=0,
    help="also play the grid pointing game with this many pictures per side",
  )
  command.add_argument("--num_grids", type=int, default=250, help="most grids to play")
  command.add_argument("--smooth", type=int, default=15, help="odd averaging window, in pixels")


def _evaluate(options, _):
  from . import metrics, pretrained
  from .train import data, evaluate

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
  result = evaluate.evaluate(
    bundle.model, bundle.variables, examples, batch_size=options.batch_size
  )
  print(f"accuracy {result['accuracy']:.2%} on {result['count']:.0f} images")
  if options.grid:
    images, labels = data.pipeline.to_arrays(examples)
    game = metrics.grid_pointing_game(
      metrics.attribute_with(bundle.model, bundle.variables),
      _logits_of(bundle),
      images,
      labels,
      grid=options.grid,
      num_grids=options.num_grids,
      smooth=options.smooth,
    )
    for name, value in game.summary().items():
      print(f"grid pointing {name:<14} {value:.4g}")


def _logits_of(bundle):
  import jax
  import numpy as np

  def logits(images):
    return bundle.model.apply(bundle.variables, bundle.model.ops.encoding(images))

  compiled = jax.jit(logits)
  return lambda images: np.asarray(compiled(images))


def _add_explain(commands):
  command = _add(
    commands,
    "explain",
    _explain,
    "explain what a network sees in pictures",
    "bcos-jax explain runs/quickstart/bcosified digit.png",
  )
  command.add_argument("bundle", type=pathlib.Path, help="folder of a saved network")
  command.add_argument(
    "pictures",
    nargs="+",
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


def _explain(options, _):
  from .explain_pictures import explain_pictures

  explain_pictures(
    options.bundle,
    options.pictures,
    output=options.output,
    target=options.target,
    batch_size=options.batch_size,
  )


if __name__ == "__main__":
  sys.exit(main())
