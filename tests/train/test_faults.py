"""Faults during a run, and the files that remain."""

import logging
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import InputError, RunError
from bcos_jax.train import checkpoint, loop, sharding
from bcos_jax.train import config as configs
from bcos_jax.train.data import Examples, open_dataset, pipeline, sources
from bcos_jax.train.monitor import writer

from ..common import TINY_RUN, stop_at

RECIPE = TINY_RUN


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
  """One folder of prepared digits for all runs of this file."""
  folder = tmp_path_factory.mktemp("data")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(sources.DATA_DIR_VARIABLE, str(folder))
    open_dataset("digits", "train")
    yield folder


def train(folder, *overrides, **fields):
  folder_given = any(text.startswith("--config.data.folder=") for text in overrides)
  own = [text for text in RECIPE if not (folder_given and "test_split" in text)]
  config = configs.load_config("digits:scratch", [*own, "--config.steps=8", *overrides])
  return loop.train(config, workdir=folder, progress=False, **fields)


def arrays(result):
  return jax.tree.leaves(jax.device_get(result.variables))


# ------------------------------------------------------------------- checkpoints
@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
  """A run stopped after step 6, with checkpoints of steps 2, 4 and 6; and one that was not."""
  folder = tmp_path_factory.mktemp("stopped")
  with pytest.raises(KeyboardInterrupt):
    train(folder / "stopped", "--config.checkpoint_every=2", hooks=[stop_at(6)])
  return folder / "stopped", arrays(train(folder / "whole"))


def flip(file):
  """Flips a bit in the middle."""
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 4
  file.write_bytes(content)


def cut(file):
  os.truncate(file, file.stat().st_size // 2)


def big_files(folder):
  return [f for f in folder.rglob("*") if f.is_file() and f.stat().st_size > 1000]


@pytest.mark.parametrize("damage", [flip, cut, pathlib.Path.unlink])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, stopped, damage, capfd):
  folder = shutil.copytree(stopped[0], tmp_path / "run")
  files = big_files(folder / "checkpoints" / "6" / "state")
  damage(max(files, key=lambda file: file.stat().st_size))
  seen = []
  result = train(folder, "--config.checkpoint_every=2", hooks=[lambda step, _: seen.append(step)])
  assert seen == [5, 6, 7, 8]
  said = capfd.readouterr().err
  assert "checkpoint of step 6 is damaged" in said and "the previous one is used" in said
  assert (folder / "damaged" / "6").is_dir()
  for a, b in zip(arrays(result), stopped[1], strict=True):
    np.testing.assert_array_equal(a, b)


def test_no_checkpoint_left(tmp_path, stopped):
  folder = shutil.copytree(stopped[0], tmp_path / "run")
  for file in big_files(folder / "checkpoints"):
    cut(file)
  with pytest.raises(InputError, match="no checkpoint that can be read"):
    train(folder)


def test_a_single_bit_changes_the_checksum():
  rng = np.random.default_rng(0)
  tree = {"a": rng.random((6, 8), np.float32), "b": np.arange(5, dtype=np.int32)}
  before = checkpoint.checksums(tree)
  for _ in range(50):
    changed = {name: array.copy() for name, array in tree.items()}
    name = rng.choice(list(changed))
    words = changed[name].view(np.uint32).reshape(-1)
    words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
    after = checkpoint.checksums(changed)
    assert [key for key in tree if after[key] != before[key]] == [name]
  swapped = tree | {"b": tree["b"][::-1].copy()}
  assert checkpoint.checksums(swapped)["b"] != before["b"]


def test_checksums_do_not_depend_on_the_mesh():
  array = np.random.default_rng(0).random((16, 8), np.float32)
  mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "data"))
  split = jax.device_put(array, place)
  assert checkpoint.checksums([split]) == checkpoint.checksums([array])


def test_which_checkpoints_are_kept(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep_every=4) as checkpoints:
    for step, accuracy in enumerate((0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.1), 1):
      checkpoints.save(step, {"w": np.ones(3)}, {}, {"accuracy": accuracy})
    checkpoints.save(11, {"w": np.ones(3)}, {})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps == [3, 4, 8, 10, 11]  # Best, every fourth, the two newest.


