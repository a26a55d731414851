"""Makes eight CPU devices, so that sharding is tested everywhere, and compiles quickly."""

import os

# Before jax is imported. More threads than devices: with fewer, collectives on virtual devices
# can wait for each other for ever.
os.environ.setdefault("PJRT_NPROC", "32")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the tests' time is compilation, which costly optimisations make three times as long; the
# float32 arithmetic is the same. Processes that the tests start compile so too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
