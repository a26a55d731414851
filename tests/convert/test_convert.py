"""Conversion as a bijection: every key counted, every bit kept, all problems reported."""

import dataclasses
import zlib

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, convert, models
from bcos_jax.convert import axes, porting
from bcos_jax.convert.tables import templates
from bcos_jax.convert.tables.keys import tables_of
from bcos_jax.errors import InputError
from bcos_jax.io.bundles import make_bundle

from ..common import filled, flat, golden_keys, shapes, suggestion, tiny, unflat

# Golden network, kind of its keys, architecture, source, family.
GOLDEN = [
  ("resnet18", "conventional", "torchvision", StandardOps()),
  ("resnet18", "bcosified", "bcosification", BcosOps()),
  ("v2_resnet18", "bcos", "bcos_v2", BcosOps.v2()),
  ("simple_vit_ti_patch16_224", "conventional", "bcos_v2", StandardOps()),
  ("simple_vit_ti_patch16_224", "bcosified", "bcosification", BcosOps()),
  ("v2_simple_vit_ti_patch16_224", "bcos", "bcos_v2", BcosOps.v2()),
  ("vitc_ti_patch1_14", "conventional", "bcos_v2", StandardOps()),
  ("vitc_ti_patch1_14", "bcosified", "bcosification", BcosOps()),
]


def _state(keys, seed=0):
  """Arbitrary bits under every key: also under those that the Flax network does not use."""
  state = {}
  for key, shape in keys.items():
    seeded = np.random.RandomState(zlib.crc32(f"{seed}/{key}".encode()))
    state[key] = (
      np.array(seeded.randint(1, 10**6), np.int64)
      if key.endswith("num_batches_tracked")
      else seeded.standard_normal(shape).astype(np.float32)
    )
  return state


def _assert_same(state, expected):
  assert state.keys() == expected.keys()
  for key, tensor in expected.items():
    assert isinstance(state[key], np.ndarray) and state[key].flags.c_contiguous, key
    assert state[key].dtype == tensor.dtype and state[key].shape == tensor.shape, key
    assert state[key].tobytes() == tensor.tobytes(), key


@pytest.mark.parametrize("name, kind, source, ops", GOLDEN)
def test_round_trip_bit_for_bit(name, kind, source, ops):
  architecture = name.removeprefix("v2_")
  state = _state(golden_keys(name)[kind])
  given = {key: tensor.copy() for key, tensor in state.items()}
  bundle = convert.from_state_dict(state, architecture)
  _assert_same(state, given)  # the input is left alone
  assert bundle.model == bcos_jax.create(architecture, ops=ops)
  assert bundle.config["provenance"]["source"] == source
  _assert_same(convert.to_state_dict(bundle), state)
  _assert_same(convert.to_state_dict(bundle, source), state)


def test_round_trip_through_a_saved_bundle(tmp_path):
  state = _state(golden_keys("v2_resnet18")["bcos"])
  bundle = convert.from_state_dict(state, "resnet18")
  folder = bcos_jax.save(
    tmp_path / "net",
    bundle.model,
    bundle.variables,
    extras=bundle.extras,
    provenance=bundle.config["provenance"],
  )
  _assert_same(convert.to_state_dict(bcos_jax.load(folder)), state)


@pytest.mark.parametrize("name, kind, source, ops", GOLDEN)
def test_fresh_networks_export_all_published_keys(name, kind, source, ops):
  """A network that did not come from PyTorch gets the values that a fresh module would have."""
  model = bcos_jax.create(name.removeprefix("v2_"), ops=ops)
  leaves = {path: np.ones(leaf.shape, leaf.dtype) for path, leaf in shapes(model).items()}
  state = convert.to_state_dict(make_bundle(model, unflat(leaves)), source)
  assert {key: list(tensor.shape) for key, tensor in state.items()} == golden_keys(name)[kind]
  for key, tensor in state.items():
    if key.endswith("num_batches_tracked"):
      assert tensor.dtype == np.int64 and tensor == 0
    elif key.endswith("running_mean") and kind != "conventional":
      assert tensor.dtype == np.float32 and not tensor.any()


