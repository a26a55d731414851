"""Bad input to every command: two lines, cause and fix, exit code 2, before anything starts."""

import argparse
import importlib
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, cli
from bcos_jax.cli.command import Parser, number, whole
from bcos_jax.errors import InputError
from bcos_jax.io import files
from bcos_jax.train import pod

WORK = (
  "bcos_jax.train.loop.set_up",
  "bcos_jax.train.pod.compile_recipe",
  "bcos_jax.train.evaluation.evaluate.evaluate",
  "bcos_jax.train.probes.features.extract",
  "bcos_jax.app.server.warm_up",
  "bcos_jax.save",
  "bcos_jax.convert.targets.write",
)
COMMANDS = {
  "quickstart": ("--short", "--workdir=w"),
  "models": ("resnet18",),
  "convert": ("plain", "new", "--to=timm"),
  "bcosify": ("plain", "new"),
  "prepare": ("imagenet2012", "--archives=folder"),
  "train": ("--config=digits:scratch", "--workdir=w"),
  "compile": ("--config=digits:scratch", "--topology=v5e:4x4"),
  "evaluate": ("net", "--dataset=digits"),
  "probe": ("net", "--dataset=digits"),
  "explain": ("net", "picture.png"),
  "study": ("options", "--short", "--workdir=w"),
  "app": ("net", "--port=0"),
  "completion": ("bash",),
}
NUMBERS = ("-1", "0", "nan", "inf", "1e20", "99999999999999999999999", "x", "")
PATHS = ("missing", "missing/deep", "folder", "file", "file/below", "a" * 300, "a\nb", "a\0b", "")


class StartedError(BaseException):
  """Raised where the work would begin; no command catches it."""


def options(kind):
  """Returns each command with an option that is read as a number or a path."""
  found = []
  for name, parser in cli.commands(cli.command_parser()).items():
    for action in parser._actions:
      given = action.option_strings and action.nargs != 0 and not action.choices
      numeric = getattr(action.type, "__qualname__", "").split(".")[0] in ("whole", "number")
      path = getattr(action.type, "__name__", "") == "path"
      if given and {"number": numeric, "path": path}[kind]:
        found.append((name, action.option_strings[0]))
  return found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  for name, ops in (("net", BcosOps()), ("plain", StandardOps())):
    model = bcos_jax.create("resnet_tiny", ops=ops, image_size=16)
    spec = model.input_spec
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros(spec.shape, spec.dtype))
    bcos_jax.save(folder / name, model, variables)
  (folder / "folder").mkdir()
  (folder / "folder" / "inside").write_text("text", encoding="utf-8")
  (folder / "file").write_text("text", encoding="utf-8")
  from PIL import Image

  Image.new("RGB", (16, 16)).save(folder / "picture.png")
  return folder


@pytest.fixture
def attempt(home, tmp_path, monkeypatch, capsys):
  """Runs a command up to where its work would begin; asserts that it starts, or is refused."""
  shutil.copytree(home, tmp_path / "home")
  monkeypatch.chdir(tmp_path / "home")
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)

  def start(*arguments, **fields):
    raise StartedError

  def later(*arguments, **fields):
    raise StartedError
    yield

  monkeypatch.setattr(bcos_jax.network.Network, "explanations", later)
  for name in WORK:
    module, _, attribute = name.rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), attribute, start)

  def run(*arguments):
    try:
      code = cli.main(list(arguments))
    except StartedError:
      return True
    said = capsys.readouterr().err.strip().splitlines()
    if code == 0:
      return True
    assert code == 2, (arguments, code, said)
    assert len(said) == 2 and said[0].startswith("error: "), (arguments, said)
    assert said[1].startswith("  fix: "), (arguments, said)
    return False

  return run


def test_every_command_is_tried(attempt):
  assert cli.commands(cli.command_parser()).keys() == COMMANDS.keys()
  started = {name for name, arguments in COMMANDS.items() if attempt(name, *arguments)}
  assert started >= COMMANDS.keys() - {"prepare", "app"}  # no archives; perhaps no extra


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_out_of_range(command, attempt):
  for _, option in (one for one in options("number") if one[0] == command):
    for value in NUMBERS:
      started = attempt(command, *COMMANDS[command], f"{option}={value}")
      assert not started or value == "0" or option == "--power", (option, value)


@pytest.mark.parametrize("command", COMMANDS)
def test_paths_that_cannot_be(command, attempt):
  for _, option in (one for one in options("path") if one[0] == command):
    for value in PATHS:
      started = attempt(command, *COMMANDS[command], f"{option}={value}")
      assert not started or value[:5] in ("missi", "folde", "file"), (option, value)


