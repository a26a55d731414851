"""Model cards: what is known of a network, and nothing else, as the README.md of a repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from ..io import bundles, hub
from ..render import kinds
from ..variables import num_parameters
from .showing import Shown

DATA_SETS = {"imagenet2012": "imagenet-1k", "imdb_reviews": "imdb"}
"""TFDS names -> the same data on the hub; others are named in the text only."""
_TASKS = {
  "images": {"classes": "image-classification", "features": "image-feature-extraction"},
  "text": {
    "classes": "text-classification",
    "features": "feature-extraction",
    "masked_tokens": "fill-mask",
    "next_tokens": "text-generation",
  },
}
_SHARES = ("accuracy",)  # measures that are written in percent
_COUNTERS = ("step", "count")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stated:
  """What a bundle does not say of a network, and its owner does.

  Attributes:
    license: As the hub names it, such as apache-2.0.
    base_model: Hub id of the network that it was made from.
    datasets: Hub ids of what it was trained on.
  """

  license: str = ""
  base_model: str = ""
  datasets: tuple[str, ...] = ()


def write(network: bundles.Bundle, name: str, shown: Shown | None, stated: Stated) -> str:
  """Returns the card of a network, as Markdown with a header in YAML.

  Args:
    network: The network.
    name: What opens it: a hub id or a folder.
    shown: Its explanations of pictures or texts, if there are any.
    stated: What its bundle does not say.
  """
  title = pathlib.PurePath(name.partition("@")[0]).name
  parts = [
    _header(network, stated),
    f"# {title}",
    _summary(network, shown),
    "## Use",
    _use(network, name),
    "## Network",
    _table(_facts(network)),
  ]
  if rows := list(_origin(network.config["provenance"])):
    parts += ["## Origin", _table(rows)]
  measures = [*_measures(network.config["provenance"])]
  if shown and not network.model.ops.conventional:  # what is post hoc adds up to nothing of its own
    measures.append(_completeness(shown))
  if measures:
    parts += ["## Measured", _table(measures)]
  if shown:
    parts += ["## Explanations", shown.markdown]
  return "\n\n".join(parts) + "\n"


def _header(network: bundles.Bundle, stated: Stated) -> str:
  model, about = network.model, network.config["provenance"]
  source = about.get("source_config") or {}
  data = DATA_SETS.get(str(about.get("dataset")))
  fields = {
    "library_name": "bcos_jax",
    "license": stated.license or (source.get("pretrained_cfg") or source).get("license"),
    "pipeline_tag": _TASKS[model.reads].get(model.predicts),
    "base_model": stated.base_model or _base_model(about),
    "datasets": list(stated.datasets) or ([data] if data else []),
    "metrics": [name for name in _SHARES if name in _measured(about)],
    "tags": [
      *(["jax", "flax"] if model.ops.conventional else ["jax", "flax", "b-cos", "explainability"]),
      network.config["architecture"],
    ],
  }
  # JSON is YAML, and quotes what YAML would take for something else.
  lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items() if value]
  return "\n".join(("---", *lines, "---"))


def _base_model(about: Mapping[str, Any]) -> str:
  """Returns the repository of the hub that a network was read from, or its first ancestor was."""
  if repository := about.get("repository"):
    return hub.parted(repository)[0]
  return next((found for _, older in _ancestors(about) if (found := _base_model(older))), "")


def _ancestors(about: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Yields what a network was made from: how, and the origin of that."""
  for how, older in (
    ("B-cosified", about.get("bcosified", {}).get("from")),
    ("trained", about.get("init")),
    ("probed", about.get("network")),
  ):
    if isinstance(older, Mapping):
      yield how, older


def _summary(network: bundles.Bundle, shown: Shown | None) -> str:
  model, about = network.model, network.config
  what = f"`{about['architecture']}` with {num_parameters(model):,} parameters"
  if model.ops.conventional:
    said = f"A conventional network, {what}."
    kind = shown.kind if shown else kinds.POST_HOC
  elif (origin := kinds.origin_of(about)) is kinds.Origin.CLOSED_FORM:
    said = (
      f"A B-cos network, {what}: every output is one linear map W(x) of its input. Its maps were "
      "fitted to those of a conventional network, without labels; it was not trained since."
    )
    kind = shown.kind if shown else kinds.kind([], origin)
  elif origin is kinds.Origin.COPIED:
    said = (
      f"A B-cos network, {what}, that starts from the weights of a conventional one and was not "
      "trained since: it is to be fine-tuned, and not to be used as it is."
    )
    kind = shown.kind if shown else kinds.kind([], origin)
  else:
    said = f"A B-cos network, {what}: every output is one linear map W(x) of its input."
    kind = shown.kind if shown else kinds.EXACT
  return f"{said}\n\nIts explanations: **{kind}**."


