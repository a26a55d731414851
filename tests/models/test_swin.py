"""Swin Transformers: windows, shifts, positions, explanations, configurations, key tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, convert
from bcos_jax.convert.architectures.swin import KEYS, READERS
from bcos_jax.convert.detect import fits
from bcos_jax.errors import InputError
from bcos_jax.io.bundles import make_bundle
from bcos_jax.models import swin
from bcos_jax.models.blocks import windows

from ..common import (
  CLASSES,
  PRESETS,
  SIDE,
  applied,
  filled,
  flat,
  photos,
  rel,
  shapes,
  suggestion,
  tiny,
)

NAMES = ["swin_test", "swin_v2_test"]
IMAGES = photos(2)


# Parameters, as torchvision states and timm makes them.
SIZES = {
  "swin_t": 28_288_354,
  "swin_s": 49_606_258,
  "swin_b": 87_768_224,
  "swin_v2_t": 28_351_570,
  "swin_v2_s": 49_737_442,
  "swin_v2_b": 87_930_848,
  "swin_large_patch4_window7_224": 196_532_476,
  "swinv2_large_window12to24_192to384": 196_739_932,
}


@pytest.mark.parametrize(
  "name", ["swin_t", *(pytest.param(n, marks=pytest.mark.slow) for n in SIZES if n != "swin_t")]
)
def test_sizes_of_published_networks(name):
  model = bcos_jax.create(name, ops=StandardOps())
  count = sum(leaf.size for leaf in shapes(model).values())
  if name.startswith("swin_v2"):
    # torchvision counts the biases of keys, which its network takes for zero.
    count += sum(depth * model.width * 2**i for i, depth in enumerate(model.depths))
  assert count == SIZES[name]


# Windows.


def test_windows_are_put_back_where_they_were():
  x = np.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
  cut = windows.partition(x, 3)
  assert cut.shape == (2, 6, 9, 2)
  assert cut[1, 4].tolist() == x[1, 3:6, 3:6].reshape(9, 2).tolist()
  assert np.array_equal(windows.merge(cut, 3, 6, 9), x)


@pytest.mark.parametrize("shift", [(1, 1), (0, 1), (2, 0), (0, 0)])
def test_the_mask_joins_what_was_next_to_each_other(shift):
  """Beside one another in a window of the shifted map means one window away at most before."""
  height, width, window = 6, 9, 3
  mask = windows.shift_mask(height, width, window, shift)
  rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
  places = np.stack([rows, columns], -1)[None]
  places = windows.partition(np.roll(places, [-s for s in shift], axis=(1, 2)), window)[0]
  distance = np.abs(places[:, :, None] - places[:, None]).max(-1)
  assert np.array_equal(mask, distance < window)


def test_each_offset_has_its_row():
  index = windows.relative_index(3)
  assert index.shape == (9, 9) and set(index.reshape(-1)) == set(range(25))
  rows, columns = np.divmod(np.arange(9), 3)
  for i in range(9):
    for j in range(9):
      offset = (rows[i] - rows[j] + 2) * 5 + columns[i] - columns[j] + 2
      assert index[i, j] == offset


def test_a_shifted_window_sees_its_neighbours_only():
  """The derivative of one place reaches its window of the shifted map, and no further."""
  layer = windows.WindowAttention(StandardOps(), 2, 4, (2, 2))
  x = jnp.asarray(np.random.RandomState(0).standard_normal((1, 8, 8, 4)), jnp.float32)
  variables = layer.init(jax.random.key(0), x)

  @jax.jit
  def gradient(row, column):
    return jax.grad(lambda x: layer.apply(variables, x)[0, row, column].sum())(x)[0]

  def reach(row, column):
    seen = np.abs(np.asarray(gradient(row, column))).sum(-1) > 1e-12
    return np.argwhere(seen).min(0).tolist(), np.argwhere(seen).max(0).tolist()

  assert reach(3, 3) == ([2, 2], [5, 5])
  assert reach(0, 0) == ([0, 0], [1, 1])  # not the far corner, which the shift put beside it
  assert reach(7, 3) == ([6, 2], [7, 5])


@pytest.mark.parametrize(
  "rule, size, expected",
  [
    ("per_axis", (8, 8), (3, (1, 1))),
    ("per_axis", (3, 8), (3, (0, 1))),
    ("joint", (3, 8), (3, (0, 0))),
    ("joint", (4, 8), (3, (1, 1))),
    ("fixed", (3, 3), (3, (1, 1))),
  ],
)
def test_windows_of_maps(rule, size, expected):
  assert swin.window_and_shift(3, size, (8, 8), rule) == expected


def test_windows_shrink_to_small_maps():
  assert swin.window_and_shift(8, (16, 16), (4, 4), "fixed") == (4, (0, 0))


def test_merging_goes_column_by_column_and_fills_up():
  x = jnp.arange(1, 10).reshape(1, 3, 3, 1)
  merged = swin.merge_patches(x)
  assert merged.shape == (1, 2, 2, 4)
  assert merged[0, 0, 0].tolist() == [1, 4, 2, 5] and merged[0, 1, 1].tolist() == [9, 0, 0, 0]


# The network.


@pytest.mark.parametrize(
  "name, height, width",
  [("swin_test", 14, 22), ("swin_v2_test", 14, 22), ("swin_v2_test", 2, 18)],
)
def test_b_1_equals_at_sizes_that_hold_no_whole_windows(name, height, width):
  model = tiny(name, StandardOps())
  variables, images = filled(model), photos(2, side=24)[:, :height, :width]
  expected = applied(model)(variables, images)
  assert expected.shape == (2, CLASSES)
  twin, variables = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent())
  assert rel(applied(twin)(variables, images), expected) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bcosified_without_biases(name):
  model = tiny(name, StandardOps())
  _, made = bcos_jax.bcosify(model, filled(model))
  left = flat(made).keys()
  # What makes positions sees no image, and keeps its bias.
  assert all("/position_bias/" in path for path in left if path.endswith("/bias"))
  assert "params/stage0_1/attn/relative_position_bias" in left or name == "swin_v2_test"


@pytest.mark.parametrize(
  "name, preset",
  [
    ("swin_test", "standard"),
    ("swin_test", "v2"),
    ("swin_v2_test", "standard"),
    ("swin_v2_test", "bcosification"),
  ],
)
def test_explanations_are_complete(name, preset):
  model = tiny(name, PRESETS[preset])
  images = photos(2, side=20)[:, :14]
  ex = bcos_jax.explain(model, filled(model), images)
  assert ex.completeness_error.max() <= 1e-5
  assert ("bias" in ex.residuals) == (preset == "standard")


def test_what_is_bcos_is_what_is_requested():
  """A learned B stands in every B-cos map: never in queries, keys, values or positions."""
  learned = tiny("swin_v2_test", BcosOps(learn_b=True))
  found = {path.removesuffix("/b") for path in shapes(learned) if path.endswith("/b")}
  blocks = [f"params/stage{i}_{j}" for i, j in ((0, 0), (0, 1), (1, 0))]
  assert found == {
    "params/patch_embedding",
    *(f"{block}/{name}" for block in blocks for name in ("attn/out", "mlp_linear1", "mlp_linear2")),
    "params/merge0/reduction",
    "params/head",
  }


def test_logit_scales_are_clamped():
  model = tiny("swin_v2_test", StandardOps())
  variables = filled(model)
  scale = variables["params"]["stage0_0"]["attn"]["logit_scale"]

  def logits(value):
    variables["params"]["stage0_0"]["attn"]["logit_scale"] = np.full_like(scale, value)
    return applied(model)(variables, IMAGES)

  at_limit = logits(np.log(100))
  assert rel(logits(7), at_limit) <= 1e-6 and rel(logits(1), at_limit) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_without_classes_there_are_features(name):
  model = tiny(name, BcosOps(), num_classes=0)
  features = jax.eval_shape(applied(model), filled(model), IMAGES)
  assert features.shape == (2, 32) and features.dtype == jnp.float32
  assert not any("head" in path for path in shapes(model))


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"window_rule": "per_axes"}, suggestion("per_axis")),
    ({"activation": "gelo"}, suggestion("gelu")),
    ({"version": 3}, "version is 3"),
    ({"num_heads": (2,)}, r"\(2, 1\).*\(2,\)"),
    ({"num_heads": (3, 4)}, "16.*3 heads"),
    ({"patch_size": 3}, "16x16.*3x3"),
  ],
)
def test_fields_that_do_not_go_together(fields, message):
  model = tiny("swin_test", StandardOps(), **fields)
  with pytest.raises(InputError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))


# Configurations.

SWIN = {
  "model_type": "swin",
  "architectures": ["SwinForImageClassification"],
  "image_size": 32,
  "patch_size": 4,
  "num_channels": 3,
  "embed_dim": 16,
  "depths": [2, 1],
  "num_heads": [2, 4],
  "window_size": 3,
  "mlp_ratio": 4.0,
  "qkv_bias": True,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-5,
  "use_absolute_embeddings": False,
  "hidden_size": 32,
  "num_layers": 2,
  "encoder_stride": 32,
  "path_norm": True,
}
SWIN_V2 = {
  **SWIN,
  "model_type": "swinv2",
  "architectures": ["Swinv2ForImageClassification"],
  "pretrained_window_sizes": [0, 0, 0, 0],
}


def _read(config):
  reader = READERS[config["model_type"]]
  return bcos_jax.create(reader.architecture, ops=StandardOps(), **reader.read(config, config))


def test_configurations_become_networks():
  assert _read(SWIN) == tiny(
    "swin_test", StandardOps(), patch_size=4, image_size=32, num_classes=1000, window_rule="joint"
  )
  v2 = _read(SWIN_V2)
  assert v2 == tiny(
    "swin_v2_test",
    StandardOps(),
    patch_size=4,
    image_size=32,
    num_classes=1000,
    window_rule="fixed",
    mask_value=-200.0,
  )
  assert _read({**SWIN_V2, "architectures": ["Swinv2Model"]}).num_classes == 0
  grown = _read({**SWIN_V2, "pretrained_window_sizes": [12, 6, 0, 0]})
  assert grown.pretrained_windows == (12, 6)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"use_absolute_embeddings": True}, "use_absolute_embeddings is True"),
    ({"num_channels": 1}, "num_channels is 1"),
    ({"image_size": [32, 48]}, "expected a square"),
    ({"hidden_act": "mish"}, "hidden_act"),
    ({"architectures": ["SwinForMaskedImageModeling"]}, "SwinForMaskedImageModeling"),
    ({"pretrained_window_sizes": [0]}, "not understood"),
  ],
)
def test_configurations_that_are_not_understood(changes, message):
  with pytest.raises(InputError, match=message):
    _read({**SWIN, **changes})


# Key tables.

OWN_KEYS = {
  ("swin_test", "huggingface"): {
    "swin.encoder.layers.0.blocks.1.attention.self.query.bias": (16,),
    "swin.encoder.layers.0.blocks.1.attention.self.relative_position_bias_table": (25, 2),
    "swin.encoder.layers.0.downsample.reduction.weight": (32, 64),
    "swin.embeddings.patch_embeddings.projection.weight": (16, 3, 2, 2),
  },
  ("swin_v2_test", "huggingface"): {
    "swinv2.encoder.layers.1.blocks.0.attention.self.logit_scale": (4, 1, 1),
    "swinv2.encoder.layers.0.blocks.1.attention.self.value.bias": (16,),
    "swinv2.encoder.layers.0.downsample.norm.weight": (32,),
  },
  ("swin_test", "torchvision"): {
    "features.1.1.attn.qkv.bias": (48,),
    "features.2.norm.weight": (64,),
    "features.3.0.mlp.3.weight": (32, 128),
  },
  ("swin_v2_test", "torchvision"): {
    "features.1.1.attn.qkv.bias": (48,),
    "features.3.0.attn.cpb_mlp.2.weight": (4, 512),
  },
  ("swin_test", "timm"): {"layers.1.downsample.norm.weight": (64,), "head.fc.bias": (5,)},
  ("swin_v2_test", "timm"): {
    "layers.0.blocks.0.attn.q_bias": (16,),
    "layers.0.blocks.0.attn.cpb_mlp.0.bias": (512,),
  },
}


@pytest.mark.parametrize("name, source", OWN_KEYS)
def test_key_tables_round_trip(name, source):
  model = tiny(name, StandardOps())
  state = convert.to_state_dict(make_bundle(model, filled(model)), source)
  for key, shape in OWN_KEYS[name, source].items():
    assert state[key].shape == shape, key
  assert not any("key.bias" in key for key in state) or name == "swin_test"
  fields = {"patch_size": 2, "image_size": SIDE}
  bundle = convert.from_state_dict(state, name, fields=fields)
  assert bundle.model == model and bundle.config["provenance"]["source"] == source
  again = convert.to_state_dict(bundle)
  assert again.keys() == state.keys()
  assert all(again[key].tobytes() == tensor.tobytes() for key, tensor in state.items())


def test_indices_that_older_files_hold_are_kept_for_the_way_back():
  model = tiny("swin_test", StandardOps())
  state = convert.to_state_dict(make_bundle(model, filled(model)), "huggingface")
  key = "swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"
  state[key] = windows.relative_index(3)
  bundle = convert.from_state_dict(state, "swin_test", fields={"patch_size": 2})
  assert np.array_equal(convert.to_state_dict(bundle)[key], state[key])


def test_files_of_torchvision_fit_though_they_hold_biases_of_keys():
  model = tiny("swin_v2_test", StandardOps())
  state = convert.to_state_dict(make_bundle(model, filled(model)), "torchvision")
  keys = next(k for k in KEYS if (k.layout, k.form) == ("torchvision", "swin_v2"))
  assert sum(t.size for t in state.values()) > sum(leaf.size for leaf in shapes(model).values())
  assert fits(state, keys, model)
  assert not fits(state, keys, tiny("swin_v2_test", StandardOps(), width=32))
