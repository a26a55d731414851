"""Networks evaluated piece by piece: what is kept, and where."""

import numpy as np
import pytest

from bcos_jax import StandardOps
from bcos_jax.calibration import closed_form, traced
from bcos_jax.calibration.execution import Execution
from bcos_jax.calibration.shares import Shares
from bcos_jax.calibration.store import Store

from ..common import filled, flat, photos, tiny

IMAGES = photos(24)


@pytest.mark.parametrize("memory", [0, 40_000, 2**30])
def test_a_run_keeps_only_what_is_needed_and_no_more_than_that_in_memory(memory, tmp_path):
  model = tiny("resnet_tiny", StandardOps())
  variables = filled(model)
  batches = [IMAGES[:12], IMAGES[12:]]
  program = traced.trace(model, variables, batches[0], closed_form.apply)
  store = Store(memory, tmp_path / "kept")
  run = Execution(program, flat(variables), batches, Shares(None, 24), store, {})
  most, files = 0, 0
  for path in program.maps:
    run.advance([program.seen_by(path)])
    most = max(most, len(run.known))
    files = max(files, len(list(tmp_path.glob("kept/*"))))
    assert store.used <= memory
  run.advance([program.output])
  assert most <= 4  # a map's input, and a shortcut or two
  assert run.known == {program.output}
  assert (files > 0) == (memory < 2**30)
  found = np.concatenate(run.value(program.output))
  wanted = np.asarray(closed_form.apply(model, variables, IMAGES))
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  assert len(list(tmp_path.glob("kept/*"))) == (2 if memory == 0 else 0)