def _use(network: bundles.Bundle, name: str) -> str:
  download = hub.is_meant(name)
  flag, argument = (" --download", ", download=True") if download else ("", "")
  module = network.config.get("module")
  if module:
    flag += f" --import={module}"
  reads, classes = network.model.reads, network.model.predicts != "features"
  picture = reads == "images"
  asked = "photo.jpg" if picture else '--text "so funny"'
  command = f"bcos-jax explain {name} {asked}{flag}"
  if not classes:
    command = f"bcos-jax probe {name} --dataset=photos{flag}" if picture else ""
  given = "photo.jpg" if picture else "so funny"
  lines = ["import bcos_jax", *([f"import {module}"] if module else []), ""]
  lines += [f'net = bcos_jax.load("{name}"{argument})']
  if classes:
    lines += [f'net.explain("{given}").show()', f'net.predict("{given}", top=5)']
  shell = f"```bash\n{command}\n```\n\n" if command else ""
  return shell + "```python\n" + "\n".join(lines) + "\n```"


_LONGEST = 120


def _facts(network: bundles.Bundle) -> Iterator[tuple[str, str]]:
  model, config, reading = network.model, network.config, network.preprocess
  # A program is a text of many lines.
  values = {name: str(value) for name, value in config["fields"].items()}
  fields = ", ".join(f"{k}={v if len(v) <= _LONGEST else '...'}" for k, v in values.items())
  yield "architecture", f"`{config['architecture']}`" + (f" with `{fields}`" if fields else "")
  yield "parameters", f"{num_parameters(model):,}"
  if reading is not None:
    height, width = reading.size
    colors = "grey" if reading.colors == 1 else "RGB"
    scaled = reading.resize if isinstance(reading.resize, int) else max(reading.resize)
    how = f", cut out of a picture of {scaled}" if scaled else ""
    yield "input", f"{width} x {height} pixels, {colors}{how}, {reading.interpolation}"
    yield "encoding", config["ops"]["encoding"]["pairing"]
  if count := getattr(model, "num_classes", 0):
    shown = ", ".join(network.labels[:8]) + (", ..." if count > 8 else "")
    yield "classes", f"{count}: {shown}" if network.labels else str(count)
  changed = {
    field.name: value
    for field in dataclasses.fields(model.ops)
    if field.name not in ("encoding", "detach")
    and (value := getattr(model.ops, field.name)) != getattr(type(model.ops)(), field.name)
  }
  yield (
    "layers",
    f"`{config['ops']['family']}`"
    + "".join(f", {name} `{value}`" for name, value in changed.items()),
  )


def _origin(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """Yields what is known of where a network came from, the last step first."""
  known = {
    "made by": about.get("made by"),
    "source": about.get("repository") or about.get("origin"),
    "layout of the source": about.get("source") if about.get("origin") else None,
    "head": "new, its weights drawn at random" if about.get("new_head") else None,
    "recipe": _recipe(about),
    "data": about.get("dataset") or _folder(about),
    "probe": _probe(about),
    "calibrated": _calibrated(about),
  }
  for name, value in known.items():
    if value:
      yield name, value if name in ("head", "probe", "calibrated", "data") else f"`{value}`"
  for how, older in _ancestors(about):
    yield how, "from the network below"
    yield from _origin(older)


def _calibrated(about: Mapping[str, Any]) -> str:
  how = about.get("calibrated")
  return f"in closed form, from {how['count']:,} {how['inputs']} without labels" if how else ""


def _recipe(about: Mapping[str, Any]) -> str:
  if not about.get("recipe"):
    return ""
  words = [f"--config={about['recipe']}", *map(str, about.get("overrides", ()))]
  return "bcos-jax train " + " ".join(words)


def _folder(about: Mapping[str, Any]) -> str:
  folder = (about.get("data") or {}).get("folder")
  return f"the folder {pathlib.PurePath(str(folder)).name!r}" if folder else ""


def _probe(about: Mapping[str, Any]) -> str:
  probe = about.get("probe")
  return f"{probe['head']}, trained on {probe['train']}" if probe else ""


def _measured(about: Mapping[str, Any]) -> dict[str, float]:
  """Returns what was measured of this very network, by name."""
  found = dict(about.get("metrics") or {})
  if probe := about.get("probe"):
    found["accuracy"] = probe["accuracy"]
  return {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _measures(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  found = _measured(about)
  of = f", of {found['count']:.0f} held-out examples" if "count" in found else ""
  if probe := about.get("probe"):
    of = f", on {probe['test']}"
  for name, value in found.items():
    if name not in _COUNTERS:
      said = f"{value:.1%}" if name in _SHARES else f"{value:.4g}"
      yield f"{name.replace('_', ' ')}{of}", said


def _completeness(shown: Shown) -> tuple[str, str]:
  error = f"{shown.error:.0e} of what is added up" if shown.error else "0"
  return f"largest completeness error, of {shown.count} explanations", error


def _table(rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> str:
  cells = [(name, value.replace("|", "\\|").replace("\n", " ")) for name, value in rows]
  return "\n".join(("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)))
