"""One of two processes that calibrate a network together: coordinator, its number, and a folder."""

import sys

import jax
import numpy as np

from bcos_jax import calibration
from bcos_jax.train.sharding import make_mesh

from ..common import flat
from . import test_sharded


def main(coordinator, number, folder):
  jax.distributed.initialize(coordinator, num_processes=2, process_id=int(number))
  images = (test_sharded.IMAGES[:13], test_sharded.IMAGES[13:])[int(number)]
  made, report = calibration.calibrate(
    *test_sharded.networks(),
    images,
    test_sharded.FAST,
    mesh=make_mesh({"data": 2, "fsdp": 1}),
    cache=f"{folder}/cache",
  )
  figures = np.asarray([[m.rows, m.before, m.fit] for m in report.maps])
  np.savez(f"{folder}/{number}.npz", figures=figures, agreement=report.agreement, **flat(made))


if __name__ == "__main__":
  main(*sys.argv[1:])
