"""Folders of timm 1.0: model_args, pretrained_cfg, labels; files without any configuration."""

import json

import numpy as np
import pytest

import bcos_jax
from bcos_jax import StandardOps, convert, models
from bcos_jax.convert import imagenet, sizes
from bcos_jax.convert.plan import plan
from bcos_jax.convert.readers import timm
from bcos_jax.errors import InputError
from bcos_jax.inputs import Preprocess
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import write_safetensors

from ..common import filled

VIT = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 48, "depth": 1, "num_heads": 3}
OURS = {"width": 48, "depth": 1, "num_heads": 3, "mlp_dim": 192}
SWIN = {"width": 12, "depths": (1, 1), "num_heads": (1, 2)}


def config(name, **arguments):
  """What `timm.models.save_for_hf` writes, as of timm 1.0.31."""
  colors = arguments.get("in_chans", 3)
  size = arguments.get("img_size", 224)
  sides = (size, size) if isinstance(size, int) else size
  classes = arguments.get("num_classes", 1000)
  return {
    "architecture": name,
    "num_classes": classes,
    "num_features": 192,
    "global_pool": arguments.get("global_pool", "token"),
    "model_args": {"num_classes": classes, "in_chans": colors, **arguments},
    "pretrained_cfg": {
      "tag": "augreg_in21k_ft_in1k",
      "custom_load": False,
      "input_size": [colors, *sides],
      "fixed_input_size": True,
      "interpolation": "bicubic",
      "crop_pct": 0.9,
      "crop_mode": "center",
      "mean": [0.5] * colors,
      "std": [0.5] * colors,
      "num_classes": classes,
    },
  }


def folder(path, content, model):
  path.mkdir()
  (path / "config.json").write_text(json.dumps(content))
  file(path / "model.safetensors", model)
  return path


def file(path, model):
  bundle = make_bundle(model, filled(model))
  write_safetensors(path, convert.to_state_dict(bundle, "timm"))
  return path


def vit(**fields):
  return bcos_jax.create(VIT, ops=StandardOps(), **{**OURS, "num_classes": 5, **fields})


ARGUMENTS = [
  (VIT, {"img_size": [224, 112]}, {"image_size": (224, 112)}),
  (VIT, {"img_size": 160, "patch_size": [32, 32]}, {"image_size": 160, "patch_size": 32}),
  (VIT, {"global_pool": "avg"}, {"pool": "mean", "norm_after_pool": True}),
  (VIT, {"global_pool": "avg", "fc_norm": False}, {"pool": "mean", "norm_after_pool": False}),
  (VIT, {"global_pool": "map"}, {"pool": "map", "norm_after_pool": False}),
  (VIT, {"global_pool": "max"}, {"pool": "max", "norm_after_pool": True}),
  (VIT, {"global_pool": "token", "fc_norm": True}, {"pool": "cls", "norm_after_pool": True}),
  (VIT, {"reg_tokens": 4}, {"registers": 4, "register_positions": True}),
  (
    VIT,
    {"reg_tokens": 4, "no_embed_class": True},
    {"registers": 4, "register_positions": False, "prefix_positions": False},
  ),
  (VIT, {"act_layer": "quick_gelu"}, {"activation": "quick_gelu"}),
  (VIT, {"embed_dim": 96, "mlp_ratio": 2}, {"width": 96, "mlp_dim": 192}),
  (VIT, {"drop_rate": 0.1, "dynamic_img_size": True, "patch_drop_rate": 0.2}, {}),
  ("resnet18", {"global_pool": "avg"}, {"global_pool": "mean"}),
  ("resnet18", {"global_pool": "catavgmax"}, {"global_pool": "mean_and_max"}),
  ("convnextv2_atto", {"global_pool": "max", "drop_path_rate": 0.1}, {"global_pool": "max"}),
  ("densenet121", {"global_pool": "avgmax"}, {"global_pool": "mean_max"}),
  (
    "swin_tiny_patch4_window7_224",
    {"img_size": [256, 256], "window_size": 8},
    {"image_size": 256, "window": 8},
  ),
  ("swin_tiny_patch4_window7_224", {"img_size": [224, 448]}, {"image_size": (224, 448)}),
]


@pytest.mark.parametrize("name, arguments, fields", ARGUMENTS)
def test_arguments_are_fields(name, arguments, fields):
  told = timm.describe(config(name, **arguments), False)
  assert told.architecture == name
  assert {key: told.fields[key] for key in fields} == fields
  models.create(name, ops=StandardOps(), **told.fields)  # no other field is made up


