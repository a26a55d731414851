"""The command `evaluate`, which measures accuracy and explanations."""

from __future__ import annotations

import pathlib

from ...errors import InputError
from ..command import Commands, add_command, add_network, bar, number


def add_evaluate(commands: Commands) -> None:
  command = add_command(
    commands,
    "evaluate",
    _evaluate,
    "measure accuracy and, optionally, explanations",
    "bcos-jax evaluate runs/quickstart/bcosified --dataset=digits "
    "--metrics=accuracy,grid_pointing,deletion,completeness --grid=2",
  )
  add_network(command)
  command.add_argument(
    "--dataset",
    required=True,
    help="folder of pictures (a folder per class, or train/ and val/), table of labels (CSV) "
    "beside its pictures, pattern in quotes, or TFDS name, in array_record; for language models "
    "also a file or folder of texts",
  )
  command.add_argument(
    "--split",
    default="",
    help="split of the data set, default test; of a folder train, test (what training held out) "
    "or all; a file of texts is read entirely",
  )
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument("--batch_size", type=int, default=64, help="images or texts at a time")
  command.add_argument(
    "--metrics",
    default="accuracy",
    help="comma-separated: accuracy, comprehensiveness, sufficiency, completeness; of pictures "
    "grid_pointing, energy_pointing (needs masks), deletion, insertion; of texts "
    "sequence_pointing, rationales (needs marked deciding words)",
  )
  command.add_argument(
    "--held_out",
    type=number(0, 1),
    help="share of a folder or file that was held out from training; default: what training had, "
    "or 0.2",
  )
  command.add_argument(
    "--report", type=pathlib.Path, help="HTML file to write, with explained predictions"
  )
  command.add_argument(
    "--published",
    action="store_true",
    help="of pictures: contributions as the authors' code has them, which do not add up to the "
    "output of B-cosified networks; of texts: B-cos LM's definitions of comprehensiveness, "
    "sufficiency and sequence_pointing",
  )
  _add_picture_options(command.add_argument_group("pictures"))
  _add_text_options(command.add_argument_group("texts"))


def _add_picture_options(group):
  group.add_argument(
    "--labels", default="", help="table of files and labels (CSV), for a folder without classes"
  )
  group.add_argument(
    "--output",
    type=pathlib.Path,
    help="folder for evaluation.json, predictions.csv and predictions.npz",
  )
  group.add_argument(
    "--num_images", type=int, default=128, help="images to measure explanations on"
  )
  group.add_argument(
    "--grid",
    type=int,
    default=0,
    help="pictures per side in the grid pointing game, also enables that metric; 0: 3",
  )
  group.add_argument("--num_grids", type=int, default=250, help="maximum number of grids")
  group.add_argument(
    "--smooth", type=int, default=15, help="side of the averaging window, odd, in pixels"
  )
  group.add_argument(
    "--block", type=int, default=0, help="pixels per side of a deleted block; 0: a 14th of the side"
  )
  group.add_argument(
    "--fill",
    choices=["mean", "zero"],
    default="mean",
    help="fill of deleted blocks: the picture's mean colour, or zero in all encoded channels",
  )


def _add_text_options(group):
  group.add_argument("--num_texts", type=int, default=128, help="texts to measure explanations on")
  group.add_argument(
    "--num_pairs", type=int, default=250, help="maximum number of pairs for sequence_pointing"
  )
  group.add_argument(
    "--length",
    type=int,
    default=0,
    help="tokens of each text in sequence_pointing, truncated; 0: the most that fit twice",
  )
  group.add_argument("--text", default="text", help="column or feature of the text")
  group.add_argument("--label", default="label", help="column of the label")
  group.add_argument("--truncate", action="store_true", help="truncate texts that are too long")
  group.add_argument(
    "--no_oracle",
    action="store_true",
    help="omit the oracle of comprehensiveness and sufficiency: a forward pass per token",
  )


def _evaluate(options, _):
  from ...models import is_language_model
  from ...network import load

  _check_evaluation(options)
  network = load(options.bundle, download=options.download)
  if options.report:
    from ...io import files

    files.check_page(options.report)
  if options.output:
    from ...explain import saving
    from ...train.evaluation import tables

    given = [path for path in (options.dataset, options.labels) if path]
    saving.checked_output(options.output, given, tables.WRITTEN)
  texts = is_language_model(network.model)
  (_evaluate_texts if texts else _evaluate_pictures)(options, network)


