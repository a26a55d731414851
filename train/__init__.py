"""Training: losses, optimisers, data, checkpoints and one loop that runs on any mesh.

Start at `bcos_jax.train.loop.train`, or from a shell with `bcos-jax train --config=digits`.
"""

from bcos_jax.errors import requires

requires("train", "Training, probes and evaluation")