@pytest.mark.parametrize(
  "name, arguments, said",
  [
    (VIT, {"qk_norm": True}, "qk_norm is True"),
    (VIT, {"global_pool": "prr"}, "'prr'"),
    (VIT, {"pos_embed": "none"}, "pos_embed is 'none'"),
    (VIT, {"act_layer": "mish"}, "act_layer 'mish'"),
    (VIT, {"glow_worms": 3}, "glow_worms is 3"),
    (VIT, {"patch_size": [16, 8]}, r"patch_size is \[16, 8\]"),
    (VIT, {"in_chans": 4}, "in_chans is 4"),
    ("deit_tiny_distilled_patch16_224", {"global_pool": "avg"}, "'avg'"),
    ("resnet18", {"global_pool": "gem"}, "global_pool is 'gem'"),
    ("resnet18", {"aa_layer": "blurpool"}, "aa_layer is 'blurpool'"),
    ("resnet18", {"output_stride": 8}, "output_stride is 8"),
    ("vgg11", {"global_pool": "max"}, "global_pool is 'max'"),
    ("swin_tiny_patch4_window7_224", {"window_size": [7, 14]}, "window_size is"),
    ("swin_tiny_patch4_window7_224", {"img_size": [224, 112]}, "img_size is"),
  ],
)
def test_only_the_argument_that_is_not_understood_is_refused(name, arguments, said):
  with pytest.raises(InputError, match=said) as caught:
    timm.describe(config(name, drop_rate=0.1, **arguments), False)
  assert "drop_rate" not in str(caught.value)


def test_a_folder_with_labels_and_preprocessing(tmp_path):
  content = config(VIT, **SMALL, num_classes=5, img_size=[64, 32], global_pool="avg")
  content["label_names"] = ["n01", "n02", "n03", "n04", "n05"]
  content["label_descriptions"] = {"n01": "tench", "n05": "hen"}
  model = vit(image_size=(64, 32), pool="mean", norm_after_pool=True)
  bundle = convert.from_pretrained(folder(tmp_path / "net", content, model))
  assert bundle.labels == ("tench", "n02", "n03", "n04", "hen")
  assert bundle.model.image_size == (64, 32) and bundle.model.input_spec.shape == (1, 64, 32, 3)
  assert bundle.preprocess == Preprocess((64, 32), (71, 35), "bicubic", cover=True)
  assert bundle.model.ops.encoding.mean == (0.5,) * 3
  saved = bcos_jax.save(tmp_path / "bundle", bundle.model, bundle.variables)
  assert bcos_jax.load(saved).model == bundle.model


def test_a_picture_covers_what_is_not_square():
  from PIL import Image

  wide = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3)))
  read = Preprocess((64, 32), (64, 32), "nearest", cover=True)(wide)
  # Scaled by 0.64 to 128x64, of which the 32 columns in the middle are kept.
  assert read.shape == (64, 32, 3)
  np.testing.assert_allclose(read[0, [0, -1], 0] * 255, [75, 124], atol=1)


def test_grey_networks(tmp_path):
  grey = StandardOps(encoding=bcos_jax.Encoding((0.5,), (0.5,)))
  model = vit(image_size=32).clone(ops=grey)
  content = config(VIT, **SMALL, num_classes=5, img_size=[32, 32], in_chans=1)
  bundle = convert.from_pretrained(folder(tmp_path / "net", content, model))
  assert bundle.model.ops.encoding.mean == (0.5,)
  assert bundle.preprocess.colors == 1 and bundle.preprocess.resize == 35
  images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
  explained = bcos_jax.explain(bundle.model, bundle.variables, images)
  total = explained.contributions.sum((1, 2)) + explained.residual
  np.testing.assert_allclose(total, explained.value, rtol=1e-4, atol=1e-4)


def test_a_bare_grey_file(tmp_path):
  grey = StandardOps(encoding=bcos_jax.Encoding((0.5,), (0.5,)))
  path = file(tmp_path / "net.safetensors", _resnet(grey))
  bundle = convert.from_pretrained(path, "resnet_tiny")
  # The mean of ImageNet's means, as timm has it.
  np.testing.assert_allclose(bundle.model.ops.encoding.mean, [0.449], atol=1e-3)
  assert bundle.preprocess.colors == 1


def _resnet(ops, **fields):
  return bcos_jax.create("resnet_tiny", ops=ops, **fields)