@pytest.mark.parametrize("value", PATHS)
def test_places_that_cannot_be(value, attempt, home):
  """Positional paths: what is read must be there, what is written must be possible."""
  for arguments in (
    ("evaluate", value, "--dataset=digits"),
    ("explain", value, "picture.png"),
    ("bcosify", value, "new"),
    ("convert", value, "new"),
    ("probe", value, "--dataset=digits"),
    ("app", value, "--port=0"),
  ):
    assert not attempt(*arguments)
  if value != "file":  # which is a file, and found to be no picture when it is read
    assert not attempt("explain", "net", value)
  possible = value in ("missing", "missing/deep")
  for arguments in (
    ("bcosify", "plain", value),
    ("convert", "plain", value, "--to=timm"),
    ("convert", "plain", value, "--to=orbax"),
    ("train", "--config=digits:scratch", f"--workdir={value}"),
  ):
    started = attempt(*arguments)
    assert started == possible or (value == "folder" and arguments[0] == "train"), arguments


@pytest.mark.parametrize(
  "value", ["v5e:0x0", "v5e:4x0", "v5e", "v5e:", "v5e:-1x4", "v5e:4x4x4", "v4:2x2", "v5e:999x1"]
)
def test_topologies_of_no_slice(value, attempt, monkeypatch):
  """libtpu ends the process by a signal for some of these."""
  assert not attempt("compile", "--config=digits", f"--topology={value}")
  with pytest.raises(InputError, match=r"expected [23] sides|Unknown"):
    pod.devices(value)


RECIPES = {
  "raises": (
    "def get_config():\n  raise ValueError('boo')\n",
    "raises.py, line 2: ValueError: boo",
  ),
  "syntax": ("x = 1\ndef get_config(:\n", "syntax.py, line 2: SyntaxError: invalid syntax"),
  "none": ("x = 1\n", "'none.py' has no function get_config"),
  "number": ("def get_config():\n  return 3\n", "number.py, line 1 returns int"),
  "leaves": ("import sys\nsys.exit(0)\n", "leaves.py, line 2: SystemExit: 0"),
  "inside": ("def get_config():\n  exit()\n", "inside.py, line 2: SystemExit"),
  "imports": ("import nothing_there\n", "imports.py, line 1: ModuleNotFoundError"),
  "variants": ("VARIANTS = 3\ndef get_config():\n  return {}\n", "VARIANTS of"),
  "assertion": ("\n\nassert False\n", "assertion.py, line 3: AssertionError"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_files_that_are_none(name, tmp_path, monkeypatch, capsys):
  text, said = RECIPES[name]
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  pathlib.Path(f"{name}.py").write_text(text, encoding="utf-8")
  for command in (["train", "--workdir=w"], ["compile", "--topology=v5e:4x4"]):
    assert cli.main([*command, f"--config={name}.py"]) == 2
    cause, fix = capsys.readouterr().err.splitlines()
    assert said in cause and fix.startswith("  fix: ")
  assert not pathlib.Path("w").exists()


def test_numbers_of_options():
  assert whole(1, 5)("5") == 5 and number(above=0)("1e3") == 1000
  for read, text, bound in (
    (whole(1, 5), "6", "from 1 to 5"),
    (whole(), "1.5", "a whole number"),
    (number(0, 1), "-0.1", "at least 0 and at most 1"),
    (number(above=0), "0", "above 0"),
    (number(), "inf", "a finite number"),
  ):
    with pytest.raises(argparse.ArgumentTypeError, match=bound):
      read(text)
  with pytest.raises(
    InputError, match=r"^--b=7, expected a whole number from 0 to 5\. See x --help"
  ):
    parser = Parser("x")
    parser.add_argument("--b", type=whole(0, 5))
    parser.parse_args(["--b=7"])


def test_names_of_files(tmp_path, monkeypatch):
  files.check_name("a" * 255)
  files.check_new(tmp_path / "new" / "deep")
  (tmp_path / "file").touch()
  for check, word in (
    (lambda: files.check_name("b/" + "é" * 128 + "/c"), "256 bytes, expected at most 255"),
    (lambda: files.check_new("a" * 250), "expected at most 215"),
    (lambda: files.check_name("a\tb"), "control character"),
    (lambda: files.check_new(tmp_path / "file" / "below" / "it"), "is a file, expected a folder"),
  ):
    with pytest.raises(InputError, match=word):
      check()
  monkeypatch.setattr(os, "access", lambda *arguments: False)
  with pytest.raises(InputError, match="is read-only"):
    files.check_new(tmp_path / "new")
