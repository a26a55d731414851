"""What a calibration is given, and what a folder of finished maps may hold."""

import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax import InputError
from bcos_jax.calibration import blocks
from bcos_jax.calibration.finished import FinishedMaps, key_of
from bcos_jax.calibration.inputs import check_inputs
from bcos_jax.calibration.report import Refined
from bcos_jax.calibration.shares import Shares

IDS = np.arange(80).reshape(8, 10) % 7
ONES = np.ones((8, 10), int)


@pytest.mark.parametrize(
  "texts, message",
  [
    ({"mask": ONES}, "have 'mask', expected 'tokens'"),
    ({"tokens": IDS, "msk": ONES}, "'msk'"),
    ({"tokens": IDS / 2}, "float64.*integers"),
    ({"tokens": IDS - 3}, "at least -3"),
    ({"tokens": IDS, "mask": ONES[:, :9]}, r"mask has shape \(8, 9\)"),
    (
      {"tokens": IDS, "mask": ONES * (np.arange(8) > 2)[:, None]},
      "5 texts in which it is not zero",
    ),
  ],
)
def test_texts_that_cannot_be_used(texts, message):
  assert check_inputs({"tokens": IDS, "mask": ONES}) == 8
  with pytest.raises(InputError, match=message):
    check_inputs(texts)


@pytest.mark.parametrize("shape, dtype", [((8, 0, 4, 3), float), ((8, 4, 4, 3), complex)])
def test_pictures_that_are_no_real_numbers(shape, dtype):
  with pytest.raises(InputError, match="expected numbers"):
    check_inputs(np.ones(shape, dtype))
  check_inputs(np.random.RandomState(0).rand(8, 4, 4, 3).astype(jnp.bfloat16))


@pytest.mark.parametrize("left", [b"", b"garbage", b"PK"])
def test_what_a_crash_left_of_a_file_is_made_again(left, tmp_path):
  shares = Shares(None, 8)
  finished = FinishedMaps(tmp_path, "key", shares)
  for number in range(2):
    finished.save(number, {"params/a": np.ones(2)}, Refined(("a",), 1.0))
  (tmp_path / "key" / "00001.npz").write_bytes(left)
  assert FinishedMaps(tmp_path, "key", shares).done == 1


def test_variables_of_half_precision_have_a_key():
  shares = Shares(None, 8)
  one, other = (
    key_of((), {"w": np.full(3, value, jnp.bfloat16)}, (), shares) for value in (1, 1.5)
  )
  assert one != other


def test_inputs_count_once_where_a_process_has_fewer_than_others():
  batches = [np.array(rows) for rows in ([0, 1, 2, 3], [4, 4, 4, 4], [4, 4, 4, 4])]
  counted = blocks._counted(batches)
  assert [rows[new].tolist() for rows, new in zip(batches, counted, strict=True)] == [
    [0, 1, 2, 3],
    [4],
    [],
  ]
