"""Architectures: names, sizes, shapes, and finite outputs for extreme images."""

import copy
import dataclasses
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, models
from bcos_jax import ops as families
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.models import describe, simple_vit

from ..common import (
  CLASSES,
  PRESETS,
  SIDE,
  TINY,
  applied,
  filled,
  flat,
  photos,
  rel,
  shapes,
  suggestion,
  tiny,
  unflat,
)

PUBLISHED = (
  *(f"resnet{n}" for n in (18, 34, 50, 101, 152, 20, 32, 44, 56)),
  *(f"simple_vit_{size}_patch16_224" for size in ("ti", "s", "b", "l")),
  *(f"vitc_{size}_patch1_14" for size in ("ti", "s", "b", "l")),
)


def _count(model, collection="params"):
  return sum(leaf.size for path, leaf in shapes(model).items() if path.startswith(collection))


def test_names():
  assert set(PUBLISHED) <= set(bcos_jax.names())
  assert set(TINY) <= {*bcos_jax.names(), *models.test_variants()}
  assert len(set(bcos_jax.names())) == len(bcos_jax.names())


# Parameters of the published networks: B-cos v2 as its authors count them (millions), and the
# conventional ones of torchvision.
BCOS_MILLIONS = {
  "resnet18": 11.693,
  "resnet50": 25.539,
  "simple_vit_ti_patch16_224": 5.800,
  "vitc_ti_patch1_14": 5.319,
}
TORCHVISION = {
  "resnet18": 11_689_512,
  "resnet34": 21_797_672,
  "resnet50": 25_557_032,
  "resnet101": 44_549_160,
  "resnet152": 60_192_808,
}
# With 1x1 convolutions where the shortcut changes shape.
CIFAR = {"resnet20": 272_474, "resnet32": 466_906, "resnet44": 661_338, "resnet56": 855_770}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_published_networks(name):
  standard, bcos = (bcos_jax.create(name, ops=ops) for ops in (StandardOps(), BcosOps.v2()))
  if name in TORCHVISION | CIFAR:
    assert _count(standard) == (TORCHVISION | CIFAR)[name]
  if name in BCOS_MILLIONS:
    assert round(_count(bcos) / 1e6, 3) == BCOS_MILLIONS[name]
    # Both families name their parts alike.
    assert shapes(bcos).keys() <= shapes(standard).keys()
    assert not any(path.endswith(("bias", "mean")) for path in shapes(bcos))
  if name in CIFAR:
    assert bcos.num_classes == 10 and bcos.image_size == 32
  else:
    assert bcos.num_classes == 1000 and bcos.image_size == 224


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("preset", ["standard", "equivalent", "v1"])
def test_explanation_mode_shares_the_parameters(name, preset):
  model = tiny(name, PRESETS[preset])
  assert shapes(model) == shapes(model.clone(ops=model.ops.detached()))


KEYS = {
  ("resnet18", "params/conv1/kernel"): (7, 7, 6, 64),
  ("resnet18", "params/layer1_0/conv1/kernel"): (3, 3, 64, 64),
  ("resnet18", "params/head/kernel"): (512, 1000),
  ("resnet18", "batch_stats/layer2_0/downsample_bn/var"): (128,),
  ("resnet50", "params/layer1_0/conv1/kernel"): (1, 1, 64, 64),
  ("resnet50", "params/head/kernel"): (2048, 1000),
  ("simple_vit_ti_patch16_224", "params/patch_embedding/kernel"): (1536, 192),
  ("simple_vit_ti_patch16_224", "params/encoder_0/attn/qkv/kernel"): (192, 576),
  ("simple_vit_ti_patch16_224", "params/encoder_11/ff_linear1/kernel"): (192, 768),
  ("simple_vit_ti_patch16_224", "params/head/kernel"): (192, 1000),
  ("vitc_ti_patch1_14", "params/stem0_conv/kernel"): (3, 3, 6, 24),
  ("vitc_ti_patch1_14", "params/patch_embedding/kernel"): (192, 192),
  ("simple_vit_l_patch16_224", "params/encoder_13/attn/out/kernel"): (1024, 1024),
  ("vitc_l_patch1_14", "params/stem5_conv/kernel"): (3, 3, 256, 512),
}