def test_published_key_counts():
  """facts: ResNet-50 has 266 keys; its first and last are known."""
  model = bcos_jax.create("resnet50", ops=BcosOps.v2())
  leaves = {
    path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes(model).items()
  }
  state = convert.to_state_dict(make_bundle(model, unflat(leaves)), "bcos_v2")
  assert len(state) == 266
  assert state["layer1.0.conv1.linear.weight"].shape == (64, 64, 1, 1)
  assert state["fc.linear.weight"].shape == (1000, 2048, 1, 1)
  assert state["layer2.0.downsample.0.linear.weight"].shape == (512, 256, 1, 1)
  assert state["layer2.0.downsample.1.weight"].shape == (512,)


def test_memory_is_shared_with_nobody():
  """PyTorch trains in place: neither side may see what happens on the other."""
  state = _small()
  bundle = convert.from_state_dict(state, "resnet_tiny")
  exported = convert.to_state_dict(bundle)
  inside = [*flat(bundle.variables).values(), *bundle.extras.values()]
  for tensor in inside:
    assert not any(
      np.shares_memory(tensor, other) for other in [*state.values(), *exported.values()]
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_are_kept(dtype):
  model = tiny("resnet_tiny", StandardOps())
  state = convert.to_state_dict(make_bundle(model, filled(model)), "torchvision")
  state = {
    key: tensor.astype(dtype) if tensor.dtype == np.float32 else tensor
    for key, tensor in state.items()
  }
  bundle = convert.from_state_dict(state, "resnet_tiny", ops=model.ops)
  _assert_same(convert.to_state_dict(bundle), state)


def test_classes_are_read_off_the_head():
  for ops, source in ((StandardOps(), "torchvision"), (BcosOps.v2(), "bcos_v2")):
    model = bcos_jax.create("resnet_tiny", ops=ops, num_classes=7)
    state = convert.to_state_dict(make_bundle(model, filled(model)), source)
    bundle = convert.from_state_dict(state, "resnet_tiny", labels=list("abcdefg"))
    assert bundle.model.num_classes == 7 and bundle.labels == tuple("abcdefg")
    with pytest.raises(InputError, match=r"3 labels.*7 classes"):
      convert.from_state_dict(state, "resnet_tiny", labels=list("abc"))


def test_layout_of_values():
  """Known numbers land where they belong, not merely back where they were."""
  model = bcos_jax.create("resnet_tiny", ops=BcosOps.v2(), num_classes=3)
  variables = filled(model)
  state = convert.to_state_dict(make_bundle(model, variables), "bcos_v2")
  kernel = variables["params"]["conv1"]["kernel"]
  assert state["conv1.linear.weight"][5, 4, 1, 2] == kernel[1, 2, 4, 5]
  assert state["fc.linear.weight"][2, 7, 0, 0] == variables["params"]["head"]["kernel"][7, 2]
  standard = bcos_jax.create("simple_vit_tiny", ops=StandardOps())
  variables = filled(standard)
  state = convert.to_state_dict(make_bundle(standard, variables), "bcos_v2")
  block = variables["params"]["encoder_1"]
  assert np.array_equal(
    state["transformer.encoder_1.attn.to_qkv.weight"], block["attn"]["qkv"]["kernel"].T
  )
  assert np.array_equal(state["transformer.encoder_1.ff.net.norm.bias"], block["ff_norm"]["bias"])


@pytest.mark.parametrize(
  "layout, shape",
  [
    (axes.AS_IS, (5,)),
    (axes.CONV, (4, 3, 2, 5)),
    (axes.DENSE, (4, 3)),
    (axes.DENSE_AS_1X1, (4, 3, 1, 1)),
  ],
)
def test_layouts_have_exact_inverses(layout, shape):
  tensor = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
  there = layout.to_flax(tensor)
  assert np.array_equal(layout.to_torch(there), tensor)
  assert there.size == tensor.size


# Problems.


def _small():
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), num_classes=3)
  return convert.to_state_dict(make_bundle(model, filled(model)), "torchvision")


