"""The lane under the compiler settings of users: tests marked `user_compiler`, in processes
without the options by which conftest.py makes compiling quick.
"""

from importlib import metadata
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from .common import ROOT

OLD = metadata.version("jaxlib").startswith("0.10.")  # conftest.py has flags for it only
USER = os.environ.get("BCOS_TEST_COMPILER") == "user"
# Files of one process each, and how many tests must at least pass there.
LANES = {
  "layers": (["tests/test_compiler.py", "tests/layers", "tests/models/test_lm_golden.py"], 80),
  "networks": (["tests/models/test_networks_golden.py", "tests/models/test_bcosify.py"], 5),
  "use": (["tests/explain", "tests/train/test_train.py"], 5),
}


@pytest.mark.skipif(USER, reason="starts this lane")
@pytest.mark.parametrize("lane", LANES)
def test_lane(lane):
  files, fewest = LANES[lane]
  options = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
  environment = {
    key: value
    for key, value in os.environ.items()
    if key not in options and not key.startswith("PYTEST_")
  }
  command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5"]
  done = subprocess.run(
    [*command, "-m", "user_compiler and not slow", *files],
    cwd=ROOT,
    env={**environment, "BCOS_TEST_COMPILER": "user"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
  passed = re.search(r"(\d+) passed", done.stdout)
  assert passed and int(passed[1]) >= fewest, done.stdout[-2000:]


@pytest.mark.user_compiler
def test_options_in_force():
  """In processes of both kinds: the options, and a program that was compiled with them."""
  assert jax.config.read("jax_disable_most_optimizations") != USER
  flags = os.environ["XLA_FLAGS"].split()
  assert (flags == ["--xla_force_host_platform_device_count=8"]) == (USER or not OLD)
  if OLD:
    program = jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((4, 4))).compile().as_text()
    assert ("%wrapped_tanh" in program) == USER  # a fusion of one operation