@pytest.mark.parametrize("name, path", KEYS)
def test_shapes_of_published_keys(name, path):
  assert shapes(bcos_jax.create(name, ops=BcosOps.v2()))[path].shape == KEYS[name, path]


@pytest.mark.parametrize(
  "name, depth",
  [
    ("simple_vit_ti_patch16_224", 12),
    ("simple_vit_l_patch16_224", 14),
    ("vitc_s_patch1_14", 11),
    ("vitc_l_patch1_14", 13),
  ],
)
def test_depths(name, depth):
  blocks = {path.split("/")[1] for path in shapes(bcos_jax.create(name, ops=StandardOps()))}
  assert sum(block.startswith("encoder_") for block in blocks) == depth


def test_only_attention_is_without_bias_in_conventional_vits():
  leaves = shapes(tiny("vitc_tiny", StandardOps()))
  kernels = {path.removesuffix("/kernel") for path in leaves if path.endswith("kernel")}
  without = {path for path in kernels if f"{path}/bias" not in leaves}
  assert without == {f"params/encoder_{i}/attn/{part}" for i in range(2) for part in ("qkv", "out")}


def test_positions_are_the_published_ones():
  table = np.asarray(simple_vit.sincos_positions(2, 3, 8))
  omega = [1.0, 1e-4]  # 10000^(-i / (8/4 - 1))
  for row, column in np.ndindex(2, 3):
    expected = (
      [np.sin(column * w) for w in omega]
      + [np.cos(column * w) for w in omega]
      + [np.sin(row * w) for w in omega]
      + [np.cos(row * w) for w in omega]
    )
    assert rel(table[row * 3 + column], expected) <= 1e-6


def test_patches_have_channels_fastest():
  image = np.arange(4 * 6 * 2).reshape(1, 4, 6, 2)
  patches = np.asarray(simple_vit.patchify(jnp.asarray(image), 2))
  assert patches.shape == (1, 2, 3, 8)
  assert patches[0, 1, 2].tolist() == image[0, 2:4, 4:6].reshape(-1).tolist()


# Values.

# Between them every kind of layer; the stem of a ViTc is made of the convolutions of the first.
SMALLEST = {"resnet_tiny": {"stages": (1,)}, "simple_vit_tiny": {"depth": 1}}


@pytest.mark.parametrize(
  "name, preset",
  [
    *(("resnet_tiny", preset) for preset in ("standard", "v1", "v2")),
    ("simple_vit_tiny", "bcosification"),
  ],
)
def test_black_and_white_images_train_and_infer(name, preset):
  """Logits, and every gradient of a training loss, with black, white and half-black images."""
  model = tiny(name, PRESETS[preset], **SMALLEST[name])
  variables = filled(model)
  images = np.stack(
    [
      np.zeros((SIDE, SIDE, 3)),
      np.ones((SIDE, SIDE, 3)),
      np.tile(np.arange(SIDE) < SIDE // 2, (3, SIDE, 1)).T,
    ]
  ).astype(np.float32)

  def loss(params, images):
    logits, updates = model.apply(
      {**variables, "params": params},
      model.ops.encoding(images),
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.mean(jax.nn.softplus(logits)), (logits, updates)

  (_, (logits, updates)), gradients = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  )(variables["params"], images)
  assert logits.shape == (3, CLASSES) and logits.dtype == jnp.float32
  for leaf in jax.tree.leaves((logits, updates, gradients)):
    assert np.isfinite(leaf).all()
  assert updates.get("batch_stats", {}).keys() == variables.get("batch_stats", {}).keys()


@pytest.mark.parametrize(
  "name, preset", [("resnet_tiny", "v2"), ("simple_vit_tiny", "bcosification")]
)
def test_gradients_do_not_depend_on_the_way_they_are_computed(name, preset):
  """A B of 2 has a backward pass of its own; a learned B that is 2 has the general one. They
  differ by the published epsilon under the power alone."""
  fixed = tiny(name, PRESETS[preset], **SMALLEST[name])
  general = tiny(name, dataclasses.replace(PRESETS[preset], learn_b=True), **SMALLEST[name])
  variables, images = filled(fixed), photos(3)
  leaves = {
    path: np.full(leaf.shape, 2.0, leaf.dtype) if path.endswith("/b") else flat(variables)[path]
    for path, leaf in shapes(general).items()
  }

  def gradients(model, variables):
    def loss(params, x):
      logits, _ = model.apply(
        {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
      )
      return jnp.mean(jax.nn.softplus(3 * logits))

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], model.ops.encoding(images))

  (params, x), (general_params, general_x) = (
    gradients(fixed, variables),
    gradients(general, unflat(leaves)),
  )
  assert rel(x, general_x) <= 1e-4
  for path, leaf in flat(params).items():
    assert rel(leaf, flat(general_params)[path]) <= 1e-4, path


