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
from bcos_jax.train.data import shapes
from bcos_jax.train.estimates import pod

from ..common import filled

WORK = (
  "bcos_jax.train.loop.set_up",
  "bcos_jax.train.estimates.pod.compile_recipe",
  "bcos_jax.train.evaluation.evaluate.evaluate",
  "bcos_jax.train.probes.features.extract",
  "bcos_jax.train.evaluation.suite.read",
  "bcos_jax.app.server.warm_up",
  "bcos_jax.save",
  "bcos_jax.convert.targets.write",
  "bcos_jax.network.sharing._write",
  "bcos_jax.export.saving.program_of",
  "bcos_jax.program.trace",
)
COMMANDS = {
  "quickstart": ("--short", "--workdir=w"),
  "models": ("resnet18",),
  "convert": ("plain", "new", "--to=timm"),
  "bcosify": ("plain", "new"),
  "push": ("net", "me/net", "--save=new"),
  "export": ("net", "new"),
  "prepare": ("imagenet2012", "--archives=folder"),
  "train": ("--config=digits:scratch", "--workdir=w"),
  "compile": ("--config=digits:scratch", "--topology=v5e:4x4"),
  "evaluate": ("net", "--dataset=digits"),
  "probe": ("net", "--dataset=digits"),
  "benchmark": ("net", "--dataset=digits"),
  "explain": ("net", "picture.png"),
  "check": ("net",),
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


@pytest.mark.parametrize(
  ("field", "said"),
  [
    ("steps=1e20", "at most 2147483647"),
    ("steps=nan", "expected a whole number"),
    ("seed=-1", "at least 0"),
    ("seed=1e20", "at most 4294967295"),
    ("data.workers=-1", "at least 0"),
    ("data.batch_size=1e9", "1,000,000,000 training pictures of 24 x 24 pixels needs at least 6,4"),
    ("data.eval_batch_size=1e9", "evaluation pictures of 24 x 24 pixels needs at least"),
    ("data.image_size=1e6", "1,000,000 x 1,000,000 pixels needs at least 715,255.7 GiB"),
    ("data.train_size=1000000", "1,000,000 x 1,000,000 pixels needs at least"),
    ("data.train_sizes=(24,1000000)", "1,000,000 x 1,000,000 pixels needs at least"),
    ("model.image_size=1000000", "1,000,000 x 1,000,000 pixels needs at least"),
    (
      "model.width=1000000",
      "a network with 894,000,258,000,004 numbers needs at least",
    ),
    ("layout=(('(','data'),)", "is not a regular expression"),
    ("layout=(('',3),)", "layout has 3"),
    ("optimizer.decay_rules=(('(',0.1),)", "is not a regular expression"),
    ("optimizer.lr=nan", "a finite number"),
    ("optimizer.lr=1e400", "a finite number"),
    ("ops.detach=true", "explanation mode"),
    ("ops.b=nan", "B is nan"),
    ("ops.learn_b=3", "learn_b is 3"),
    ("init=" + "a" * 300, "300 bytes"),
    ("data.folder=a\nb", "control character"),
  ],
)
def test_values_of_recipes(field, said, tmp_path, monkeypatch, capsys):
  """Refused before memory is taken: what is too large says its size."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setattr("bcos_jax.train.loop.begin_state", None)  # nothing is made
  monkeypatch.setattr("bcos_jax.batches.memory", lambda: 16 * 2**30)
  assert cli.main(["train", "--config=digits:scratch", "--workdir=w", f"--config.{field}"]) == 2
  cause, fix = capsys.readouterr().err.splitlines()
  assert said in cause and fix.startswith("  fix: ")


def test_batches_that_no_memory_holds(home, monkeypatch, capsys):
  """Those of a pass are no larger than the data; what is left says its size."""
  monkeypatch.chdir(home)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  shapes.write("shapes", count=4, side=16)
  classes = 4
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), image_size=16, num_classes=classes)
  bcos_jax.save("four", model, filled(model))
  many = "--batch_size=999999999"
  assert cli.main(["evaluate", "four", "--dataset=shapes", many, "--output=measured"]) == 0
  assert cli.main(["explain", "four", "shapes", many, "--output=explained"]) == 0
  rest = ["--epochs=1", "--knn=2", "--rates=0.01", "--held_out=0.5"]
  assert cli.main(["probe", "four", "--dataset=shapes", many, *rest]) == 0
  capsys.readouterr()
  monkeypatch.setattr("bcos_jax.batches.memory", lambda: 2**12)
  for arguments in (
    ["evaluate", "four", "--dataset=shapes"],
    ["probe", "four", "--dataset=shapes", *rest],
    ["explain", "four", "shapes", "--output=refused"],
  ):
    assert cli.main([*arguments, many]) == 2
    assert "pictures of 16 x 16 pixels needs at least" in capsys.readouterr().err
  monkeypatch.setattr("bcos_jax.batches.memory", lambda: 2**24)
  given = ["--head=bcos_mlp", "--hidden=1000000", *rest]
  assert cli.main(["probe", "four", "--dataset=shapes", *given]) == 2
  assert "of a head with 20,000,000 numbers needs at least" in capsys.readouterr().err


@pytest.mark.parametrize(
  "recipe, said",
  [
    ("digits:scratch", "1,000,000,000 training pictures of 24 x 24 pixels"),
    ("pretrain_lm:runlocal", "1,000,000,000 training texts of up to 128 tokens"),
  ],
)
def test_batches_that_no_slice_holds(recipe, said, tmp_path, monkeypatch, capsys):
  """Before libtpu is asked; training on this machine refuses them as well."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setattr(pod, "devices", None)
  for command, memory in (
    (["compile", "--topology=v5e:2x4"], "there are 128.0 GiB"),
    (["train", "--workdir=w"], "there are"),
  ):
    given = [f"--config={recipe}", "--config.data.batch_size=1000000000"]
    assert cli.main([*command, *given]) == 2
    cause, _ = [line for line in capsys.readouterr().err.splitlines() if line[:2] in ("er", "  ")]
    assert said in cause and memory in cause


def test_no_output_overwrites_an_input(home, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  for name in ("net", "plain"):
    shutil.copytree(home / name, name)
  shapes.write("shapes", count=4, side=16)
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), image_size=16, num_classes=4)
  bcos_jax.save("four", model, filled(model))
  table = "file,label\n" + "".join(
    f"{file.relative_to('shapes')},{file.parent.name}\n"
    for file in sorted(pathlib.Path("shapes").rglob("*.png"))
  )
  for name in ("explanations.csv", "predictions.csv", "rates.csv"):
    pathlib.Path("shapes", name).write_text(table, encoding="utf-8")
  tables = ("explanations.csv", "predictions.csv", "rates.csv")
  inputs = [*pathlib.Path().rglob("*.png"), *(pathlib.Path("shapes") / name for name in tables)]
  inputs += [pathlib.Path(net) / "config.json" for net in ("net", "plain", "four")]
  before = {path: path.read_bytes() for path in inputs}
  measure = ("evaluate", "four", "--dataset=shapes")
  probe = ("probe", "four", "--dataset=shapes", "--knn=1", "--select=test")
  new = ("train", "--config=digits:scratch")
  tune = ("train", "--config=finetune:runlocal", "--config.init=four")
  for said, *arguments in (
    ("overwrite the input", "explain", "net", "shapes/explanations.csv", "--output=shapes"),
    ("is a bundle", "explain", "net", "shapes", "--output=net"),
    ("is a bundle", "explain", "net", "shapes", "--output=net/examples"),
    ("ends in .html", *measure, "--report=four/config.json"),
    ("ends in .html", *measure, f"--report={inputs[0]}"),
    ("is a folder", *measure, "--report=shapes"),
    ("is a bundle", *measure, "--output=four"),
    ("overwrite the input", *measure, "--labels=shapes/predictions.csv", "--output=shapes"),
    ("is a bundle", *probe, "--results=net"),
    ("overwrite the input", *probe, "--labels=shapes/rates.csv", "--results=shapes"),
    ("not a bundle", *probe, "--output=shapes"),
    ("is the source", "bcosify", "plain", "plain"),
    ("is a bundle", *new, "--workdir=net"),
    ("starts from", *new, "--workdir=.", "--config.init=bundle"),
    ("of the pictures", *tune, "--config.data.folder=shapes", "--workdir=shapes/"),
  ):
    if "--config.init=bundle" in arguments:
      shutil.copytree("four", "bundle")
    assert cli.main(arguments) == 2, arguments
    assert said in capsys.readouterr().err, arguments
  assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
  "name, option", [("resnet_tiny", "b_per_layer=(1.5,2.0)"), ("vitc_tiny", "pool=max")]
)
def test_options_of_the_family_that_do_nothing(name, option, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  model = bcos_jax.create(name, ops=StandardOps())
  bcos_jax.save("plain", model, filled(model))
  assert cli.main(["bcosify", "plain", "new", "--ops", option]) == 2
  assert "does nothing: a" in capsys.readouterr().err and not pathlib.Path("new").exists()
  given = ["--config.model.name=" + name, "--config.ops." + option, "--workdir=w"]
  assert cli.main(["train", "--config=digits:scratch", *given]) == 2
  assert "does nothing: the network has no" in capsys.readouterr().err