def _evaluate_pictures(options, bundle):
  import jax

  from ...inputs import of_pictures
  from ...train.data import measured, pipeline
  from ...train.evaluation import evaluate, image_metrics, report, tables, text_metrics
  from ...train.evaluation.choices import refuse

  refuse(options, text_metrics.TextChoices, "texts", "pictures")
  _refuse_flags_of_texts(options)
  names = dict.fromkeys(options.metrics.split(",") + ["grid_pointing"] * (options.grid > 0))
  kept = ("num_images", "batch_size", "num_grids", "smooth", "block", "fill", "published")
  choices = image_metrics.MetricChoices(
    names=tuple(names),
    grid=options.grid or 3,
    **{name: getattr(options, name) for name in kept},
  )
  read = of_pictures(bundle.preprocess)
  image_metrics.check_sizes(choices, read.size)
  trained = measured.trained_on(bundle.config)
  dataset, what = measured.open_measured(
    options.dataset,
    options.split,
    options.data_dir,
    labels=options.labels,
    held_out=options.held_out,
    trained=trained,
  )
  dataset = measured.with_classes_of(dataset, bundle.labels, bundle.model.num_classes)
  skip = trained.get("data.damaged") == "skip"
  examples = pipeline.Examples(dataset, read, skip_damaged=skip)
  accuracy, found = None, {}
  size = pipeline.batch_of(examples, bundle.model, options.batch_size)
  with jax.default_matmul_precision("highest"):
    if "accuracy" in names:
      result = evaluate.evaluate(
        bundle.model,
        bundle.variables,
        examples,
        batch_size=size,
        progress=bar("evaluating", -(-len(examples) // size)),
      )
      accuracy = result["accuracy"]
      _print_accuracy(result, what)
    for metric, found[metric] in image_metrics.measure(bundle, examples, choices):
      _print(metric.replace("_", " "), found[metric])
  if options.output:
    measures = {"accuracy": accuracy, **{name: one.summary() for name, one in found.items()}}
    paths = tables.write(options.output, bundle, examples, measures, size)
    print("\n".join(f"written: {path}" for path in paths))
  if options.report:
    report.write(options.report, bundle, examples, accuracy, found, batch_size=size)
    print(f"report: {options.report}")


def _print_accuracy(result, what):
  print(f"accuracy {result['accuracy']:.2%} on {result['count']:.0f} {what}", flush=True)
  if "mean_average_precision" in result:
    print(f"mean average precision {result['mean_average_precision']:.3f}", flush=True)


def _refuse_flags_of_texts(options):
  """Refuses flags that only texts read."""
  for name, default in (
    *(("text", "text"), ("label", "label")),
    *(("truncate", False), ("no_oracle", False)),
  ):
    if (value := getattr(options, name)) != default:
      raise InputError(
        f"--{name}={value} is for texts, the network reads pictures.", f"Omit --{name}."
      )


def _evaluate_texts(options, bundle):
  from ...explain.text_reader import TextReader
  from ...train.data.text import splits
  from ...train.evaluation import image_metrics, text_metrics
  from ...train.evaluation.choices import refuse

  refuse(options, image_metrics.MetricChoices, "pictures", "texts")
  for name in ("labels", "output"):
    if getattr(options, name):
      raise InputError(f"--{name} is for pictures, the network reads texts.", f"Omit --{name}.")
  choices = text_metrics.TextChoices(
    names=tuple(dict.fromkeys(options.metrics.split(","))),
    num_texts=options.num_texts,
    num_pairs=options.num_pairs,
    length=options.length,
    batch_size=options.batch_size,
    published=options.published,
    oracle=not options.no_oracle,
  )
  reader = TextReader.load(bundle, truncate=options.truncate)
  dataset = splits.open_text_split(
    options.dataset,
    options.split,
    options.data_dir,
    text=options.text,
    label=options.label,
    label_names=reader.labels,
    held_out=0.2 if options.held_out is None else options.held_out,
  )
  measured, found = text_metrics.MeasuredTexts(reader, dataset, choices), {}
  if measured.cut:
    print(
      f"{measured.cut} of {len(dataset)} texts were truncated to {reader.length} tokens", flush=True
    )
  if "accuracy" in choices.names:
    print(f"accuracy {measured.accuracy:.2%} on {len(dataset)} texts", flush=True)
  for metric, found[metric] in measured.measure():
    _print(metric, found[metric])
  if options.report:
    measured.write(options.report, found)
    print(f"report: {options.report}")


def _print(metric, scores):
  for name, value in scores.summary().items():
    print(f"{metric} {name:<14} {value:.4g}", flush=True)


def _check_evaluation(options):
  """Refuses what would fail only after the work."""
  for name, fits, expected in (
    ("batch_size", options.batch_size >= 1, "at least 1"),
    ("grid", options.grid == 0 or options.grid >= 2, "at least 2, or 0 for no game"),
    ("num_grids", options.num_grids >= 1, "at least 1"),
    ("num_images", options.num_images >= 1, "at least 1"),
    ("num_texts", options.num_texts >= 1, "at least 1"),
    ("num_pairs", options.num_pairs >= 1, "at least 1"),
    ("length", options.length == 0 or options.length > 2, "at least 3, or 0"),
    ("block", options.block >= 0, "at least 1, or 0 for a 14th of the side"),
    ("smooth", options.smooth == 0 or options.smooth % 2 == 1, "an odd number of pixels, or 0"),
  ):
    if not fits or getattr(options, name) < 0:
      value = getattr(options, name)
      raise InputError(f"--{name}={value}, expected {expected}.", f"Change --{name}.")
