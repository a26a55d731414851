"""CNNs of torchvision, timm and Hugging Face: every layer, and files both ways."""

import functools
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, convert  # noqa: E402
from bcos_jax.convert import readers  # noqa: E402

from ..common import applied, photos, rel  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
SHAPE = (80, 48)


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)
  torch.manual_seed(0)


@functools.cache
def _transformers():
  live.torchvision()
  import transformers

  return transformers


def _inputs(*shapes):
  seeded = np.random.RandomState(0)
  return [seeded.standard_normal((2, *shape, 3)).astype(np.float32) for shape in shapes]


def _assert_written_back(bundle, state):
  written = convert.to_state_dict(bundle)
  assert written.keys() == state.keys()
  for key, tensor in state.items():
    assert written[key].dtype == tensor.dtype and written[key].shape == tensor.shape, key
    assert written[key].tobytes() == np.ascontiguousarray(tensor).tobytes(), key


def _assert_b_1_equals_pytorch(network, bundle):
  """With biases, maxima and B=1, the B-cosified network computes the same and is explained."""
  model, variables = bcos_jax.bcosify(bundle.model, bundle.variables, ops=BcosOps.equivalent())
  images = photos(2, side=64)
  seen = np.asarray(bundle.model.ops.encoding(images)).transpose(0, 3, 1, 2)
  with torch.no_grad():
    expected = network(torch.from_numpy(seen.copy()))
  expected = getattr(expected, "logits", expected).numpy()
  assert rel(applied(model)(variables, images), expected) <= 1e-5
  assert bcos_jax.explain(model, variables, images).completeness_error.max() <= 1e-5


# The pair of a class and its configuration, and fields that make it small.
SMALL = {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 32, 32, 40]}
HUGGING_FACE = {
  "resnet": ("ResNetForImageClassification", "ResNetConfig", {**SMALL, "embedding_size": 8}),
  "resnet_basic": (
    "ResNetForImageClassification",
    "ResNetConfig",
    {**SMALL, "embedding_size": 16, "layer_type": "basic"},
  ),
  "resnet_model": ("ResNetModel", "ResNetConfig", {**SMALL, "embedding_size": 8}),
  "convnext": ("ConvNextForImageClassification", "ConvNextConfig", SMALL),
  "convnext_plain": (
    "ConvNextForImageClassification",
    "ConvNextConfig",
    {**SMALL, "layer_scale_init_value": 0.0, "hidden_act": "relu", "layer_norm_eps": 1e-6},
  ),
  "convnext_model": ("ConvNextModel", "ConvNextConfig", SMALL),
  "convnextv2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", SMALL),
  "convnextv2_model": ("ConvNextV2Model", "ConvNextV2Config", SMALL),
}


def _hugging_face(name, folder):
  """A random network, saved and read again by the package: (network, file, bundle)."""
  from safetensors.numpy import load_file

  network, config, fields = HUGGING_FACE[name]
  config = getattr(_transformers(), config)(**fields, num_labels=5)
  network = live.stirred(getattr(_transformers(), network)(config))
  network.save_pretrained(folder)
  bundle = convert.from_pretrained(folder, default_preprocess=True)
  return network, load_file(folder / "model.safetensors"), bundle


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name, tmp_path):
  network, state, bundle = _hugging_face(name, tmp_path)
  assert bundle.config["provenance"]["source"] == "huggingface"
  live.assert_computes_the_same(network, bundle, _inputs(SHAPE))
  _assert_written_back(bundle, state)


@pytest.mark.parametrize("name", ["resnet", "convnext", "convnextv2"])
def test_b_1_equals_hugging_face_and_explains(name, tmp_path):
  network, _, bundle = _hugging_face(name, tmp_path)
  _assert_b_1_equals_pytorch(network, bundle)


def _torchvision_networks():
  models = live.torchvision().models
  resnet, blocks = models.resnet, (1, 1, 1, 1)
  sizes = (16, 24, 32, 40, None)
  convnext = [
    models.convnext.CNBlockConfig(size, following, 1)
    for size, following in itertools.pairwise(sizes)
  ]
  return {
    "resnext": (
      resnet.ResNet(resnet.Bottleneck, blocks, 5, groups=4, width_per_group=16),
      "resnext50_32x4d",
      {"stages": blocks, "groups": 4, "width_per_group": 16},
    ),
    "wide_resnet": (
      resnet.ResNet(resnet.Bottleneck, blocks, 5, width_per_group=128),
      "wide_resnet50_2",
      {"stages": blocks},
    ),
    "densenet": (
      models.DenseNet(8, (2, 1, 2, 1), 16, num_classes=5),
      "densenet121",
      {"blocks": (2, 1, 2, 1), "growth": 8, "width": 16},
    ),
    "convnext": (
      models.ConvNeXt(convnext, num_classes=5, layer_scale=0.5),
      "convnext_tiny",
      {"stages": (1, 1, 1, 1), "widths": (16, 24, 32, 40)},
    ),
  }


@pytest.mark.parametrize(
  "name", ["resnext", pytest.param("wide_resnet", marks=pytest.mark.slow), "densenet", "convnext"]
)
def test_torchvision(name):
  network, architecture, fields = _torchvision_networks()[name]
  state = live.numpy_state(live.stirred(network))
  bundle = convert.from_state_dict(state, architecture, "torchvision", fields=fields)
  live.assert_computes_the_same(network, bundle, _inputs(SHAPE))
  _assert_written_back(bundle, state)
  _assert_b_1_equals_pytorch(network, bundle)