# ---------------------------------------------------------------- not a number
class Poisoned(Examples):
  """Examples one of which holds what no picture holds."""

  bad = frozenset()

  def __getitem__(self, index):
    example = super().__getitem__(index)
    if index in self.bad:
      example["image"] = np.full_like(example["image"], np.nan)
    return example


@pytest.fixture
def poison(monkeypatch):
  """Makes the examples of these steps' batches unusable."""

  def poison(*steps):
    examples = Examples(open_dataset("digits", "train"), None)
    bad = [i for s in steps for i in pipeline.order(examples, batch_size=16, seed=0, step=s - 1)]
    monkeypatch.setattr(Poisoned, "bad", frozenset(bad))
    monkeypatch.setattr(pipeline, "Examples", Poisoned)
    return bad

  return poison


def test_a_loss_that_is_not_finite_names_batch_and_checkpoint(tmp_path, poison):
  bad = poison(4)
  with pytest.raises(FloatingPointError) as caught:
    train(tmp_path, "--config.checkpoint_every=1")
  message = str(caught.value)
  assert "nan" in message and "at step 4;" in message
  assert "last checkpoint is that of step 3" in message
  assert f"examples {', '.join(map(str, bad))} of digits" in message
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
    assert checkpoints.steps[-1] == 3


def test_a_step_left_out_changes_nothing_but_the_count(tmp_path, poison):
  poison(3, 5)
  states = {}

  def keep(step, state):
    states[step] = jax.device_get(state.variables)

  result = train(tmp_path, "--config.nonfinite=skip", hooks=[keep])
  jax.tree.map(np.testing.assert_array_equal, states[3], states[2])
  jax.tree.map(np.testing.assert_array_equal, states[5], states[4])
  kernels = [states[step]["params"]["conv1"]["kernel"] for step in (3, 4)]
  assert (kernels[0] != kernels[1]).any()
  assert all(np.isfinite(leaf).all() for leaf in arrays(result))
  rows = writer.read_lines(tmp_path / "metrics.jsonl")
  assert [row["train/skipped"] for row in rows if "train/loss" in row][-1] == 2


def test_too_many_steps_left_out_stop_the_run(tmp_path, poison, monkeypatch):
  monkeypatch.setattr(writer, "MOST_SKIPPED_IN_A_ROW", 3)
  poison(2, 3, 4)
  with pytest.raises(FloatingPointError, match="at step 4, like at the 2 before"):
    train(tmp_path, "--config.nonfinite=skip")


def test_the_order_is_that_of_the_batches():
  dataset = open_dataset("digits", "train")
  examples = Examples(dataset, lambda picture: np.zeros((1, 1, 1), np.float32))
  batches = pipeline.train_batches(
    examples, lambda image, rng: image, batch_size=8, seed=3, repeats=2, start_step=5
  )
  iterator = iter(batches)
  labels = next(iterator)["label"]
  iterator.close()
  numbers = pipeline.order(examples, batch_size=8, seed=3, step=5, repeats=2)
  assert [examples[i]["label"] for i in numbers] == labels.tolist()


# ------------------------------------------------------------ disks and processes
@pytest.fixture
def pictures(tmp_path):
  """A folder of pictures in two classes; returns flags that train on it."""
  rng = np.random.default_rng(0)
  for name in ("a", "b"):
    folder = tmp_path / "pictures" / name
    folder.mkdir(parents=True)
    for number in range(24):
      Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
  return [
    f"--config.data.folder={tmp_path / 'pictures'}",
    *("--config.data.name=", "--config.data.cache=False", "--config.model.num_classes=2"),
    *("--config.eval_every=0", "--config.checkpoint_every=2"),
  ]


def at(when, act):
  """Returns a hook that acts after a step."""
  return lambda step, state: act() if step == when else None


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_pictures_that_vanish_stop_the_run_and_it_goes_on_when_they_are_back(
  tmp_path, pictures, policy
):
  folder, away = tmp_path / "pictures", tmp_path / "elsewhere"
  flags = [*pictures, f"--config.data.damaged={policy}"]
  with pytest.raises(RunError, match=r"cannot be accessed: .*No such file"):
    train(tmp_path / "run", *flags, hooks=[at(3, lambda: folder.rename(away))])
  away.rename(folder)
  seen = []
  train(tmp_path / "run", *flags, hooks=[lambda step, _: seen.append(step)])
  assert seen and seen[0] > 2 and seen[-1] == 8


