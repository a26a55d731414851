"""Multi-process training with two real processes, one of which stops or dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, cli
from bcos_jax.train import hosts, main

RECIPE = (
  "--config=digits:scratch",
  "--config.model.name=resnet_tiny",
  "--config.model.stages=(1,)",
  "--config.model.width=4",
  "--config.data.image_size=8",
  "--config.data.batch_size=16",
  "--config.data.test_split=test[:41]",
  "--config.init=",
  "--config.optimizer.warmup_steps=2",
  "--config.eval_every=0",
  "--config.log_every=1",
)
STEPS = 150


class Pair:
  """Two processes of one run, each with one device."""

  def __init__(self, workdir, environment):
    with contextlib.closing(socket.socket()) as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    self.workdir = workdir
    self.processes = [
      subprocess.Popen(
        [
          *(sys.executable, "-m", "bcos_jax", "train", *RECIPE),
          *(f"--config.steps={STEPS}", "--config.checkpoint_every=20", f"--workdir={workdir}"),
          *(f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={number}"),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(2)
    ]

  def wait_for_step(self, step):
    """Returns once a step is logged."""
    lines, end = self.workdir / "metrics.jsonl", time.monotonic() + 120
    while not (lines.exists() and any(row["step"] >= step for row in rows(lines))):
      assert time.monotonic() < end and self.processes[0].poll() is None, self.end()
      time.sleep(0.05)

  def end(self, timeout=60):
    """Waits for both; returns (exit code, what it said) of each."""
    try:
      said = [process.communicate(timeout=timeout) for process in self.processes]
    finally:
      for process in self.processes:
        process.kill()
    return [(p.returncode, "".join(s)) for p, s in zip(self.processes, said, strict=True)]


def rows(path):
  whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
  return [json.loads(line) for line in whole.splitlines()]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
  """One run of two processes: asked to stop, then one killed, then left to end."""
  folder = tmp_path_factory.mktemp("hosts")
  ours = ("XLA_FLAGS",)
  environment = {key: value for key, value in os.environ.items() if key not in ours} | {
    "XDG_CACHE_HOME": str(folder / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONUNBUFFERED": "1",
  }
  told = {}
  first = Pair(folder / "pair", environment)
  first.wait_for_step(5)
  first.processes[1].send_signal(signal.SIGTERM)
  told["stopped"] = first.end()
  second = Pair(folder / "pair", environment)
  second.wait_for_step(60)
  second.processes[1].kill()
  told["killed"] = second.end()
  told["ended"] = Pair(folder / "pair", environment).end(timeout=180)
  alone = [*RECIPE[1:], "--config.mesh.data=1", f"--config.steps={STEPS}"]
  main.main("digits:scratch", alone, folder / "alone", progress=False)
  return folder, told


@pytest.mark.slow
def test_asked_to_stop_all_stop_after_the_same_step(story):
  _, told = story
  stops = [
    line for code, said in told["stopped"] for line in said.splitlines() if "Stopped" in line
  ]
  assert [code for code, _ in told["stopped"]] == [130, 130]
  assert len(stops) == 2 and len(set(stops)) == 1


@pytest.mark.slow
def test_a_dead_process_ends_the_others_within_a_minute(story):
  _, told = story
  code, said = told["killed"][0]
  assert code == 1, said
  assert (
    "process 0 of 2 lost the connection to another one" in said and "run the same command" in said
  )


@pytest.mark.slow
def test_two_processes_reach_what_one_reaches(story):
  """The gradient of a batch is summed in another order, and 150 steps carry that on."""
  folder, told = story
  assert [code for code, _ in told["ended"]] == [0, 0], told["ended"]
  pair, alone = (bcos_jax.load(folder / name / "bundle") for name in ("pair", "alone"))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(b).max()),
    pair.variables,
    alone.variables,
  )
  results = [rows(folder / name / "metrics.jsonl")[-1] for name in ("pair", "alone")]
  assert [row["eval/count"] for row in results] == [41, 41]
  assert results[0]["eval/loss"] == pytest.approx(results[1]["eval/loss"], rel=1e-3)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--coordinator=nowhere", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
    (["--coordinator=a:1", "--num_processes=2"], "process_id"),
    (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "process_id=2"),
    (["--num_processes=2"], "without --coordinator"),
  ],
)
def test_flags_that_do_not_go_together(flags, message, tmp_path, capsys):
  assert cli.main(["train", *RECIPE, f"--workdir={tmp_path}", *flags]) == 2
  assert message in capsys.readouterr().err


def test_on_one_host_arrays_come_as_they_are():
  tree = {"a": jax.numpy.ones(3), "b": np.zeros(2)}
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(hosts.to_host(tree)))
  with pytest.raises(InputError, match="coordinator"), hosts.ending_together():
    raise InputError("no coordinator", "none")


@pytest.mark.parametrize(
  "error, code, said",
  [
    (InputError("no picture", "Give one."), 2, "process 0 of 2: no picture\n  fix: Give one."),
    (
      ValueError("UNKNOWN: Gloo AllGather failed"),
      1,
      "lost the connection to another one: UNKNOWN: Gloo",
    ),
    (
      TimeoutError("waiting for a barrier"),
      1,
      "lost the connection to another one: waiting for a barrier",
    ),
    (
      jax.errors.JaxRuntimeError("INTERNAL: peer"),
      1,
      "lost the connection to another one: INTERNAL: peer",
    ),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), 1, "9 GiB\nerror: process 0 of 2 f"),
    (OSError(28, "No space left"), 1, "Traceback"),
  ],
)
def test_what_a_failing_process_says(error, code, said, monkeypatch, capsys):
  """It ends without waiting for the others, which would wait for it."""

  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(os, "_exit", leave)
  with pytest.raises(SystemExit) as ended, hosts.ending_together():
    raise error
  assert ended.value.code == code
  assert said in capsys.readouterr().err
