"""Which networks of torchvision, timm and transformers `convert.from_torch` takes, one by one.

    python benchmarks/programs.py --output=build/programs.jsonl
    python benchmarks/programs.py --only=timm --match=swin --seconds=300
    python benchmarks/programs.py --print

The smallest network of each family, as `coverage.py` chooses it, with random weights and small
inputs; above 60 million parameters with two blocks, where it takes `depth`. It is exported,
compared with PyTorch (relative to the largest output), certified, explained (the share that is not
accounted for), and B-cosified at B=1 with everything kept, which must not change the outputs. Each
network has a process and a limit of time of its own. Results are appended to the output, and what
is there is not tried again. Needs PyTorch, torchvision, timm and transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import time
from typing import Any
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # most of the time is compilation

from coverage_networks import (
  num_parameters,
  reduced,
  smallest,
  stirred,
  timm_families,
  torchvision,
  torchvision_families,
)
import jax
import numpy as np
import torch

import bcos_jax
from bcos_jax import convert, program

TOLERANCE = 1e-4
SIDES = (96, 128, 0)
"""Sides of pictures that are tried, the first that a network takes; 0 for its own."""
STEPS = ("imported", "value", "certificate", "unexplained", "b1")


def _transformers(mapping: str) -> dict[str, list[str]]:
  torchvision()
  from transformers.models.auto import modeling_auto

  names = getattr(modeling_auto, f"MODEL_FOR_{mapping}_CLASSIFICATION_MAPPING_NAMES")
  return {kind: [given] if isinstance(given, str) else list(given) for kind, given in names.items()}


def networks(library: str, known: Collection[str], match: str) -> Iterator[tuple[str, str]]:
  """Yields (family, its smallest network) of a library, of families that are not known."""
  create = None
  if library in _MAPPINGS:
    families = _transformers(_MAPPINGS[library])
  else:
    families, create = _FAMILIES[library]()
  for family, names in sorted(families.items()):
    if family not in known and re.search(match, family):
      yield family, names[0] if create is None else smallest(names, create, guesses=8)


_FAMILIES = {"torchvision": torchvision_families, "timm": timm_families}
_MAPPINGS = {
  "transformers, images": "IMAGE",
  "transformers, texts": "SEQUENCE",
}
LIBRARIES = (*_FAMILIES, *_MAPPINGS)


def made(library: str, family: str, name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
  """Returns a network with random weights, inputs to export it with, and to explain it with."""
  if library in _FAMILIES:
    return _of_pictures(library, name)
  torchvision()
  import transformers

  network = stirred(getattr(transformers, name)(reduced(family)))
  network.config.use_cache = False
  if getattr(network.config, "pad_token_id", 0) is None:
    network.config.pad_token_id = 0
  seeded = np.random.RandomState(0)
  if library == "transformers, images":
    config = getattr(network.config, "vision_config", network.config)
    side = getattr(config, "image_size", None) or 64
    sides = side if isinstance(side, list | tuple) else (side, side)
    channels = getattr(config, "num_channels", 3)
    x = seeded.standard_normal((2, channels, *sides)).astype(np.float32)
    given = explained = {"pixel_values": x}
  else:
    given, explained = _of_texts(network, seeded)
  with torch.no_grad():
    for named in (given, explained):
      network(**{key: torch.from_numpy(array) for key, array in named.items()})
  return network, given, explained


def _of_texts(network: Any, seeded: np.random.RandomState) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns ids to export a network of texts with, and embeddings to explain it with."""
  ids = seeded.randint(3, 60, (2, 12))
  width = network.get_input_embeddings().weight.shape[-1]
  embeddings = seeded.standard_normal((2, 12, width)).astype(np.float32)
  return {"input_ids": ids}, {"inputs_embeds": embeddings}


LARGE = 60e6
"""Parameters above which a network is made with two blocks, where it takes `depth`."""