@pytest.mark.slow
def test_a_worker_that_dies_stops_the_run(tmp_path, pictures):
  def kill():
    workers = [p for p in multiprocessing.active_children() if p.name.startswith("grain")]
    assert workers, multiprocessing.active_children()
    workers[-1].kill()

  flags = [*pictures, "--config.data.workers=2", "--config.steps=1000"]
  with pytest.raises(RunError, match=r"process that reads pictures has died.*exit code -9"):
    train(tmp_path / "run", *flags, hooks=[at(3, kill)])


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(tmp_path, pictures):
  """A limit on the size of files, which a checkpoint exceeds, stands for the disk."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)

  def fill():
    while not (tmp_path / "run" / "checkpoints" / "2").exists():
      time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))

  try:
    with pytest.raises(RunError, match=r"cannot be written to.*Free space there"):
      train(tmp_path / "run", *pictures, hooks=[at(3, fill)])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
    assert checkpoints.steps == [2]
  seen = []
  result = train(tmp_path / "run", *pictures, hooks=[lambda step, _: seen.append(step)])
  assert seen == [3, 4, 5, 6, 7, 8]
  whole = train(tmp_path / "whole", *pictures)
  for a, b in zip(arrays(result), arrays(whole), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "why", ["No space left on device", "Disk quota exceeded", "Read-only file system"]
)
def test_a_full_disk_is_told_by_the_last_words_of_long_errors(why, tmp_path, capfd):
  """Such as those of Orbax, which name the file several times before; it logs them as well."""
  with (
    pytest.raises(RunError, match=f"cannot be written to: {why.lower()}"),
    loop._saying_what_broke(tmp_path),
  ):
    logging.getLogger("absl").handle(
      logging.makeLogRecord({"levelno": logging.ERROR, "pathname": "orbax/x.py", "msg": "trace"})
    )
    raise ValueError(f"RESOURCE_EXHAUSTED: writing {'/a/long/path' * 50}: {why} [os_error=28]")
  assert "trace" not in capfd.readouterr().err


# ------------------------------------------------------------------------ kill -9
# Forty steps give twenty kills.
KILLED_STEPS = int(os.environ.get("BCOS_JAX_KILLED_STEPS", "6"))


def run_until_killed(folder, environment, moment):
  """Starts or resumes a run and kills it some seconds after a step that it had not reached before.

  Returns:
    Whether the run ended before that.
  """
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "bcos_jax", "train", "--config=digits:scratch", *RECIPE),
      *(f"--config.steps={KILLED_STEPS}", "--config.checkpoint_every=1", f"--workdir={folder}"),
    ],
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  lines = folder / "metrics.jsonl"
  reached = last_step(lines)
  while process.poll() is None and last_step(lines) <= reached:
    time.sleep(0.02)
  time.sleep(moment)
  process.send_signal(signal.SIGKILL)
  said = process.communicate()[1].decode()
  assert process.returncode in (0, -signal.SIGKILL), said
  return process.returncode == 0


def last_step(lines):
  return max((row["step"] for row in writer.read_lines(lines)), default=0) if lines.exists() else 0


@pytest.mark.slow
def test_a_run_survives_kill_9(tmp_path):
  """A checkpoint after every step, so that many of the moments are in the middle of saving."""
  environment = dict(os.environ) | {
    "XDG_CACHE_HOME": str(tmp_path / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  moments = random.Random(0)
  kills = 0
  while not run_until_killed(tmp_path / "killed", environment, moments.uniform(0.0, 0.5)):
    kills += 1
  assert kills >= 2
  whole = train(tmp_path / "whole", f"--config.steps={KILLED_STEPS}")
  killed = bcos_jax.load(tmp_path / "killed" / "bundle")
  for a, b in zip(arrays(whole), jax.tree.leaves(dict(killed.variables)), strict=True):
    np.testing.assert_array_equal(a, b)
