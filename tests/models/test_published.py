"""The published zoo: every name exists, with the published size."""

import re

import pytest

import bcos_jax
from bcos_jax import ops
from bcos_jax.models.published import BCOSIFIED, ZOO
from bcos_jax.variables import num_parameters

# In millions, as the authors' code counts them; without statistics.
PARAMETERS = {
  "resnet18": 11.693,
  "resnet50": 25.539,
  "densenet121": 7.945,
  "vgg11_bnu": 132.856,
  "convnext_tiny": 28.543,
  "simple_vit_ti_patch16_224": 5.800,
  "vitc_ti_patch1_14": 5.319,
}


def test_all_34_names_exist():
  assert len(ZOO) == 34
  assert ZOO.keys() <= set(bcos_jax.names()) and BCOSIFIED.keys() <= set(bcos_jax.names())


@pytest.mark.parametrize("name", ZOO)
def test_a_name_makes_the_network_that_was_published(name):
  published = ZOO[name]
  model = bcos_jax.create(name, ops=ops.from_dict({"family": published.ops}))
  assert model.num_classes == 1000
  assert published.top1 < published.top5 < 100
  assert re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{10}\.pth", published.file)


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_the_published_ones(name):
  model = bcos_jax.create(name, ops=bcos_jax.BcosOps.v2())
  assert round(num_parameters(model) / 1e6, 3) == PARAMETERS[name]
