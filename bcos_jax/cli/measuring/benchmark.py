"""The command `benchmark`, which measures explanations by tests that can fail them."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
import time
from typing import Any

from ...errors import InputError
from ..command import NETWORK, Commands, add_command, add_download, number, whole

_STATE = ".part"  # suffix of what is kept of an unfinished run
_TOLERANCE = 1e-3


def add_benchmark(commands: Commands) -> None:
  command = add_command(
    commands,
    "benchmark",
    _benchmark,
    "measure explanations by benchmarks that can fail them, and recompute results",
    "bcos-jax benchmark runs/quickstart/bcosified --dataset=digits --output=result.json",
  )
  command.set_defaults(after_stop="run the same command to continue after the last finished part.")
  command.add_argument("bundle", nargs="?", help=f"{NETWORK}; with --check, that of the result")
  add_download(command)
  command.add_argument(
    "--dataset",
    default="",
    help="folder of pictures, table of labels (CSV), pattern in quotes, or TFDS name, as for "
    "evaluate; part_scenes also has parts that are removed",
  )
  command.add_argument("--split", default="", help="split of the data set, as for evaluate")
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument(
    "--output", type=pathlib.Path, help="JSON file of the result; an unfinished run goes on"
  )
  command.add_argument(
    "--check", type=pathlib.Path, help="result to recompute: says what differs, if anything does"
  )
  command.add_argument(
    "--tolerance",
    type=number(0, 1),
    default=_TOLERANCE,
    help="relative difference that --check lets pass; numbers of other machines differ a little",
  )
  command.add_argument(
    "--scores", default="", help="comma-separated parts of the suite; default: all that apply"
  )
  command.add_argument(
    "--methods",
    default="",
    help="comma-separated methods: own and post-hoc ones, or all; default: the quick ones",
  )
  command.add_argument("--num_images", type=whole(1), default=200, help="most pictures to explain")
  command.add_argument("--batch_size", type=whole(1), default=64, help="pictures at a time")
  command.add_argument("--seed", type=whole(), default=0, help="random seed")
  command.add_argument(
    "--parts", default="", help="folder or archive of FunnyBirds, for a network of its classes"
  )
  command.add_argument("--short", action="store_true", help="few pictures, as a smoke test")


def _benchmark(options, _):
  from ...train.evaluation import signed

  if options.check:
    return _check(options, signed)
  if not options.bundle or not options.dataset:
    missing = "BUNDLE" if not options.bundle else "--dataset"
    raise InputError(
      f"{missing} is missing.", "Name a network and its data, or a result with --check."
    )
  if options.output:
    from ...io import files

    files.check_folder(options.output)
    if options.output.suffix != ".json":
      raise InputError(
        f"--output={options.output} is to be JSON, expected a name that ends in .json.",
        "For example: --output=result.json.",
      )
  source = {name: getattr(options, name) for name in ("dataset", "split", "data_dir")}
  measured, facts = _opened(options.bundle, source, _choices(options), options.download)
  result = _measure(measured, facts, options.output)
  if options.output:
    signed.write(options.output, result)
    options.output.with_suffix(_STATE).unlink(missing_ok=True)
    print(f"written: {options.output}")
  return None


def _choices(options) -> Any:
  from ... import attribution
  from ...train.evaluation import suite
  from ...train.evaluation.explainers import METHODS, OWN

  methods = tuple(filter(None, options.methods.split(","))) or METHODS
  if methods == ("all",):
    methods = (OWN, *attribution.METHODS)
  choices = suite.SuiteChoices(
    scores=tuple(filter(None, options.scores.split(","))),
    methods=methods,
    num_images=options.num_images,
    batch_size=options.batch_size,
    seed=options.seed,
    parts=options.parts,
  )
  return choices.short() if options.short else choices


def _opened(
  bundle: str, source: Mapping[str, str], choices: Any, download: bool
) -> tuple[Any, dict[str, Any]]:
  """Returns what is to be measured, and what a result says of it."""
  import jax

  from ...inputs import of_pictures
  from ...models import is_language_model
  from ...network import load
  from ...train.data import measured, pipeline
  from ...train.evaluation import signed, suite

  network = load(bundle, download=download)
  if is_language_model(network.model):
    raise InputError(
      f"{bundle!r} reads texts, the benchmarks are of pictures.",
      "Use `bcos-jax evaluate --metrics=comprehensiveness,sufficiency,sequence_pointing`.",
    )
  trained = measured.trained_on(network.config)
  dataset, _ = measured.open_measured(
    source["dataset"], source["split"], source["data_dir"], trained=trained
  )
  dataset = measured.with_classes_of(dataset, network.labels, network.model.num_classes)
  examples = pipeline.Examples(dataset, of_pictures(network.preprocess))
  with jax.default_matmul_precision("highest"):
    opened = suite.read(network, examples, choices)
  arrays = (opened.images, opened.labels, opened.others, opened.other_labels)
  facts = {
    "network": {"name": bundle, "sha256": signed.hash_of_network(network)},
    "data": {
      "name": dataset.name,
      "pictures": len(opened.images),
      "sha256": signed.hash_of_arrays(*arrays),
      **source,
    },
    "settings": dataclasses.asdict(choices),
    "versions": signed.versions(),
  }
  return opened, facts


def _measure(measured: Any, facts: dict[str, Any], output: pathlib.Path | None) -> dict[str, Any]:
  """Measures the suite, keeping each finished part beside the output; prints scores and times."""
  import jax

  from ...train.evaluation import signed, suite

  state = output.with_suffix(_STATE) if output else None
  content = {**facts, "scores": {}, "skipped": {}, "seconds": {}}
  if state and state.exists():
    content = _continued(state, content)
  print(f"{len(measured.images)} pictures, {len(measured.choices.methods)} methods", flush=True)
  measured.skipped.update(content["skipped"])
  begun = time.perf_counter()
  with jax.default_matmul_precision("highest"):
    for name, scores in suite.run(measured, content["seconds"]):
      seconds, begun = time.perf_counter() - begun, time.perf_counter()
      content["scores"].update(scores)
      content["seconds"][name] = round(seconds, 1)
      content["skipped"] = dict(measured.skipped)
      for score, methods in scores.items():
        _print(score, methods)
      print(f"{name}: {seconds:.0f} s", flush=True)
      if state:
        signed.write(state, signed.sealed(content))
  for what, why in measured.skipped.items():
    print(f"left out: {what}: {why}", flush=True)
  print(f"total {sum(content['seconds'].values()):.0f} s", flush=True)
  return signed.sealed(content)


def _continued(state: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
  """Returns what an unfinished run of the same network, data and settings has measured."""
  from ...train.evaluation import signed

  kept = signed.read(state)
  plain = signed.sealed(content)
  for what in ("network", "data", "settings", "versions"):
    if kept[what] != plain[what]:
      raise InputError(
        f"{str(state)!r} is an unfinished run of other {what}.",
        "Choose another --output, or delete that file.",
      )
  done = ", ".join(kept["seconds"])
  print(f"continuing; done: {done}", flush=True)
  return {key: value for key, value in kept.items() if key not in ("seal", "kind", "format")}


def _print(score: str, methods: Mapping[str, Mapping[str, Any]]) -> None:
  for name, summary in methods.items():
    error = summary.get("standard_error")
    shown = f"{summary['mean']:.3f}" + (f" ± {error:.3f}" if error else "")
    print(f"{score:<16} {name:<22} {shown}", flush=True)
  for limit in ("random", "oracle"):
    known = [summary[limit] for summary in methods.values() if limit in summary]
    if known:
      print(f"{score:<16} {f'({limit})':<22} {known[0]:.3f}", flush=True)


def _check(options, signed) -> int:
  from ...train.evaluation import suite

  result = signed.read(options.check)
  for name in ("scores", "methods", "output", "parts"):
    if getattr(options, name):
      raise InputError(
        f"--{name} does nothing with --check: a result is recomputed as it was measured.",
        f"Omit --{name}.",
      )
  settings: dict[str, Any] = {**result["settings"]}
  settings |= {name: tuple(settings[name]) for name in ("scores", "methods")}
  choices = suite.SuiteChoices(**settings)
  kept = ("dataset", "split", "data_dir")
  source = {name: getattr(options, name) or result["data"][name] for name in kept}
  bundle = options.bundle or result["network"]["name"]
  measured, facts = _opened(bundle, source, choices, options.download)
  signed.check_same(options.check, result, facts)
  found = _measure(measured, facts, None)
  for what, before in result["versions"].items():
    if (now := found["versions"].get(what)) != before:
      print(f"{what}: {before} in the file, {now} here")
  lines = list(signed.differences(result["scores"], found["scores"], options.tolerance))
  print("\n".join(lines) if lines else f"All scores agree within {options.tolerance:g}.")
  return 1 if lines else 0
