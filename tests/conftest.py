"""Makes eight CPU devices, so that sharding is tested everywhere."""

import os

# Before jax is imported. More threads than devices: with fewer, collectives on virtual devices
# can wait for each other for ever.
os.environ.setdefault("PJRT_NPROC", "32")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