@pytest.mark.parametrize("name", SMALLEST)
def test_bfloat16_is_finite_and_close_and_keeps_float32_where_it_counts(name):
  model, low = (tiny(name, BcosOps(dtype=dtype), **SMALLEST[name]) for dtype in (None, "bfloat16"))
  variables = filled(model)
  assert shapes(low) == shapes(model)  # parameters and statistics stay float32
  images = np.concatenate([photos(2), np.zeros((1, SIDE, SIDE, 3), np.float32)])

  def loss(params):
    logits, updates = low.apply(
      {**variables, "params": params}, low.ops.encoding(images), train=True, mutable=["batch_stats"]
    )
    return jnp.mean(jax.nn.softplus(logits)), (logits, updates)

  gradients, (logits, updates) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  for leaf in jax.tree.leaves((gradients, logits, updates)):
    assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
  assert rel(applied(low)(variables, images), applied(model)(variables, images)) <= 2e-2


def test_initialisation_is_the_published_one():
  """Kaiming normal (fan out) for convolutions; PyTorch's uniform for dense maps."""
  model = bcos_jax.create("resnet_tiny", ops=BcosOps.v2(), width=64)
  x = jnp.zeros((1, SIDE, SIDE, 6))
  params = jax.jit(model.init)(jax.random.key(0), x)["params"]
  kernel = params["layer2_0"]["conv2"]["kernel"]  # 3x3, 128 -> 128
  assert abs(float(kernel.std()) / np.sqrt(2 / (9 * 128)) - 1) < 0.02
  head = params["head"]["kernel"]
  assert abs(float(jnp.abs(head).max()) * np.sqrt(head.shape[0]) - 1) < 0.05
  assert abs(float(head.std()) * np.sqrt(3 * head.shape[0]) - 1) < 0.1
  assert np.all(params["bn1"]["scale"] == 1)


def test_fully_convolutional_networks_take_any_size():
  model = tiny("resnet_tiny", BcosOps())
  logits = jax.eval_shape(model.apply, filled(model), jnp.zeros((1, 24, 20, 6)))
  assert logits.shape == (1, CLASSES)


def test_rows_of_a_batch_are_independent_in_inference():
  model = tiny("resnet_tiny", BcosOps())
  variables, x = filled(model), model.ops.encoding(photos(3))
  apply = jax.jit(model.apply)
  assert rel(apply(variables, x)[1:2], apply(variables, x[1:2])) <= 1e-5


# Construction.


@pytest.mark.parametrize(
  "name, near",
  [
    ("resnet_18", "resnet18"),
    ("ResNet50", "resnet50"),
    ("resnet19", "resnet1"),
    ("simple_vit_ti_patch16", "simple_vit_ti_patch16_224"),
    ("vitc_ti_patch14_1", "vitc_ti_patch"),
  ],
)
def test_unknown_architecture_names_the_nearest(name, near):
  with pytest.raises(InputError) as caught:
    bcos_jax.create(name, ops=StandardOps())
  assert repr(name) in caught.value.cause and suggestion(near).rstrip("'") in caught.value.fix


def test_name_far_from_all_counts_them():
  with pytest.raises(InputError, match=rf"{len(bcos_jax.names())}.*in all") as caught:
    bcos_jax.create("qqqqqqqq", ops=StandardOps())
  assert "Did you mean" not in caught.value.fix


