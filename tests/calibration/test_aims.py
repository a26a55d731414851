"""The order of maps and what each aims at, read off traced programs."""

import jax
import numpy as np
import pytest

from bcos_jax import BcosOps, StandardOps, create, models
from bcos_jax.calibration import aims, closed_form, traced
from bcos_jax.variables import abstract_variables

IMAGES = [n for n in models.test_variants() if create(n, ops=StandardOps()).reads == "images"]


def _program(name, ops):
  model = create(name, ops=ops)
  inputs = jax.ShapeDtypeStruct((2, *model.image_sides, ops.encoding.colors), np.float32)
  return traced.trace(model, abstract_variables(model), inputs, closed_form.apply)


def _parts(name, student=None):
  programs = _program(name, student or BcosOps()), _program(name, StandardOps())
  return {part.path: part for part in aims.parts(*programs)}, programs


def test_residual_branches_aim_at_the_sum_and_shortcuts_come_first():
  parts, _ = _parts("resnet_tiny")
  assert list(parts)[3:] == [
    "layer2_0/conv1",
    "layer2_0/downsample_conv",
    "layer2_0/conv2",
    "head",
  ]
  last = parts["layer2_0/conv2"].student
  assert (len(last.ends), last.gate, last.norms[-1]) == (2, "relu", ("layer2_0/bn2",))
  side = parts["layer2_0/downsample_conv"].student
  assert (len(side.ends), side.gate, side.norms[-1]) == (1, "", ("layer2_0/downsample_bn",))
  assert parts["conv1"].student.gate == "relu"


def test_branches_of_transformers_aim_at_the_stream():
  parts, _ = _parts("simple_vit_tiny")
  block = [path for path in parts if path.startswith("encoder_0")]
  assert [path.partition("/")[2] for path in block] == [
    "attn/qkv",
    "attn/out",
    "ff_linear1",
    "ff_linear2",
  ]
  ends = {path: len(parts[path].student.ends) for path in block}
  assert ends == dict(zip(block, (1, 2, 1, 2), strict=True))
  assert parts["encoder_0/ff_linear1"].student.gate == "gelu"


def test_concatenations_end_a_chain():
  parts, (student, _) = _parts("densenet_tiny")
  for path, part in parts.items():
    if path.endswith("conv2"):
      assert part.student.ends == (student.response(path),)
    if path.endswith("conv1"):
      assert part.student.gate == "relu" and part.student.norms[-1]


def test_a_student_without_activations_has_no_gates():
  parts, _ = _parts("resnet_tiny", BcosOps(keep_activations=False))
  assert {part.student.gate for part in parts.values()} == {""}
  assert parts["conv1"].teacher.gate == "relu"


@pytest.mark.parametrize("name", IMAGES)
def test_every_map_of_every_architecture_has_an_aim_after_what_it_sees(name):
  parts, (student, _) = _parts(name)
  assert set(parts) == set(student.maps)
  behind = aims._ancestors(student)
  at = {student.response(path): path for path in student.maps}
  done = set()
  for path, part in parts.items():
    needs = {
      at[v]
      for value in (student.seen_by(path), *part.student.sides)
      for v in behind(value)
      if v in at
    }
    assert needs <= done, path
    assert len(part.student.ends) == len(part.teacher.ends) == len(part.student.sides) + 1
    done.add(path)


def test_a_norm_behind_a_sum_is_not_the_maps():
  """It scales the shortcut too, so it cannot become the identity by another kernel."""
  parts, _ = _parts("convnext_test_bnu")
  last = parts["stage0_block0/pwconv2"].student
  assert len(last.ends) == 2 and last.norms[-1] == ()
  assert parts["stage0_block0/dwconv"].student.norms[-1]