def test_every_problem_is_in_one_message():
  state = _small()
  state["layer1.0.conv1.wieght"] = state.pop("layer1.0.conv1.weight")  # renamed
  del state["layer2.0.bn2.running_var"]  # missing
  state["optimizer.step"] = np.zeros((), np.float32)  # extra
  state["layer1.1.conv1.weight"] = state["layer1.0.conv2.weight"]  # of a deeper network
  state["conv1.weight"] = state["conv1.weight"][:, :2]  # of another shape
  state["bn1.bias"] = state["bn1.bias"][None]  # of another rank
  with pytest.raises(InputError) as caught:
    convert.from_state_dict(state, "resnet_tiny", "torchvision")
  message = caught.value.cause
  for part in (
    "'layer1.0.conv1.wieght' [8, 8, 3, 3] is matched by 0 rules (nearest: 'layer1.0.conv1.weight')",
    "'layer1.0.conv1.weight' [8, 8, 3, 3] (for 'params/layer1_0/conv1/kernel') is missing",
    "'layer2.0.bn2.running_var' [16] (for 'batch_stats/layer2_0/bn2/var') is missing",
    "'optimizer.step' [] is matched by 0 rules",
    "'layer1.1.conv1.weight' [8, 8, 3, 3] belongs to 'params/layer1_1/conv1/kernel'",
    "nearest: 'params/layer1_0/conv1/kernel'",
    "'conv1.weight' has shape [8, 2, 7, 7], expected [8, 3, 7, 7]",
    "'bn1.bias' has shape [1, 8], expected [8]",
  ):
    assert part in message, message
  assert message.count("\n  ") == 7
  assert caught.value.fix


def test_missing_keys_are_named_with_their_own_shape():
  """The shape that the file should hold, PyTorch's, not the one of the Flax leaf."""
  state = _small()
  del state["conv1.weight"], state["fc.weight"]
  with pytest.raises(InputError) as caught:
    convert.from_state_dict(state, "resnet_tiny", "torchvision")
  assert "'conv1.weight' [8, 3, 7, 7] (for 'params/conv1/kernel') is missing" in caught.value.cause


def test_a_mis_shaped_key_is_one_problem():
  state = _small()
  state["conv1.weight"] = state["conv1.weight"][:, :2]
  with pytest.raises(InputError) as caught:
    convert.from_state_dict(state, "resnet_tiny", "torchvision")
  assert caught.value.cause.count("\n  ") == 1


def test_skipped_tensors_are_checked_as_well():
  """A counter or unused mean of a norm that does not exist, or of a wrong shape, is a problem."""
  state = _small()
  state["layer9.0.bn1.num_batches_tracked"] = np.array(1, np.int64)
  state["bn1.num_batches_tracked"] = np.zeros((4, 4), np.int64)
  with pytest.raises(InputError) as caught:
    convert.from_state_dict(state, "resnet_tiny", "torchvision")
  assert "layer9.0.bn1.num_batches_tracked" in caught.value.cause
  assert "'bn1.num_batches_tracked' has shape [4, 4]" in caught.value.cause


def test_missing_skipped_tensors_are_fine():
  """Older files have no counters; what comes back is the fresh value."""
  state = _small()
  del state["bn1.num_batches_tracked"]
  bundle = convert.from_state_dict(state, "resnet_tiny", "torchvision")
  assert convert.to_state_dict(bundle)["bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
  "architecture, source, message",
  [
    ("resnet_tiny", "torchvison", suggestion("torchvision")),
    ("simple_vit_tiny", "torchvision", "layout of a SimpleViT 'torchvision'"),
    ("resnet_50", None, suggestion("resnet50")),
    ("resnet_tiny", "bcos_v2", "conv1.weight"),
    ("resnet_tiny_bottleneck", "torchvision", "conv3"),
    ("simple_vit_tiny", None, "layer1.0.conv1.weight"),
  ],
)
def test_wrong_source_or_architecture(architecture, source, message):
  with pytest.raises(InputError, match=message):
    convert.from_state_dict(_small(), architecture, source)


def test_source_is_never_guessed_when_writing():
  """B-cos v2 and B-cosification share most keys, but not what their weights mean."""
  model = tiny("resnet_tiny", BcosOps())
  with pytest.raises(InputError, match="'bcos_v2', 'bcosification', 'hugg"):
    convert.to_state_dict(make_bundle(model, filled(model)))


def test_the_same_keys_are_not_the_same_weights():
  """Plain weights under the keys of unit-norm ones would be another function."""
  for ops, source in ((BcosOps(), "bcos_v2"), (BcosOps.v2(), "bcosification")):
    model = tiny("resnet_tiny", ops)
    with pytest.raises(InputError, match="BcosOps"):
      convert.to_state_dict(make_bundle(model, filled(model)), source)


def test_empty_state_dict():
  with pytest.raises(InputError, match="is missing"):
    convert.from_state_dict({}, "resnet_tiny")