@pytest.mark.parametrize("with_norm", [False, True])
def test_torchvision_vgg(with_norm):
  """At sizes whose features are smaller and larger than the window, neither a multiple of it."""
  vgg = live.torchvision().models.vgg
  plan = [8, "M", 16, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"]
  network = vgg.VGG(vgg.make_layers(plan, with_norm), num_classes=5)
  network.classifier[0] = torch.nn.Linear(16 * 49, 32)
  network.classifier[3] = torch.nn.Linear(32, 32)
  network.classifier[6] = torch.nn.Linear(32, 5)
  state = live.numpy_state(live.stirred(network))
  bundle = convert.from_state_dict(
    state,
    "vgg11_bn" if with_norm else "vgg11",
    "torchvision",
    fields={"widths": (8, 16, 16, 16, 16), "hidden": 32},
  )
  live.assert_computes_the_same(network, bundle, _inputs((64, 96), (288, 256)))
  _assert_written_back(bundle, state)
  _assert_b_1_equals_pytorch(network, bundle)


def _timm_network(name):
  live.torchvision()
  import timm
  from timm.models import convnext

  small = {"depths": (1, 1, 2, 1), "dims": (16, 16, 32, 32), "num_classes": 5}
  ours = {"stages": (1, 1, 2, 1), "widths": (16, 16, 32, 32)}
  if name == "densenet":
    from timm.models.densenet import DenseNet

    network = DenseNet(8, (2, 1, 2, 1), num_classes=5)
    return network, "densenet121", {"blocks": (2, 1, 2, 1), "growth": 8, "width": 16}
  if name == "resnet":
    return timm.create_model("resnet18", num_classes=5), "resnet18", {}
  if name == "convnextv2":
    return convnext.ConvNeXt(**small, use_grn=True, ls_init_value=None), "convnextv2_tiny", ours
  return convnext.ConvNeXt(**small, ls_init_value=0.5), "convnext_tiny", ours


@pytest.mark.parametrize(
  "name", [pytest.param("resnet", marks=pytest.mark.slow), "densenet", "convnext", "convnextv2"]
)
def test_timm(name):
  network, architecture, fields = _timm_network(name)
  state = live.numpy_state(live.stirred(network))
  bundle = convert.from_state_dict(state, architecture, "timm", fields=fields)
  live.assert_computes_the_same(network, bundle, _inputs(SHAPE))
  _assert_written_back(bundle, state)


# Of a network of each kind, timm's arguments and our fields.
RESNETS = {
  "resnet18d": ({"stem_width": 4, "stem_type": "deep", "avg_down": True}, (4, 4, 8)),
  "resnet10t": ({"stem_width": 8, "stem_type": "deep_tiered", "avg_down": True}, (6, 8, 16)),
  "resnetblur18": ({"aa_layer": "blur"}, ()),
  "resnetaa34d": (
    {"stem_width": 4, "stem_type": "deep", "avg_down": True, "aa_layer": "avg"},
    None,
  ),
  "seresnet18": ({"block_args": {"attn_layer": "se"}}, ()),
  "ecaresnetlight": ({"avg_down": True, "block_args": {"attn_layer": "eca"}}, ()),
  "resnetrs50": (
    {
      "stem_width": 4,
      "stem_type": "deep",
      "avg_down": True,
      "replace_stem_pool": True,
      "block_args": {"attn_layer": "rs"},
    },
    None,
  ),
}


@pytest.mark.parametrize("name", RESNETS)
def test_variants_of_timm_resnets(name):
  live.torchvision()
  import timm
  from timm.models import resnet

  arguments, stem = RESNETS[name]
  arguments = {**arguments, "aa_layer": _anti_aliasing(arguments.get("aa_layer"))}
  if "block_args" in arguments:
    kind = arguments["block_args"]["attn_layer"]
    layer = functools.partial(timm.layers.SEModule, rd_ratio=0.25) if kind == "rs" else kind
    arguments["block_args"] = {"attn_layer": layer}
  fields = {"stages": (1, 1, 1, 1), "width": 64, "widths": (8, 12, 16, 24)}
  fields["deep_stem"] = (4, 4, 8) if stem is None else stem
  block = bcos_jax.create(name, ops=bcos_jax.StandardOps()).block
  network = resnet.ResNet(
    {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[block],
    (1, 1, 1, 1),
    num_classes=5,
    channels=(8, 12, 16, 24),
    **arguments,
  )
  state = live.numpy_state(live.stirred(network))
  bundle = convert.from_state_dict(state, name, "timm", fields=fields)
  # Anti-aliased by means, timm's networks read multiples of 32 only.
  shapes = ((64, 32),) if name == "resnetaa34d" else ((77, 45),)
  live.assert_computes_the_same(network, bundle, _inputs(*shapes))
  _assert_written_back(bundle, state)
  _assert_b_1_equals_pytorch(network, bundle)


def _anti_aliasing(kind):
  import timm

  return {None: None, "avg": torch.nn.AvgPool2d, "blur": timm.layers.BlurPool2d}[kind]


def test_every_configuration_has_a_reader():
  assert {"resnet", "convnext", "convnextv2"} <= readers.config_readers().keys()
