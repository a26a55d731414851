"""Commands of the pages, parsed by what would run them, for those that are not run."""

from __future__ import annotations

from collections.abc import Callable
import importlib.util
import pathlib
import re
import tomllib

from bcos_jax import cli, export, models, studies
from bcos_jax.convert import targets
from bcos_jax.export import web_page
from bcos_jax.train import config, start
from bcos_jax.train.estimates import check_topology
from bcos_jax.train.evaluation import image_metrics, text_metrics

from ..common import ROOT
from .pages import Command

EXAMPLES = {"plain", "plain_wide"}  # the architectures that docs/architectures.md adds


def check(command: Command) -> None:
  """Fails if a command is none: an unknown program, option, recipe, target, extra or script."""
  words = command.words
  known = _CHECKS.get(words[0])
  assert known, f"{command.text}: neither run nor parsed"
  known(words[1:])


def _bcos_jax(words: list[str]) -> None:
  if len(words) == 1 and words != ["quickstart"]:  # a command is named, not given
    assert words[0] in cli.commands(cli.command_parser()), words
    return
  options, rest = cli.command_parser().parse_known_args(words)
  assert options.takes_overrides or not rest, rest
  given = vars(options)
  if given.get("architecture"):
    assert given["architecture"] in {*models.names(), *EXAMPLES}
  layouts = set(targets.names()) - {targets.BUNDLE, targets.ORBAX}
  assert given.get("layout") in {None, *layouts}
  kinds = export.KINDS if options.command == "export" else targets.names()
  assert given.get("to") in {None, *kinds}
  _CONTENT.get(options.command, lambda *_: None)(options, rest)


def _recipe(options, overrides: list[str]) -> None:
  """Builds the recipe, with its durations, and its network unless a bundle names it."""
  recipe = config.load_config(options.config, overrides)
  assert config.as_steps(recipe.steps or "1 epoch", 1000) > 0
  if recipe.model.name:
    start.network(recipe, weights=False)
  if options.command == "compile":
    check_topology(options.topology)


def _metrics(options, _) -> None:
  assert set(options.metrics.split(",")) <= {*image_metrics.NAMES, *text_metrics.NAMES}


def _study(options, _) -> None:
  assert options.study in studies.STUDIES


_CONTENT: dict[str, Callable[..., None]] = {
  "train": _recipe,
  "compile": _recipe,
  "evaluate": _metrics,
  "study": _study,
}


def _python(words: list[str]) -> None:
  """A script or module of this package, whose options its text names."""
  if words[0] == "-m":
    found = importlib.util.find_spec(words[1])
    assert found and found.origin, words
    script, rest = pathlib.Path(found.origin), words[2:]
  else:
    script, rest = ROOT / words[0], words[1:]
  text = script.read_text(encoding="utf-8")
  for word in rest:
    if word.startswith("--"):
      assert f'"{word.partition("=")[0]}"' in text, (words, word)


def _make(words: list[str]) -> None:
  targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
  assert set(words) <= set(targets), words


def _pip(words: list[str]) -> None:
  """`pip install` of packages, or of extras that this one has."""
  assert words[0] == "install", words
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  for word in words[1:]:
    extras = re.fullmatch(r"(?:\.|bcos_jax)\[([\w,]+)\]", word)
    assert extras or re.fullmatch(r"-e|[a-z][\w-]*", word), words
    if extras:
      assert set(extras[1].split(",")) <= set(project["optional-dependencies"]), words


def _git(words: list[str]) -> None:
  assert words[0] in ("clone", "config"), words


def _npm(words: list[str]) -> None:
  """`npm pack` of the one package that pages run."""
  assert words == ["pack", f"{web_page.RUNTIME}@{web_page.VERSION}"], words


def _eval(words: list[str]) -> None:
  """`eval "$(bcos-jax completion bash)"`."""
  inner = re.fullmatch(r"\$\((.*)\)", words[0])
  assert inner, words
  check(Command(inner[1]))


_CHECKS: dict[str, Callable[[list[str]], None]] = {
  "bcos-jax": _bcos_jax,
  "python": _python,
  "make": _make,
  "pip": _pip,
  "git": _git,
  "eval": _eval,
  "npm": _npm,
}
