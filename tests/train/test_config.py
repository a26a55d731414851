"""Configs by name, overrides, and errors of misspelt fields."""

import pathlib

import pytest

from bcos_jax import cli
from bcos_jax import configs as recipes
from bcos_jax.errors import InputError
from bcos_jax.train import config as configs

from ..common import suggestion


def override(*arguments, spec="digits"):
  return configs.load_config(spec, arguments)


def test_overrides_take_the_type_of_the_field():
  config = override(
    "--config.optimizer.lr=1e-2",
    "--config.data.batch_size",
    "32",
    "--config.data.cache=false",
    "--config.loss.name=bce",
    "--config.optimizer.decay_rules=(('bias$', 0.1),)",
  )
  assert config.optimizer.lr == 1e-2 and config.data.batch_size == 32
  assert config.data.cache is False and config.loss.name == "bce"
  assert config.optimizer.decay_rules == (("bias$", 0.1),)


def test_variants():
  assert override().ops.family == "standard"
  config = override(spec="digits:scratch")
  assert config.ops.family == "bcos" and config.init == ""
  assert override(spec="digits:bcosify").init


def test_open_sections_take_new_fields():
  config = override(
    "--config.ops.weights=unit",
    "--config.ops.norm=batch",
    "--config.model.width=8",
    spec="digits:scratch",
  )
  assert config.ops.weights == "unit" and config.ops.norm == "batch" and config.model.width == 8


def test_config_file(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text((pathlib.Path(recipes.__path__[0]) / "digits.py").read_text())
  same = configs.load_config(f"{file}:scratch")
  assert same.to_dict() == configs.load_config("digits:scratch").to_dict()


def test_every_config_loads_and_is_locked():
  for name in configs.names():
    with pytest.raises((AttributeError, KeyError)):
      configs.load_config(name).nonsense = 1


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--config.optimizer.lrr=1"], suggestion("optimizer.lr")),
    (["--config.optimiser.lr=1"], suggestion("optimizer.lr")),
    (["--config.stepz=1"], suggestion("steps")),
    (["--config.optimizer=sgd"], "section"),
    (["--config.optimizer.lr=fast"], "optimizer.lr='fast'"),
    (["--config.data.batch_size=1.5"], "batch_size='1.5'"),
    (["--config.data.batch_size=0"], "batch_size=0.* 1"),
    (["--config.data.cache=3"], "cache='3'"),
    (["--config.optimizer.decay_rules=3"], "decay_rules='3'"),
    (["--config.steps=two epochs"], "90 epochs"),
    (["--config.seed"], "No value"),
    (["--seed=1"], "'--seed=1'"),
  ],
)
def test_mistakes_name_the_value_and_the_fix(arguments, message):
  with pytest.raises(InputError, match=message) as error:
    override(*arguments)
  assert error.value.fix


@pytest.mark.parametrize(
  "spec, message",
  [
    ("digit", suggestion("digits")),
    ("digits:bcosfy", suggestion("bcosify")),
    ("missing.py", "'missing.py'"),
  ],
)
def test_unknown_configs(spec, message):
  with pytest.raises(InputError, match=message):
    configs.load_config(spec)


def test_durations():
  assert configs.as_steps(7, 10) == 7
  assert configs.as_steps("90 epochs", 10) == 900
  assert configs.as_steps("0.5 epochs", 10) == 5
  for bad in ("epochs", "-1 epochs", "3 days", -1, 1.5):
    with pytest.raises(InputError, match="Duration"):
      configs.as_steps(bad, 10)
  config = configs.in_steps(override("--config.steps=2 epochs", "--config.eval_every=3"), 22)
  assert config.steps == 44 and config.eval_every == 3


def test_print_config_lines_are_overrides(capsys):
  assert cli.main(["train", "--config=digits:scratch", "--print_config", "--config.seed=3"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "--config.seed=3" in lines and "--config.ops.b=2.0" in lines
  assert override(*lines, spec="digits:scratch") == override(
    "--config.seed=3", spec="digits:scratch"
  )


def test_command_line_mistakes_exit_with_two(capsys, tmp_path):
  assert cli.main(["train", "--config=digits", f"--workdir={tmp_path}", "--config.stepz=3"]) == 2
  assert suggestion("steps") in capsys.readouterr().err
