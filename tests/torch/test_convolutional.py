"""Networks for small devices, RegNets, the first deep ones: every block, and files both ways."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, convert  # noqa: E402

from ..common import applied, photos, rel  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
SIDES = (64, 49)  # An odd side tells the paddings apart.
LARGER = (96, 79)  # AlexNet pools smaller ones away.


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)
  torch.manual_seed(0)


def _torchvision(name, **fields):
  return live.torchvision().models.get_model(name, num_classes=5, **fields)


def _fused():
  """An EfficientNetV2 of three small stages."""
  efficient = live.torchvision().models.efficientnet
  rows = (
    efficient.FusedMBConvConfig(1, 3, 1, 8, 8, 2),
    efficient.FusedMBConvConfig(4, 3, 2, 8, 16, 2),
    efficient.MBConvConfig(4, 5, 2, 16, 24, 2),
  )
  return efficient.EfficientNet(rows, 0.1, num_classes=5, last_channel=32)


_FUSED = {
  "stem": 8,
  "stages": (
    (("plain", 3, 1, 0, 8, 0, "silu"),) * 2,
    (("fused", 3, 2, 32, 16, 0, "silu"), ("fused", 3, 1, 64, 16, 0, "silu")),
    (("inverted", 5, 2, 64, 24, 4, "silu"), ("inverted", 5, 1, 96, 24, 6, "silu")),
  ),
  "features": 32,
  "norm_eps": 1e-5,
}


def _reg_net():
  regnet = live.torchvision().models.regnet
  params = regnet.BlockParams([1, 2], [16, 32], [8, 8], [1.0, 1.0], [2, 2], 0.25)
  return regnet.RegNet(params, num_classes=5, stem_width=12)


_REG_NET = {"stem": 12, "depths": (1, 2), "widths": (16, 32), "group_width": 8}

TORCHVISION = {
  "mobilenetv2_035": (lambda: _torchvision("mobilenet_v2", width_mult=0.35), {}),
  "mnasnet0_5": (lambda: _torchvision("mnasnet0_5"), {}),
  "mobilenet_v3_small": (lambda: _torchvision("mobilenet_v3_small"), {}),
  "efficientnet_b0": (lambda: _torchvision("efficientnet_b0"), {}),
  "efficientnet_v2_s": (_fused, _FUSED),
  "regnet_y_400mf": (_reg_net, _REG_NET),
  "squeezenet1_1": (lambda: _torchvision("squeezenet1_1"), {}),
  "squeezenet1_0": (lambda: _torchvision("squeezenet1_0"), {}),
  "shufflenet_v2_x0_5": (lambda: _torchvision("shufflenet_v2_x0_5"), {}),
  "alexnet": (lambda: _torchvision("alexnet"), {}),
}
TIMM = (
  *("mobilenetv2_035", "semnasnet_050", "mobilenetv3_small_050", "tf_mobilenetv3_small_075"),
  *("efficientnet_lite0", "tf_efficientnet_b0", "tf_efficientnetv2_b0", "regnetx_002"),
)


def _inputs(sides=SIDES):
  seeded = np.random.RandomState(0)
  return [seeded.standard_normal((1, side, side, 3)).astype(np.float32) for side in sides]


def _compared(network, architecture, layout, fields):
  state = live.numpy_state(live.stirred(network))
  bundle = convert.from_state_dict(state, architecture, layout, fields=fields)
  sides = LARGER if architecture == "alexnet" else SIDES
  live.assert_computes_the_same(network, bundle, _inputs(sides), 3e-5)
  written = convert.to_state_dict(bundle)
  assert written.keys() == state.keys()
  assert all(np.array_equal(written[key], tensor) for key, tensor in state.items())
  model, variables = bcos_jax.bcosify(bundle.model, bundle.variables, ops=BcosOps.equivalent())
  images = photos(1, side=64)
  seen = np.asarray(bundle.model.ops.encoding(images)).transpose(0, 3, 1, 2)
  with torch.no_grad():
    expected = network(torch.from_numpy(seen.copy())).numpy()
  assert rel(applied(model)(variables, images), expected) <= 3e-5
  assert bcos_jax.explain(model, variables, images).completeness_error.max() <= 1e-5


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
  make, fields = TORCHVISION[name]
  _compared(make(), name, "torchvision", fields)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
  live.torchvision()
  import timm

  _compared(timm.create_model(name, num_classes=5), name, "timm", {})


@pytest.mark.parametrize("kind", ["x", "y"])
def test_hugging_face_reg_net(tmp_path, kind):
  live.torchvision()
  import transformers

  sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8}
  fields: Any = {**sizes, "layer_type": kind, "num_labels": 5}
  config = transformers.RegNetConfig(**fields)
  network = live.stirred(transformers.RegNetForImageClassification(config))
  network.save_pretrained(tmp_path)
  bundle = convert.from_pretrained(tmp_path, default_preprocess=True)
  live.assert_computes_the_same(network, bundle, _inputs())
