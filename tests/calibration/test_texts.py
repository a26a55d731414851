"""Language models in closed form: padding is left out, and B=1 gives the teacher's function."""

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, calibration
from bcos_jax.calibration import closed_form

from ..common import filled, flat, rel

FAST = calibration.Calibration(
  rows=2000, rows_per_channel=2, batch_size=40, effort=calibration.Effort(rounds=1, inner=5)
)
LONGEST = 8


def _texts(model, count=80, length=LONGEST):
  """Random texts of 3 to 8 tokens, the first one that of beginnings, padded to a length."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(3, LONGEST + 1, count)
  words = rng.integers(5, model.vocab_size, (count, LONGEST))
  words[:, 0] = 2
  mask = np.arange(length) < lengths[:, None]
  words = np.pad(words, ((0, 0), (0, length - LONGEST)))
  return {"tokens": np.where(mask, words, max(model.pad_token, 0)).astype(np.int32), "mask": mask}


def _outputs(model, variables, texts):
  found = np.asarray(closed_form.apply(model, variables, texts))
  return found[texts["mask"]] if found.ndim == 3 else found


def _twin(name, ops, **fields):
  """Returns a teacher whose biases are small, as trained ones are, and its B-cos twin."""
  teacher = bcos_jax.create(name, ops=StandardOps(), vocab_size=40, depth=1, **fields)
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * (0.1 if path[-1].key == "bias" else 1), filled(teacher)
  )
  return (teacher, variables), bcos_jax.bcosify(teacher, variables, ops=ops)


@pytest.mark.parametrize(
  ("name", "fields"),
  [
    ("bert_tiny", {}),
    ("roberta_tiny", {}),
    ("bert_tiny", {"task": "masked_lm"}),
    ("gpt2_tiny", {}),
  ],
)
def test_b_1_returns_the_teachers_function(name, fields):
  teacher, (student, start) = _twin(name, BcosOps.lm_plain(), **fields)
  texts = _texts(teacher[0])
  made, report = calibration.calibrate(*teacher, student, start, texts, FAST)
  assert rel(_outputs(student, made, texts), _outputs(*teacher, texts)) <= 1e-4
  assert report.agreement == 1.0
  assert report.left == (("vocabulary",) if teacher[0].predicts_tokens else ())


@pytest.mark.parametrize("name", ["roberta_tiny", "bert_tiny"])
def test_is_closer_to_the_teacher_and_padding_changes_nothing(name):
  teacher, (student, start) = _twin(name, BcosOps.lm(b=2.0))
  texts, longer = (_texts(teacher[0], length=length) for length in (LONGEST, 13))
  wanted = _outputs(*teacher, texts)
  made, _ = calibration.calibrate(*teacher, student, start, texts, FAST)
  begun, done = (rel(_outputs(student, v, texts), wanted) for v in (start, made))
  assert done < 0.9 * begun
  others, _ = calibration.calibrate(*teacher, student, start, longer, FAST)
  for path, leaf in flat(made).items():
    assert rel(flat(others)[path], leaf) < 1e-4, path
