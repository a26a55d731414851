"""The command line as a shell sees it: version, completion, pipes, signals."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import bcos_jax
from bcos_jax import cache, cli

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
    (["prepare", "imag"], "imagenet2012 imagenet_s"),
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_in_a_line():
  with open("/dev/full", "w") as full:
    process = subprocess.run(
      [sys.executable, "-m", "bcos_jax", "models"],
      env=ENVIRONMENT,
      stdout=full,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert process.returncode == 1
  assert process.stderr.splitlines()[:2] == [
    "error: Cannot write the output: No space left on device.",
    "  fix: free space, and run the command again.",
  ]


def test_another_broken_pipe_is_a_failure(capfd, monkeypatch):
  def breaks(*arguments, **options):
    raise BrokenPipeError("a worker has ended")

  monkeypatch.setattr("bcos_jax.cli.catalogue.show", breaks)
  assert cli.main(["models"]) == 1
  assert "a worker has ended" in capfd.readouterr().err


def test_ctrl_c_reaches_the_processes_that_read(tmp_path):
  """A terminal sends it to all of them; those that read pictures end at once."""
  tiny = ("model.name=resnet_tiny", "data.image_size=16", "steps=100000", "data.workers=2")
  options = [f"--workdir={tmp_path}", *(f"--config.{field}" for field in (*tiny, "log_every=1"))]
  process = subprocess.Popen(
    [sys.executable, "-m", "bcos_jax", "train", "--config=digits:scratch", *options],
    env=ENVIRONMENT,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  for _ in range(1200):
    metrics = tmp_path / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size:
      break
    time.sleep(0.1)
  os.killpg(process.pid, signal.SIGINT)
  said = process.communicate(timeout=120)[1]
  assert process.returncode == 130, said
  assert "continue from the last checkpoint" in said
  assert list((tmp_path / "checkpoints").iterdir())


def test_libtpu_is_quiet_unless_asked(monkeypatch):
  for name in ("TPU_STDERR_LOG_LEVEL", "TPU_MIN_LOG_LEVEL"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("TPU_MIN_LOG_LEVEL", "0")
  cache.quiet_libtpu()
  assert os.environ["TPU_STDERR_LOG_LEVEL"] == "4" and os.environ["TPU_MIN_LOG_LEVEL"] == "0"
  monkeypatch.delenv("TPU_STDERR_LOG_LEVEL")