def test_networks_without_keys_are_refused():
  """What the source never had (biases, learned B) is not silently left out."""
  for fields in ({"use_bias": True}, {"learn_b": True}):
    model = tiny("resnet_tiny", BcosOps(**fields))
    with pytest.raises(InputError, match="has no place for"):
      convert.to_state_dict(make_bundle(model, filled(model)), "bcosification")
  standard = tiny("resnet_tiny", StandardOps())
  with pytest.raises(InputError, match="StandardOps"):
    convert.to_state_dict(make_bundle(standard, filled(standard)), "bcos_v2")
  with pytest.raises(InputError, match=suggestion("torchvision")):
    convert.to_state_dict(make_bundle(standard, filled(standard)), "torchvison")


# Rules.


def test_templates_read_and_write_alike():
  template = "layer{i}.{j}.conv{k}.weight"
  assert templates.parse(template, "layer3.12.conv2.weight") == {"i": "3", "j": "12", "k": "2"}
  assert templates.render(template, {"i": "3", "j": "12", "k": "2"}) == "layer3.12.conv2.weight"
  for name in (
    "layer3.12.conv2.weights",
    "xlayer3.12.conv2.weight",
    "layer3.12.convx.weight",
    "layer3.12.conv2xweight",
    "layer3.12.conv2.weight\n",
    "layer.1.conv2.weight",
  ):
    assert templates.parse(template, name) is None
  assert templates.parse("a{i}.b{i}", "a1.b1") == {"i": "1"}
  assert templates.parse("a{i}.b{i}", "a1.b2") is None


def test_ambiguous_tables_are_reported():
  table = (convert.Rule("a{i}", "params/a{i}"), convert.Rule("a1", "params/b"))
  with pytest.raises(InputError, match=r"'a1'.*2 rules"):
    porting.port({"a1": np.zeros(2)}, table, {"params/a1": np.zeros(2)})
  table = (convert.Rule("a{i}", "params/x"), convert.Rule("b", "params/x"))
  with pytest.raises(InputError, match=r"'params/x'.*'b'"):
    porting.port({"a1": np.zeros(2), "b": np.zeros(2)}, table, {"params/x": np.zeros(2)})
  with pytest.raises(InputError, match=r"'params/x'.*2 rules"):
    porting.export(
      {"params/x": np.zeros(2)}, (convert.Rule("a", "params/x"), convert.Rule("b", "params/x")), {}
    )
  with pytest.raises(InputError, match=r"'params/y'.*0 rules"):
    porting.export({"params/y": np.zeros(2)}, table, {})


def test_scalars_stay_scalars():
  table = (convert.Rule("b", "params/b"),)
  leaves, _ = porting.port({"b": np.array(1.5)}, table, {"params/b": np.array(0.0)})
  assert leaves["params/b"].shape == ()
  assert porting.export(leaves, table, {})["b"].shape == ()


def _shallow(model):
  """Returns a network with one block, or one a stage: tables number blocks, they do not count."""
  fields = {name: getattr(model, name, None) for name in ("depth", "stages", "blocks", "depths")}
  ones = {n: (1,) * len(v) if isinstance(v, tuple) else 1 for n, v in fields.items() if v}
  return model.clone(**ones)


def test_tables_name_every_leaf_once():
  """Every leaf of every family that a table serves is written by exactly one rule.

  Where a source has several layouts, each serves some networks only: none writes a leaf twice, and
  every conventional network is served by one.
  """
  for name in bcos_jax.names():
    conventional = bcos_jax.create(name, ops=StandardOps())
    if getattr(conventional, "image_size", 0) > 32 or name in ("resnet32", "resnet44", "resnet56"):
      continue  # These are deeper, and no other.
    if getattr(conventional, "reads", "") == "text" and conventional.width > 32:
      continue
    conventional = _shallow(conventional)
    has_classes = any(field.name == "num_classes" for field in dataclasses.fields(conventional))
    served = []
    for keys in tables_of(models.architecture_of(conventional)):
      bare = has_classes and (keys.form or keys.layout == "aloe")
      classes = {"num_classes": 0} if bare else {}
      model = _shallow(bcos_jax.create(name, ops=keys.ops, **classes))
      if not keys.fits(model):
        continue
      table = keys.of(model).table
      targets = [t for e in table if isinstance(e, convert.Rule) for t in e.targets]
      counts = [
        sum(templates.parse(t, path) is not None for t in targets) for path in shapes(model)
      ]
      assert max(counts) == 1, (keys.layout, keys.form, name)
      served.append(min(counts))
      assert classes or served[-1] or not has_classes, (keys.layout, name)
    assert not served or any(served) or name == "aloe_test", name