def test_name_far_from_few_lists_them():
  error = unknown_name("pool", "qqqqqqqq", ("average", "max"))
  assert error.fix.endswith("average, max.")


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"num_clases": 3}, "num_clases.*" + suggestion("num_classes")),
    ({"num_classes": -2}, "num_classes is -2"),
    ({"num_classes": 2.5}, "num_classes is 2.5"),
    ({"num_classes": "10"}, "num_classes is '10'"),
    ({"ops": "bcos"}, "'bcos'.*layer family"),
    ({"ops": BcosOps}, "layer family"),
    ({"image_size": 0}, "image_size is 0"),
    ({"block": "bottlenek"}, "bottlenek.*" + suggestion("bottleneck")),
  ],
)
def test_create_refuses(fields, message):
  with pytest.raises(InputError, match=message):
    model = bcos_jax.create("resnet_tiny", **{"ops": StandardOps(), **fields})
    shapes(model)


@pytest.mark.parametrize("name", ["simple_vit_tiny", "vit_test", "convnext_test", "swin_test"])
def test_patches_have_a_side(name):
  with pytest.raises(InputError, match="patch_size is 0"):
    bcos_jax.create(name, ops=BcosOps(), patch_size=0)


def test_fields_become_plain_values():
  """Equal networks are one key of compiled functions, however their numbers were written."""
  plain = bcos_jax.create("resnet_tiny", ops=BcosOps(b=1.5), num_classes=7, stages=(1, 2))
  other = bcos_jax.create(
    "resnet_tiny", ops=BcosOps(b=np.float32(1.5)), num_classes=np.int64(7), stages=[1, np.int8(2)]
  )
  assert other == plain and hash(other) == hash(plain)
  assert type(other.num_classes) is int and type(other.ops.b) is float


@pytest.mark.parametrize(
  "name, fields, side, message",
  [
    ("simple_vit_tiny", {}, 20, "20x20 pixels.*8x8"),
    ("simple_vit_tiny", {"num_heads": 3}, 16, "Width 32.*3 heads"),
    ("simple_vit_tiny", {"width": 30, "num_heads": 2}, 16, "30"),
    ("simple_vit_tiny", {"width": 4, "num_heads": 2}, 16, "4"),
    ("vitc_tiny", {"patch_size": 3}, 16, "2x2 pixels.*3x3"),
  ],
)
def test_sizes_that_do_not_divide(name, fields, side, message):
  model = tiny(name, BcosOps(), **fields)
  with pytest.raises(InputError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 6)))


@pytest.mark.parametrize("name", ["resnet_tiny", "vitc_tiny"])
@pytest.mark.parametrize("shape", [(1, SIDE, SIDE, 3), (SIDE, SIDE, 6), (1, 6, SIDE, SIDE)])
def test_networks_want_encoded_images(name, shape):
  """Plain colours given to the network itself are not taken for encoded ones."""
  model = tiny(name, BcosOps())
  with pytest.raises(InputError, match=r"expected encoded images \[N, H, W, 6\].*encoding"):
    jax.eval_shape(model.apply, filled(model), jnp.zeros(shape))


@pytest.mark.parametrize(
  "fields, near",
  [
    ({"pool": "averge"}, "average"),
    ({"norm": "batch_uncentred"}, "batch_uncentered"),
    ({"head_order": "head_frist"}, "head_first"),
    ({"token_head_order": "pool_fist"}, "pool_first"),
    ({"dtype": "bf16"}, "bfloat16"),
    ({"param_dtype": "flot32"}, "float32"),
  ],
)
def test_ops_refuse_unknown_options(fields, near):
  with pytest.raises(InputError, match=suggestion(near)):
    BcosOps(**fields)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"logit_temperature": 0}, "logit_temperature is 0"),
    ({"logit_temperature": float("nan")}, "logit_temperature is nan"),
    ({"dtype": int}, "dtype 'int"),
    ({"param_dtype": None}, "param_dtype"),
  ],
)
def test_ops_refuse_unusable_values(fields, message):
  with pytest.raises(InputError, match=message):
    BcosOps(**fields)


def test_dtypes_are_kept_as_names():
  assert BcosOps(dtype=jnp.bfloat16, param_dtype=np.float32) == BcosOps(dtype="bfloat16")