@pytest.mark.parametrize("pool", ["max", "mean_max", "mean_and_max"])
def test_other_poolings_are_explained_completely(pool):
  model = _resnet(bcos_jax.BcosOps(), global_pool=pool, image_size=32)
  images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
  explained = bcos_jax.explain(model, filled(model), images)
  total = explained.contributions.sum((1, 2)) + explained.residual
  np.testing.assert_allclose(total, explained.value, rtol=1e-4, atol=1e-5)
  model = _resnet(bcos_jax.BcosOps(), image_size=32)
  plain = bcos_jax.explain(model, filled(model), images)
  assert not np.allclose(plain.logits, explained.logits)


@pytest.mark.parametrize(
  "arguments, fields, place",
  [
    ({"global_pool": "avg"}, {"pool": "mean", "norm_after_pool": True}, "fc_norm"),
    ({"global_pool": "map"}, {"pool": "map", "norm_after_pool": False}, "pool"),
  ],
)
def test_a_layout_without_a_place_names_those_that_have_one(tmp_path, arguments, fields, place):
  content = config(VIT, **SMALL, num_classes=5, img_size=[32, 32], **arguments)
  source = folder(tmp_path / "net", content, vit(image_size=32, **fields))
  bundle = convert.from_pretrained(source)
  with pytest.raises(InputError, match=f"'torchvision' has no place for 'params/{place}") as error:
    convert.to_state_dict(bundle, "torchvision")
  assert error.value.fix == "Layouts that work: open_clip, timm."
  assert convert.to_state_dict(bundle, "timm")


# Files without configuration.


def test_the_size_is_read_off_the_table(tmp_path):
  path = file(tmp_path / "net.safetensors", vit(image_size=96))
  made = _planned(path)
  assert made.model.image_size == 96
  assert any(note.startswith("image_size 96") for note in made.notes)


def _planned(path, **options):
  fields = {"width": 48, "depth": 1, "num_heads": 3, "mlp_dim": 192}
  models.architecture(VIT).test_variants["vit_for_this_test"] = fields
  try:
    return plan(path, "vit_for_this_test", **options)
  finally:
    del models.architecture(VIT).test_variants["vit_for_this_test"]


def test_a_table_of_no_square_asks(tmp_path):
  path = file(tmp_path / "net.safetensors", vit(image_size=(224, 112)))
  with pytest.raises(InputError, match=r"99 rows, of which 98.*--image_size.*224x112"):
    _planned(path)
  assert _planned(path, image_size="224x112").model.image_size == (224, 112)
  assert _planned(path, image_size=(112, 224)).model.image_size == (112, 224)
  with pytest.raises(InputError, match=r"\[1, 99, 48\], expected \[1, 26, 48\]"):
    _planned(path, image_size=80)


@pytest.mark.parametrize("text", ["0", "-3", "1e6", "224x", "224x224x3", "1000000", "nan", ""])
def test_sizes_that_are_none(text):
  with pytest.raises(InputError, match="image_size"):
    sizes.parsed(text)


def test_swin_at_another_window():
  name = "swin_tiny_patch4_window7_224"
  other = bcos_jax.create(name, ops=StandardOps(), **SWIN, num_classes=5, window=8, image_size=64)
  state = convert.to_state_dict(make_bundle(other, filled(other)), "timm")
  like = other.clone(window=7, image_size=56)
  found, notes = sizes.of_tables(state, _table(other), like, given=False)
  assert found == {"window": 8, "image_size": 64}
  assert "window 8" in notes[0] and "--image_size" in notes[1]


def _table(model):
  return next(k for k in convert.state_dict.keys_of(model, "timm") if k.form == "swin").table


# Names of classes.


def test_names_of_imagenet():
  names = imagenet.names()
  assert len(names) == len(set(names)) == 1000
  assert (names[0], names[9], names[829], names[999]) == (
    "tench",
    "ostrich",
    "streetcar",
    "toilet tissue",
  )


@pytest.mark.parametrize("tag, named", [("augreg_in21k_ft_in1k", True), ("in21k", False)])
def test_names_come_where_the_tag_says_so(tmp_path, tag, named):
  content = config(VIT, **SMALL, img_size=[32, 32])
  content["pretrained_cfg"]["tag"] = tag
  source = folder(tmp_path / "net", content, vit(image_size=32, num_classes=1000))
  made = plan(source)
  bundle = made.bundle()
  assert bundle.labels == (imagenet.names() if named else ())
  assert any("ImageNet-1k" in note for note in made.notes) == named
