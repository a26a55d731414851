"""`benchmarks/gpu.py` in its short form, on the CPU."""

import os
import subprocess
import sys

import pytest

from .common import ROOT


@pytest.mark.slow
def test_what_needs_a_gpu_runs_in_short(tmp_path):
  page = tmp_path / "page.md"
  # As a user starts it: conftest's options make programs slow.
  dropped = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
  environment = {k: v for k, v in os.environ.items() if k not in dropped}
  command = [sys.executable, "benchmarks/gpu.py", "--short", f"--output={page}"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  text = page.read_text()
  assert done.returncode == 0, text + done.stderr
  for part in ("## Golden networks", " passed", "## Beside PyTorch", "## By batch", "## Flags"):
    assert part in text, text
  assert text.count("| resnet_tiny | ") == 4 and "failed" not in text