def test_ops_from_plain_values():
  from bcos_jax import ops

  for preset in PRESETS.values():
    assert ops.from_dict(ops.to_dict(preset)) == preset
  assert ops.from_dict({"family": "bcos_v2", "b": 1.5}) == BcosOps.v2(b=1.5)
  assert ops.from_dict({"family": "standard"}) == StandardOps()
  # Part of a nested value leaves the rest as the preset has it.
  plain = ops.from_dict({"family": "bcos_v2", "encoding": {"pairing": "negated"}}).encoding
  assert plain == dataclasses.replace(BcosOps.v2().encoding, pairing="negated")
  for fields, message in (
    ({"family": "bcoss"}, suggestion("bcos")),
    ({}, "family None"),
    ({"family": "bcos", "weight": "unit"}, suggestion("weights")),
    ({"family": "bcos", "implementation": 1}, "'implementation'"),
    ({"family": "aloe", "implementation": 3}, "expected 1 or 2"),
    ({"family": "standard", "b": 2.0}, "field of the 'standard' ops 'b'"),
    ({"family": "bcos", "b": 0.5}, "at least 1"),
    ({"family": "bcos", "encoding": {"pairing": "negatd"}}, suggestion("negated")),
    ({"family": "bcos", "encoding": {"pairng": "none"}}, suggestion("pairing")),
    ({"family": "bcos", "conv_guard": {"epsilon": 1e-5}}, "'epsilon'"),
    ({"family": "bcos", "encoding": 3}, "encoding is 3, expected some of its fields: mean, std"),
    ({"family": "bcos", "weights": "units"}, suggestion("unit")),
  ):
    with pytest.raises(InputError, match=message):
      ops.from_dict(fields)


@pytest.mark.parametrize(
  "make",
  [BcosOps, BcosOps.equivalent, BcosOps.v1, BcosOps.v2, BcosOps.lm, BcosOps.aloe],
  ids=lambda make: make.__name__,
)
def test_unknown_fields_name_the_nearest(make):
  with pytest.raises(InputError, match=r"field of BcosOps 'wieghts'.*" + suggestion("weights")):
    make(wieghts="unit")


def test_fields_of_the_other_family_are_unknown():
  with pytest.raises(InputError, match="field of StandardOps 'weights'"):
    StandardOps(weights="unit")
  with pytest.raises(InputError, match=suggestion("learn_b")):
    dataclasses.replace(BcosOps(), laern_b=True)


@pytest.mark.parametrize("ops", PRESETS.values(), ids=PRESETS)
def test_families_travel(ops):
  again = pickle.loads(pickle.dumps(ops))
  for other in (again, copy.deepcopy(ops), dataclasses.replace(ops)):
    assert other == ops and hash(other) == hash(ops)
  assert "encoding" in inspect.signature(type(ops)).parameters


def test_aloe_has_two_implementations():
  assert families.from_dict({"family": "aloe", "implementation": 1}) == BcosOps.aloe(
    implementation=1
  )
  assert BcosOps.aloe() == BcosOps.aloe(implementation=2)
  assert BcosOps.aloe().weights == "cosine" and BcosOps.aloe(implementation=1).weights == "plain"
  with pytest.raises(InputError, match="3"):
    BcosOps.aloe(implementation=3)


def test_equal_families_are_one_key():
  assert BcosOps(b=2) == BcosOps(b=2.0) and hash(BcosOps(b=2)) == hash(BcosOps(b=2.0))
  assert BcosOps.v2().detached() == BcosOps.v2(detach=True)
  assert BcosOps().detached() != BcosOps()
  assert not BcosOps.v2().detach and BcosOps.v2().detached().detach


def test_describe_is_the_inverse_of_create():
  for name in bcos_jax.names():
    own = {field.name for field in dataclasses.fields(bcos_jax.create(name, ops=BcosOps()))}
    for fields in ({}, {"num_classes": 7}, {"image_size": 64}):
      if not fields.keys() <= own:  # a text tower
        continue
      model = bcos_jax.create(name, ops=BcosOps(), **fields)
      found, changed = describe(model)
      assert bcos_jax.create(found, ops=model.ops, **changed) == model
      if not fields:  # several names may stand for the same sizes
        assert changed == {} and bcos_jax.create(name, ops=BcosOps()) == model