def _of_pictures(library: str, name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
  _, create = _FAMILIES[library]()
  less = [{"depth": 2}] if num_parameters(name, create) > LARGE else []
  errors = []
  for side in SIDES:
    sized = [{"img_size": side}, {}] if side and library == "timm" else [{}]
    for extra in [*({**a, **b} for a in less for b in sized), *sized]:
      try:
        network = create(name, **extra)
        channels, *own = getattr(network, "default_cfg", {}).get("input_size", (3, 224, 224))
        shape = (2, channels, *([side, side] if side else own))
        x = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
        with torch.no_grad():
          network.eval()(torch.from_numpy(x))
      except Exception as error:  # whatever a network raises for sizes it does not take
        errors.append(error)
      else:
        return stirred(network), {"x": x}, {"x": x}
  raise errors[-1]


def tried(library: str, family: str, name: str) -> Iterator[tuple[str, Any]]:
  """Yields (step, result) for one network, as far as it goes."""
  torch.set_num_threads(1)
  network, inputs, explained = made(library, family, name)
  yield "made", True
  function, variables = convert.from_torch(network, _example(library, inputs))
  yield "imported", len(function.graph.nodes)
  yield "batch", "mapped" if function.alone else "free"
  with torch.no_grad():
    given = {key: torch.from_numpy(x) for key, x in inputs.items()}
    theirs = network(*given.values()) if library in _FAMILIES else network(**given)
  theirs = _logits(theirs).numpy()
  with jax.default_matmul_precision("highest"):
    ours = jax.jit(function)(variables, *inputs.values())
  yield "value", float(np.abs(_logits(ours) - theirs).max() / np.abs(theirs).max())
  if explained is not inputs and explained.keys() != inputs.keys():
    function, variables = convert.from_torch(network, explained)
  (x,) = explained.values()
  traced = program.trace(lambda v, x: _logits(function(v, x)), variables, x)
  yield "certificate", traced.check().holds
  ex = bcos_jax.explain(traced, variables, x)
  yield "unexplained", float(ex.completeness_error.max())
  kept = traced.bcosify(b=1.0, biases="keep")
  with jax.default_matmul_precision("highest"):
    outputs = np.asarray(jax.jit(kept)(kept.variables, x))
  yield "b1", float(np.abs(outputs - ex.logits).max() / np.abs(ex.logits).max())


def _example(library: str, inputs: dict[str, Any]) -> Any:
  return tuple(inputs.values()) if library in _FAMILIES else inputs


def _logits(outputs: Any) -> Any:
  """Returns the logits of outputs that have more, or else the first: distilled heads, states."""
  while isinstance(outputs, dict | list | tuple):
    named = dict(outputs) if isinstance(outputs, dict) else dict(enumerate(outputs))
    outputs = named["logits"] if "logits" in named else next(iter(named.values()))
  return outputs


def one(library: str, family: str, name: str, seconds: int, last: str) -> dict[str, Any]:
  """Returns the row of one network, tried in a process of its own.

  The process is a fork of this one, which has imported the libraries and computed nothing yet.
  """
  row: dict[str, Any] = {"library": library, "family": family, "network": name}
  forks = multiprocessing.get_context("fork")
  receiver, sender = forks.Pipe(duplex=False)
  process = forks.Process(target=_report, args=(sender, library, family, name))
  started = time.perf_counter()
  process.start()
  sender.close()
  with contextlib.suppress(EOFError):
    while receiver.poll(max(0, started + seconds - time.perf_counter())):
      step, result = receiver.recv()
      row[step] = result
      if step == last:
        raise EOFError
    row["error"] = f"took longer than {seconds} s"
  process.kill()
  process.join()
  return {**row, "seconds": round(time.perf_counter() - started)}


def _report(sender: Any, *which: str) -> None:
  warnings.filterwarnings("ignore")
  try:
    for step in tried(*which):
      sender.send(step)
  except Exception as error:  # whatever goes wrong is a result
    what = f"{type(error).__name__}: {error}"
    sender.send(("error", " ".join(what.split())[:240]))
  sender.close()


def _done(row: dict[str, Any], last: str) -> bool:
  return last in row or "error" in row


def outcome(row: dict[str, Any]) -> str:
  """Returns how far a network got."""
  if "imported" not in row:
    return "made" if "made" in row else "not made here"
  if not row.get("value", 1) <= TOLERANCE:
    return "imported" if "value" not in row else "differs"
  if "certificate" not in row:
    return "value"
  if not (row.get("unexplained", 1) <= TOLERANCE and row.get("b1", 1) <= TOLERANCE):
    return "certificate"
  return "all"


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the counts, values within 1e-4 of those tried, and what stopped others, in Markdown."""
  lines = [
    "| library | families made here | imported | value | certificate | explained | B=1 |",
    "|---|---|---|---|---|---|---|",
  ]

  def within(own: list[dict[str, Any]], step: str) -> str:
    numbers = [row[step] for row in own if step in row]
    return f"{sum(number <= TOLERANCE for number in numbers)} of {len(numbers)}"

  for library in dict.fromkeys(row["library"] for row in rows):
    own = [row for row in rows if row["library"] == library]
    counts = [
      sum("imported" in row or "made" in row for row in own),
      sum("imported" in row for row in own),
      within(own, "value"),
      sum("certificate" in row for row in own),
      *(within(own, step) for step in ("unexplained", "b1")),
    ]
    lines.append(f"| {library} | {' | '.join(map(str, counts))} |")
  lines += ["", "| network | as far as | why |", "|---|---|---|"]
  for row in rows:
    if (reached := outcome(row)) != "all":
      steps = [f"{step} {row[step]:.0e}" for step in ("value", "unexplained", "b1") if step in row]
      why = row.get("error", ", ".join(steps)).replace("|", "/")
      lines.append(f"| {row['library']}: `{row['network']}` | {reached} | {why} |")
  return "\n".join(lines) + "\n"


def main() -> None:
  """Reads the command line, tries the networks, appends the results, prints the table."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--only", choices=LIBRARIES, help="one library")
  parser.add_argument("--match", default="", help="regular expression on the family")
  parser.add_argument("--seconds", type=int, default=180, help="longest time for one network")
  parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="the last step to take")
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/programs.jsonl"))
  parser.add_argument("--print", action="store_true", help="print the table of what was tried")
  given = parser.parse_args()
  given.output.parent.mkdir(parents=True, exist_ok=True)
  given.output.touch()
  rows = [json.loads(line) for line in given.output.read_text(encoding="utf-8").splitlines()]
  for library in () if given.print else LIBRARIES:
    if given.only not in (None, library):
      continue
    known = {r["family"] for r in rows if r["library"] == library and _done(r, given.until)}
    for family, name in networks(library, known, given.match):
      rows.append(one(library, family, name, given.seconds, given.until))
      with given.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rows[-1]) + "\n")
      print(outcome(rows[-1]), rows[-1], flush=True)
  latest = {(row["library"], row["family"]): row for row in rows}
  print(table(list(latest.values())))


if __name__ == "__main__":
  main()
