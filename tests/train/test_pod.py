"""Parsing of compiled programs by `bcos-jax compile`; compilation itself needs libtpu."""

import importlib.util
import os
import subprocess
import sys

import pytest

from bcos_jax import InputError, cli
from bcos_jax.train import config
from bcos_jax.train.estimates import pod

PROGRAM = """
  %all-reduce.1 = f32[64,3]{1,0} all-reduce(%a), replica_groups={}
  %ar = (bf16[8]{0}, f32[]) all-reduce-start(%b, %c), replica_groups={}
  %ag = (f32[4]{0}, f32[16]{0}) all-gather-start(%d), dimensions={0}
  %cp = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%e)
  %fusion = f32[64,3]{1,0} fusion(%all-reduce.1)
"""


def test_collectives_are_counted_with_their_bytes():
  assert pod.collectives(PROGRAM) == {
    "all-reduce": (2, 64 * 3 * 4 + 8 * 2 + 4),
    "all-gather": (1, 16 * 4),
    "collective-permute": (1, 5 * 4),
  }


@pytest.mark.parametrize(
  "topology, word", [("v5f:4x4", "v5f"), ("v5e", "4x4"), ("v5e:four", "4x4"), ("v5e:4by4", "4x4")]
)
def test_topologies_that_are_none(topology, word):
  with pytest.raises(InputError, match=word):
    pod.devices(topology)


def test_what_does_not_fit_names_the_largest_buffers(monkeypatch, capsys):
  """The compiler's own message, as XLA writes it, on the command line."""
  message = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in hbm.
    Used 17.50G of 15.75G hbm. Exceeded hbm capacity by 1.75G.
    Largest program allocations in hbm:
    1. Size: 1.53G
       Shape: bf16[256,112,112,64]{3,0,2,1:T(8,128)(2,1)}
    something else"""

  def too_large(*args):
    raise MemoryError(pod.largest_buffers(message))

  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setattr(pod, "compile_recipe", too_large)
  assert cli.main(["compile", "--config=bcosify_cnn:runlocal", "--topology=v5e:4x4"]) == 1
  said = capsys.readouterr().err
  buffer = "bf16[256,112,112,64]"
  for part in ("does not fit", "Used 17.50G of 15.75G", buffer, "--config.accumulate"):
    assert part in said
  assert "something else" not in said


def test_arithmetic_is_that_of_the_whole_step_however_it_is_cut():
  """A batch in parts and on several devices is as much work; twice the batch is twice as much."""

  def count(*overrides):
    small = ["--config.data.image_size=16", "--config.data.batch_size=16", *overrides]
    return pod.arithmetic(config.load_config("bcosify_cnn:runlocal", small))

  whole = count()
  assert count("--config.accumulate=4", "--config.mesh.fsdp=4") == whole
  update = 2 * whole - count("--config.data.batch_size=32")  # what does not depend on the batch
  assert 0 < update < 0.05 * whole


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install bcos_jax[tpu]"
)
def test_a_step_compiles_for_a_slice_that_is_not_there(tmp_path):
  """In a process of its own: JAX's profiler crashes where libtpu is loaded and no TPU is there."""
  command = [sys.executable, "-m", "bcos_jax", "compile", "--config=bcosify_cnn:runlocal"]
  small = ["--config.data.image_size=16", "--config.data.batch_size=8"]
  # The TPU's compiler stops at flags for the CPU.
  environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": ""}
  done = subprocess.run(
    [*command, "--topology=v5e:2x2", *small],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for part in ("v5e:2x2, 4 devices, batch 8", "of 16 GiB", "all-reduce", "arithmetic intensity"):
    assert part in done.stdout
