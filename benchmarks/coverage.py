"""Which networks of torchvision, timm and transformers convert, tried one by one.

    python benchmarks/coverage.py --output=coverage.md
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
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import sys
import tempfile
import time
import types
from typing import Any
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import numpy as np
import torch

from bcos_jax import models
from bcos_jax.convert import original, readers, verify
from bcos_jax.convert.plan import plan
from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import write_safetensors

VERIFIED, CONVERTED, WRONG, REFUSED, NOT_MADE = (
  "verified",
  "converted",
  "differs",
  "refused",
  "not made",
)
CLASSES = 5
_SMALL = ("test", "nano", "atto", "femto", "pico", "xxs", "tiny", "_s0", "10t", "18", "xs", "small")
_LARGEST_GUESS = 4  # networks of a family whose parameters are counted


@dataclasses.dataclass(frozen=True)
class Row:
  """What became of one network."""

  library: str
  family: str
  network: str
  outcome: str
  detail: str
  seconds: float


@dataclasses.dataclass(frozen=True)
class Trial:
  """A network to try: `make` writes it into a folder and returns (source, architecture, it)."""

  library: str
  family: str
  network: str
  make: Callable[[pathlib.Path], tuple[pathlib.Path, str | None, Any]]


class NotMade(Exception):
  """The library cannot make the network here."""


def torchvision() -> types.ModuleType:
  """Returns torchvision, also where its compiled operators do not fit the installed PyTorch."""
  try:
    import torchvision
  except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
      raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
      del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    _KEPT.append(library)
    for operator in ("nms", "qnms"):
      library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
  return torchvision


_KEPT: list[Any] = []  # a library is gone with its object


def torchvision_trials(every: bool) -> Iterator[Trial]:
  """Yields classifiers of torchvision."""
  registry = torchvision().models
  families: dict[str, list[str]] = {}
  for name in registry.list_models(module=registry):
    module = registry.get_model_builder(name).__module__.rpartition(".")[2]
    families.setdefault(module, []).append(name)

  def create(name: str) -> Any:
    extra = {"init_weights": False} if "inception" in name or "googlenet" in name else {}
    return registry.get_model(name, num_classes=CLASSES, **extra)

  def maker(name: str):
    def make(folder: pathlib.Path):
      network = stirred(create(name))
      torch.save(network.state_dict(), folder / "network.pth")
      return folder / "network.pth", name if name in models.names() else None, network

    return make

  for family, names in sorted(families.items()):
    for name in names if every else [smallest(names, create)]:
      yield Trial("torchvision", family, name, maker(name))


def timm_trials(every: bool) -> Iterator[Trial]:
  """Yields networks of timm, as folders that its `save_for_hf` writes."""
  torchvision()
  import timm
  from timm.models import _hub, _registry

  families: dict[str, list[str]] = {}
  for name in timm.list_models():
    families.setdefault(_registry._model_to_module[name], []).append(name)

  def create(name: str) -> Any:
    return timm.create_model(name, num_classes=CLASSES)

  def maker(name: str):
    def make(folder: pathlib.Path):
      if name not in models.names():
        with torch.device("meta"):
          _hub.save_config_for_hf(create(name), folder / "config.json")
        return _with_one_tensor(folder), None, None
      network = stirred(create(name))
      arguments = {"num_classes": CLASSES}
      _hub.save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
      return folder, None, network

    return make

  for family, names in sorted(families.items()):
    for name in names if every else [smallest(names, create)]:
      yield Trial("timm", family, name, maker(name))


_REDUCED = {
  "hidden_size": 32,
  "dim": 32,
  "d_model": 32,
  "num_hidden_layers": 2,
  "n_layers": 2,
  "num_attention_heads": 2,
  "num_key_value_heads": 2,
  "n_heads": 2,
  "intermediate_size": 64,
  "hidden_dim": 64,
  "vocab_size": 64,
  "max_position_embeddings": 64,
  "n_embd": 32,
  "n_layer": 2,
  "n_head": 2,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
}


def _reduced(kind: str) -> Any:
  """Returns a small configuration, with the relative positions of all fine-tuned BEiTs."""
  from transformers import AutoConfig

  default = AutoConfig.for_model(kind).to_dict()
  given = {key: value for key, value in _REDUCED.items() if isinstance(default.get(key), int)}
  given |= {"use_relative_position_bias": True} if "use_relative_position_bias" in default else {}
  for part in ("vision_config", "text_config"):
    if isinstance(default.get(part), dict):
      own = default[part]
      given[part] = {k: v for k, v in _REDUCED.items() if isinstance(own.get(k), int)}
  return AutoConfig.for_model(kind, **given, num_labels=CLASSES)


def transformers_trials(every: bool) -> Iterator[Trial]:
  """Yields image and text classifiers of transformers, at reduced sizes."""
  torchvision()
  import transformers
  from transformers.models.auto import modeling_auto

  known = readers.config_readers()

  def maker(kind: str, class_name: str):
    def make(folder: pathlib.Path):
      config = transformers.AutoConfig.for_model(kind)
      config.num_labels = CLASSES
      if kind not in known:
        config.architectures = [class_name]
        config.save_pretrained(folder)
        return _with_one_tensor(folder), None, None
      network = stirred(getattr(transformers, class_name)(_reduced(kind)))
      network.save_pretrained(folder)
      return folder, None, None

    return make

  for library, mapping in (
    ("transformers, images", modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
    ("transformers, texts", modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
  ):
    for kind, names in mapping.items():
      listed = [names] if isinstance(names, str) else list(names)
      for name in listed if every else listed[:1]:
        yield Trial(library, kind, name, maker(kind, name))


def _with_one_tensor(folder: pathlib.Path) -> pathlib.Path:
  write_safetensors(folder / "model.safetensors", {"weight": np.zeros(1, np.float32)})
  return folder


def smallest(names: list[str], create: Callable[[str], Any]) -> str:
  """Returns the network with the fewest parameters among those that sound smallest."""

  def sound(name: str) -> tuple[int, int, str]:
    ranks = [i for i, word in enumerate(_SMALL) if word in name]
    sizes = [int(n) for n in re.findall(r"\d+", name)]
    return (min(ranks, default=len(_SMALL)), sum(sizes), name)

  def parameters(name: str) -> float:
    with contextlib.suppress(Exception), torch.device("meta"):
      return sum(tensor.numel() for tensor in create(name).parameters())
    return float("inf")

  known = [name for name in names if name in models.names()]
  guessed = sorted(known or names, key=sound)[: _LARGEST_GUESS if known else 1]
  return min(guessed, key=parameters) if len(guessed) > 1 else guessed[0]


def stirred(network: torch.nn.Module) -> torch.nn.Module:
  """Moves norms, scales and tables off their trivial initial values; evaluation mode."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, tensor in network.state_dict().items():
      if tensor.is_floating_point():
        noise = torch.randn(tensor.shape, generator=generator)
        if key.endswith("running_var"):
          tensor.copy_(1 + 0.5 * noise.abs())
        else:
          tensor.add_(0.1 * noise if tensor.ndim == 1 else 0.02 * noise)
  return network.eval()


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
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("coverage.md"))
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
  given.output.write_text(f"{summary(rows)}\n{details(rows)}", encoding="utf-8")
  listed = [dataclasses.asdict(row) for row in rows]
  given.output.with_suffix(".json").write_text(json.dumps(listed, indent=1) + "\n")
  print(summary(rows))


if __name__ == "__main__":
  main()
