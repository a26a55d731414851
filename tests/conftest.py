"""Settings of the suite: eight CPU devices, so that sharding is tested everywhere, and quick
compilation, except in the lane under the compiler settings of users (see test_compiler.py).
"""

import gc
from importlib import metadata
import os

import pytest

# Before jax is imported. More threads than devices: with fewer, collectives on virtual devices
# can wait for each other for ever.
os.environ["JAX_PLATFORMS"] = os.environ.get("BCOS_TEST_PLATFORM", "cpu")  # cuda: benchmarks/gpu.py
os.environ.setdefault("PJRT_NPROC", "32")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
if os.environ.get("BCOS_TEST_COMPILER") != "user":
  if metadata.version("jaxlib").startswith("0.10."):
    # Most of the tests' time is compilation, and fusions take most of that; every core is busy
    # already, so that programs cut into parts only take longer. Later versions do not know all of
    # the flags, and stop at what they do not know.
    os.environ["XLA_FLAGS"] += (
      " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
  # Costly optimisations make compiling three times as long; the float32 arithmetic is the same.
  # Processes that the tests start compile so too.
  os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# JAX keeps millions of objects; looking through them ever again is a twentieth of the time.
gc.set_threshold(200_000, 20, 100)


@pytest.fixture
def own_architectures(monkeypatch):
  """Lets a test register architectures, which are forgotten behind it."""
  from bcos_jax.models import registry

  monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  """Leaves to the lanes what they run, if they are among the tests of this session."""
  if not any(item.name.startswith("test_lane[") for item in items):
    return

  def left(item: pytest.Item) -> bool:
    marks = {mark.name for mark in item.iter_markers()}
    return "user_compiler" in marks and "slow" not in marks and item.path.name != "test_compiler.py"

  config.hook.pytest_deselected(items=[item for item in items if left(item)])
  rest = [item for item in items if not left(item)]
  items[:] = sorted(rest, key=lambda item: not item.name.startswith("test_lane["))  # long: first
