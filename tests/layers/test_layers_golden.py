"""Every layer against numbers computed with the authors' code (tests/golden/README.md)."""

import pytest

from bcos_jax import BcosOps, StandardOps, layers
from bcos_jax import functional as F
from bcos_jax.models import blocks

from ..common import golden_layers, nhwc, pulled_back, rel

TOLERANCE = 1e-5
SPEC, DATA = golden_layers()
MAPS = [case for case in SPEC if case.startswith(("conv_", "linear_"))]
NORMS = {
  "AllNorm2d": (layers.BatchNorm, {"joint": True}),
  "BatchNorm2d": (layers.BatchNorm, {}),
  "DetachableGroupNorm2d": (layers.GroupNorm, {"num_groups": 4}),
  "DetachableGNInstanceNorm2d": (layers.GroupNorm, {"num_groups": None}),
  "DetachableGNLayerNorm2d": (layers.GroupNorm, {"num_groups": 1}),
  "DetachableLayerNorm": (layers.LayerNorm, {}),
  "DetachablePositionNorm2d": (layers.LayerNorm, {}),
  "AllNormUncentered2d": (layers.BatchNorm, {"joint": True, "centered": False}),
  "BatchNormUncentered2d": (layers.BatchNorm, {"centered": False}),
  "GroupNormUncentered2d": (layers.GroupNorm, {"num_groups": 4, "centered": False}),
  "GNInstanceNormUncentered2d": (layers.GroupNorm, {"num_groups": None, "centered": False}),
  "GNLayerNormUncentered2d": (layers.GroupNorm, {"num_groups": 1, "centered": False}),
  "PositionNormUncentered2d": (layers.LayerNorm, {"centered": False}),
}
"""Published class -> ours. The golden group norms have 4 groups of 2 channels."""


pytestmark = pytest.mark.user_compiler


def test_every_case_is_tested_somewhere():
  elsewhere = ("loss_", "agc_", "schedule_", "colour_explanation_", "gridpg_")
  here = {*MAPS, *(f"norm_{name}" for name in NORMS), "gelu_gate", "attention"}
  assert here == {case for case in SPEC if not case.startswith(elsewhere)}
  assert len(SPEC) == 61


def _map(case: str, detach: bool):
  spec = SPEC[case]
  fields = {
    "b": spec["b"],
    "max_out": spec["max_out"],
    "weights": "unit" if spec["weights"] == "normed" else "plain",
    "detach": detach,
  }
  weight = DATA[f"{case}/weight"]
  if spec["layer"] == "linear":
    features = weight.shape[0] // spec["max_out"]
    return layers.BcosDense(features, **fields), weight.T
  layer = layers.BcosConv(
    spec["out_channels"],
    (spec["kernel"],) * 2,
    strides=spec["stride"],
    padding=spec["padding"],
    feature_group_count=spec["groups"],
    kernel_dilation=spec["dilation"],
    **fields,
  )
  return layer, weight.transpose(2, 3, 1, 0)


@pytest.mark.parametrize("case", MAPS)
@pytest.mark.parametrize("mode", ["train", "explain"])
def test_map(case, mode):
  layer, kernel = _map(case, detach=mode == "explain")

  def array(name):
    value = DATA[f"{case}/{name}"]
    return nhwc(value) if SPEC[case]["layer"] == "conv2d" else value

  y, gradient = pulled_back(
    lambda x: layer.apply({"params": {"kernel": kernel}}, x), array("x"), array("cotangent")
  )
  assert rel(y, array("y")) <= TOLERANCE
  assert rel(gradient, array(f"{mode}_grad")) <= TOLERANCE


def _norm(name: str, **fields):
  cls, options = NORMS[name]

  def get(key):
    return DATA[f"norm_{name}/{key}"]

  def array(key):
    return nhwc(get(key)) if get(key).ndim == 4 else get(key)

  params = {"scale": get("param/weight"), "bias": get("param/bias")}
  return cls(**options, **fields), params, array, get


@pytest.mark.parametrize("name", NORMS)
def test_norm_eval_and_explanation(name):
  layer, params, array, get = _norm(name, detach=True)
  variables = {"params": params}
  if isinstance(layer, layers.BatchNorm):
    # The published modules were evaluated after the training step whose result is `y_train`.
    variables["batch_stats"] = {"var": get("new_running_var")}
    if layer.centered:
      variables["batch_stats"]["mean"] = get("new_running_mean")
  y, gradient = pulled_back(lambda x: layer.apply(variables, x), array("x"), array("cotangent"))
  assert rel(y, array("y_eval")) <= TOLERANCE
  assert rel(gradient, array("explain_grad")) <= TOLERANCE


@pytest.mark.parametrize("name", [n for n, (cls, _) in NORMS.items() if cls is layers.BatchNorm])
def test_batch_norm_training_and_running_statistics(name):
  layer, params, array, get = _norm(name)
  stats = {"var": get("param/running_var")}
  if layer.centered:
    stats["mean"] = get("param/running_mean")
  y, updated = layer.apply(
    {"params": params, "batch_stats": stats}, array("x"), train=True, mutable=["batch_stats"]
  )
  assert rel(y, array("y_train")) <= TOLERANCE
  assert updated["batch_stats"].keys() == stats.keys()
  for key, value in updated["batch_stats"].items():
    assert rel(value, get(f"new_running_{key}")) <= TOLERANCE


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_cases_tell_the_number_of_groups(groups):
  """The file does not say it; only one number fits, which keeps the cases above honest."""
  for name in ("DetachableGroupNorm2d", "GroupNormUncentered2d"):
    layer, params, array, _ = _norm(name)
    y = layer.clone(num_groups=groups).apply({"params": params}, array("x"))
    assert rel(y, array("y_eval")) > 1e-2


def test_gelu_gate():
  x, cotangent = DATA["gelu_gate/x"], DATA["gelu_gate/cotangent"]
  y, gradient = pulled_back(lambda x: F.gated(x, "gelu", detach=True), x, cotangent)
  assert rel(y, DATA["gelu_gate/y"]) <= TOLERANCE
  assert rel(gradient, DATA["gelu_gate/explain_grad"]) <= TOLERANCE
  for ops in (StandardOps(), BcosOps()):
    assert rel(ops.detached().act(x, "gelu"), DATA["gelu_gate/y"]) <= TOLERANCE


def test_attention():
  array = {
    name: DATA[f"attention/{name}"]
    for name in ("x", "y", "cotangent", "explain_grad", "norm_weight", "qkv", "out")
  }
  ops = BcosOps().detached()
  norm = layers.LayerNorm(use_bias=False, detach=True)
  attention = blocks.Attention(ops.detached(), num_heads=3, fused=True)
  params = {"qkv": {"kernel": array["qkv"].T}, "out": {"kernel": array["out"].T}}

  def branch(x):
    normalised = norm.apply({"params": {"scale": array["norm_weight"]}}, x)
    return attention.apply({"params": params}, normalised)

  y, gradient = pulled_back(branch, array["x"], array["cotangent"])
  assert rel(y, array["y"]) <= TOLERANCE
  assert rel(gradient, array["explain_grad"]) <= TOLERANCE
