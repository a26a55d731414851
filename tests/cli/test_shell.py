"""The command line as a shell sees it: version, completion, pipes, signals."""

import os
import shutil
import subprocess
import sys

import pytest

import bcos_jax
from bcos_jax import cli

from ..common import ROOT

ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
COMPLETE = """
source /dev/stdin
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_bcos_jax
echo "${COMPREPLY[@]}"
"""


def run(*arguments, **options):
  return subprocess.run(
    [sys.executable, "-m", "bcos_jax", *arguments],
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    check=False,
    **options,
  )


def test_version_of_the_module_run_as_a_program():
  done = run("--version")
  assert (done.returncode, done.stdout) == (0, f"bcos_jax {bcos_jax.__version__}\n")


@pytest.fixture(scope="module")
def bash_script():
  return cli.completion.script(cli.commands(cli.command_parser()), "bash")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
  ("words", "expected"),
  [
    (["qui"], "quickstart"),
    (["train", "--print"], "--print_config"),
    (["prepare", ""], "imagenet2012"),
    (["evaluate", "x", "--fill", ""], "mean zero"),
    (["evaluate", "x", "--fill", "="], "mean zero"),
    (["evaluate", "x", "--fill", "=", "z"], "zero"),
    (["explain", "pict"], ""),
  ],
)
def test_bash_completes(bash_script, words, expected):
  done = subprocess.run(
    ["bash", "-c", COMPLETE, "bash", "bcos-jax", *words],
    input=bash_script,
    capture_output=True,
    text=True,
    check=True,
  )
  assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_completion_prints_a_script_for_each_shell(capsys):
  for shell in ("bash", "zsh"):
    assert cli.main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("complete -o default -F _bcos_jax bcos-jax\n")
    assert ("bashcompinit" in printed) == (shell == "zsh")


def test_a_pipe_that_nobody_reads_is_no_failure():
  """As in `bcos-jax models | head -1`."""
  read, write = os.pipe()
  os.close(read)
  process = subprocess.run(
    [sys.executable, "-m", "bcos_jax", "models"],
    env=ENVIRONMENT,
    stdout=write,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  os.close(write)
  assert (process.returncode, process.stderr) == (141, "")


def test_another_broken_pipe_is_a_failure(capfd, monkeypatch):
  def breaks(*arguments):
    raise BrokenPipeError("a worker has ended")

  monkeypatch.setattr("bcos_jax.cli.catalogue.show", breaks)
  assert cli.main(["models"]) == 1
  assert "a worker has ended" in capfd.readouterr().err
