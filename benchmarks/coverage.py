"""Which networks of torchvision, timm and transformers convert, tried one by one.

    python benchmarks/coverage.py --output=build/coverage.md
    python benchmarks/coverage.py --only=timm --all --seconds=300

Every network is made with random weights, saved as users do (`torch.save` of the state dict, timm's
`save_for_hf`, transformers' `save_pretrained`), converted, and compared with the original on a
picture or a text: outputs within a relative 1e-4. By default the smallest of each family: the
module that defines a network in torchvision and timm, the model type in transformers, whose
networks are those of its image and text classifiers at reduced sizes. "Smallest" has the fewest
parameters among those whose names sound smallest. Of a network whose name or model type is unknown
here, which no weights change, the configuration is saved with one tensor. Needs PyTorch,
torchvision, timm and transformers. What could not be made counts as neither converted nor refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import tempfile
import time
from typing import Any
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from coverage_networks import NotMade, Trial, timm_trials, torchvision_trials, transformers_trials
import jax
import numpy as np
import torch

from bcos_jax import models
from bcos_jax.convert import original, verify
from bcos_jax.convert.plan import plan
from bcos_jax.errors import InputError

VERIFIED, CONVERTED, WRONG, REFUSED, NOT_MADE = (
  "verified",
  "converted",
  "differs",
  "refused",
  "not made",
)


@dataclasses.dataclass(frozen=True)
class Row:
  """What became of one network."""

  library: str
  family: str
  network: str
  outcome: str
  detail: str
  seconds: float


def tried(trial: Trial, seconds: int) -> Row:
  """Makes, saves, converts and compares one network, within bounded time."""
  started = time.perf_counter()
  try:
    with tempfile.TemporaryDirectory() as folder, _limited(seconds):
      outcome, detail = _tried(trial, pathlib.Path(folder))
  except TimeoutError:
    outcome, detail = NOT_MADE, f"took longer than {seconds} s"
  except NotMade as error:
    outcome, detail = NOT_MADE, str(error)
  taken = time.perf_counter() - started
  return Row(trial.library, trial.family, trial.network, outcome, detail, round(taken, 1))


def _tried(trial: Trial, folder: pathlib.Path) -> tuple[str, str]:
  try:
    source, architecture, network = trial.make(folder)
  except (TimeoutError, NotMade):
    raise
  except Exception as error:  # whatever a library raises for sizes it does not take
    raise NotMade(f"{type(error).__name__}: {_line(error)}") from error
  try:
    made = plan(source, architecture, default_preprocess=True)
    bundle = made.bundle()
  except InputError as error:
    return REFUSED, _line(error.cause).replace(str(folder), "")
  about = ""
  try:
    if network is None:
      network, about = original.build(made)
    if network is None:
      return CONVERTED, about
    error = _difference(network, bundle.model, bundle.variables)
  except TimeoutError:
    return CONVERTED, "there was no time to compare"
  except RuntimeError as error:  # PyTorch's, of a network that its reduced sizes do not fit
    return CONVERTED, f"the original does not run: {_line(error)}"
  outcome = VERIFIED if error <= verify.TOLERANCE else WRONG
  return outcome, f"{models.describe(bundle.model)[0]}, relative difference {error:.0e}"


def _difference(network: torch.nn.Module, model: Any, variables: Any) -> float:
  """Returns the relative difference of the outputs, ours compiled in float32."""
  inputs = _inputs(model)
  with torch.no_grad():
    seen = np.moveaxis(inputs, -1, 1) if inputs.ndim == 4 else inputs
    theirs = network(torch.from_numpy(np.ascontiguousarray(seen)))
  for name in ("logits", "image_embeds", "text_embeds", "pooler_output", "last_hidden_state"):
    theirs = getattr(theirs, name, theirs)
  with jax.default_matmul_precision("highest"):
    ours = jax.jit(model.apply)(variables, inputs)
  return verify.error(theirs.numpy(), np.asarray(ours))


def _inputs(model: Any) -> np.ndarray:
  seeded = np.random.RandomState(0)
  if model.reads == "text":
    return seeded.randint(3, model.vocab_size, (1, 12))
  shape = model.input_spec.shape
  if not hasattr(model, "patch_size") and not hasattr(model, "window"):
    shape = (1, 64, 64, 3)
  return seeded.standard_normal(shape).astype(np.float32)


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
  def stop(number, frame):
    raise TimeoutError

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _line(error: Any) -> str:
  return " ".join(str(error).split()).replace("|", "/")[:160]


def summary(rows: list[Row]) -> str:
  """Returns the table of counts, and of each library which families do what, in Markdown."""
  lines = [
    "| library | families | converted and verified | converted, not compared | differ | refused |"
    " not made here |",
    "|---|---|---|---|---|---|---|",
  ]
  libraries = list(dict.fromkeys(row.library for row in rows))
  outcomes = (VERIFIED, CONVERTED, WRONG, REFUSED, NOT_MADE)
  for library in libraries:
    best = _families(rows, library)
    counts = [sum(found == outcome for found in best.values()) for outcome in outcomes]
    lines.append(f"| {library} | {len(best)} | {' | '.join(map(str, counts))} |")
  for library in libraries:
    best = _families(rows, library)
    lines += ["", f"{library}:", ""]
    for outcome in outcomes:
      names = [family for family, found in best.items() if found == outcome]
      if names:
        lines.append(f"- {outcome}: {', '.join(f'`{name}`' for name in names)}")
  return "\n".join(lines) + "\n"


def _families(rows: list[Row], library: str) -> dict[str, str]:
  """Returns the outcome of each family, the best of its networks."""
  order = (VERIFIED, CONVERTED, WRONG, REFUSED, NOT_MADE)
  best: dict[str, str] = {}
  for row in rows:
    if row.library == library:
      found = best.get(row.family, NOT_MADE)
      best[row.family] = min(found, row.outcome, key=order.index)
  return best


def details(rows: list[Row]) -> str:
  """Returns one line per network, in Markdown."""
  lines = ["| library | family | network | outcome | |", "|---|---|---|---|---|"]
  lines += [
    f"| {row.library} | {row.family} | {row.network} | {row.outcome} | {row.detail} |"
    for row in rows
  ]
  return "\n".join(lines) + "\n"


LIBRARIES = {
  "torchvision": torchvision_trials,
  "timm": timm_trials,
  "transformers": transformers_trials,
}


def main() -> None:
  """Reads the command line, tries the networks, writes Markdown and JSON."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--all", action="store_true", help="every network, not one per family")
  parser.add_argument("--only", choices=LIBRARIES, help="one library")
  parser.add_argument("--match", default="", help="regular expression on library/family/network")
  parser.add_argument("--seconds", type=int, default=120, help="longest time for one network")
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/coverage.md"))
  given = parser.parse_args()
  warnings.filterwarnings("ignore")
  rows = []
  for library, trials in LIBRARIES.items():
    if given.only in (None, library):
      for trial in trials(given.all):
        if re.search(given.match, f"{trial.library}/{trial.family}/{trial.network}"):
          rows.append(tried(trial, given.seconds))
          row = rows[-1]
          print(f"{row.library}/{row.family}/{row.network}: {row.outcome} {row.detail}", flush=True)
  given.output.parent.mkdir(parents=True, exist_ok=True)
  given.output.write_text(f"{summary(rows)}\n{details(rows)}", encoding="utf-8")
  listed = [dataclasses.asdict(row) for row in rows]
  given.output.with_suffix(".json").write_text(json.dumps(listed, indent=1) + "\n")
  print(summary(rows))


if __name__ == "__main__":
  main()
