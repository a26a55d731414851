"""Options of `bcos-jax evaluate`: what no metric asked for reads is refused."""

import argparse

import pytest

from bcos_jax.errors import InputError
from bcos_jax.train.evaluation.choices import refuse
from bcos_jax.train.evaluation.image_metrics import MetricChoices
from bcos_jax.train.evaluation.text_metrics import TextChoices

IMAGES = [
  ({"fill": "zero"}, "grid_pointing", "deletion"),
  ({"block": 8}, "accuracy", "insertion"),
  ({"grid": 2}, "deletion", "grid_pointing"),
  ({"num_grids": 3}, "energy_pointing", "grid_pointing"),
  ({"smooth": 5}, "completeness", "energy_pointing"),
  ({"num_images": 4}, "grid_pointing", "completeness"),
  ({"published": True}, "completeness", "grid_pointing"),
]
TEXTS = [
  ({"length": 9}, "rationales", "sequence_pointing"),
  ({"num_pairs": 9}, "completeness", "sequence_pointing"),
  ({"oracle": False}, "sequence_pointing", "sufficiency"),
  ({"published": True}, "completeness", "comprehensiveness"),
  ({"num_texts": 9}, "accuracy", "rationales"),
]


@pytest.mark.parametrize(
  ("made", "given", "deaf", "reader"),
  [(MetricChoices, *case) for case in IMAGES] + [(TextChoices, *case) for case in TEXTS],
)
def test_options_are_read_or_refused(made, given, deaf, reader):
  (option,) = given
  with pytest.raises(InputError, match=f"{option} is .* no metric of {deaf} reads it") as caught:
    made(names=(deaf,), **given)
  assert reader in caught.value.fix
  assert made(names=(deaf, reader), **given).names == (deaf, reader)
  assert made(names=(deaf,)).names == (deaf,)


@pytest.mark.parametrize(
  ("made", "given", "flag"),
  [
    (MetricChoices, {"fill": "zero", "length": 0}, "--fill=zero is for pictures"),
    (MetricChoices, {"grid": 2}, "--grid=2 is for pictures"),
    (TextChoices, {"num_texts": 5}, "--num_texts=5 is for texts"),
    (TextChoices, {"length": 9, "grid": 2}, "--length=9 is for texts"),
  ],
)
def test_options_of_the_other_kind_are_refused(made, given, flag):
  kind, other = ("pictures", "texts") if made is MetricChoices else ("texts", "pictures")
  with pytest.raises(InputError, match=flag):
    refuse(argparse.Namespace(batch_size=3, **given), made, kind, other)
  refuse(argparse.Namespace(batch_size=3), made, kind, other)
