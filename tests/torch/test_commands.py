"""`bcos-jax convert --verify` on files written by PyTorch and transformers."""

import json

import numpy as np
from PIL import Image
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import cli  # noqa: E402
from bcos_jax.convert import plan, targets  # noqa: E402
from bcos_jax.convert.readers import preprocessing  # noqa: E402
from bcos_jax.convert.tables import keys  # noqa: E402

from ..common import flat  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  torch.manual_seed(0)


def run(*arguments):
  return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
  live.torchvision()
  import transformers

  folder = tmp_path_factory.mktemp("hub") / "vit"
  config = transformers.ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
    id2label={0: "cat", 1: "dog", 2: "bird"},
    label2id={"cat": 0, "dog": 1, "bird": 2},
  )
  live.stirred(transformers.ViTForImageClassification(config)).save_pretrained(folder)
  transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
  return folder


def test_a_repository_is_verified_on_random_and_given_pictures(repository, tmp_path, capsys):
  picture = tmp_path / "picture.png"
  noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  Image.fromarray(noise).save(picture)
  done = run("convert", repository, tmp_path / "bundle", "--verify", "--verify_images", picture)
  printed = capsys.readouterr().out
  assert done == 0
  assert printed.count("verified against transformers") == 3
  assert "how pictures are read; relative difference" in printed
  assert "on 1 given pictures" in printed and "input gradients" in printed
  bundle = bcos_jax.load(tmp_path / "bundle")
  assert bundle.labels == ("cat", "dog", "bird")
  assert run("convert", tmp_path / "bundle", tmp_path / "back", "--to=huggingface") == 0
  import transformers

  again, loaded = transformers.ViTForImageClassification.from_pretrained(
    tmp_path / "back", output_loading_info=True
  )
  assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
  first = transformers.ViTForImageClassification.from_pretrained(repository)
  for key, tensor in first.state_dict().items():
    assert torch.equal(again.state_dict()[key], tensor), key


TOWER = {
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
}
IMAGE = {**TOWER, "image_size": 32, "patch_size": 8}
NAFLEX = {**TOWER, "num_patches": 16, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 24, "max_position_embeddings": 9}
ENDS = {"bos_token_id": 22, "eos_token_id": 23}
CASES = {
  "CLIPModel": ({"vision_config": IMAGE, "text_config": TEXT | ENDS}, ()),
  "CLIPModel, text": (
    {"vision_config": IMAGE, "text_config": TEXT | ENDS},
    ("--architecture=clip_text_vit_base",),
  ),
  "SiglipModel": ({"vision_config": IMAGE, "text_config": TEXT}, ("--dtype=bfloat16",)),
  "Siglip2ForImageClassification": ({"vision_config": NAFLEX, "text_config": TEXT}, ()),
  "SiglipTextModel": (TEXT, ()),
}


@pytest.mark.parametrize("name", CASES)
def test_towers_are_verified(name, tmp_path, capsys):
  live.torchvision()
  import transformers

  fields, arguments = CASES[name]
  cls = getattr(transformers, name.partition(",")[0])
  live.stirred(cls(cls.config_class(**fields))).save_pretrained(tmp_path / "tower")
  done = run("convert", tmp_path / "tower", tmp_path / "bundle", "--verify", *arguments)
  printed = capsys.readouterr()
  assert done == 0, printed.err
  assert "verified against transformers" in printed.out
  assert ("input gradients" in printed.out) == ("ext" not in name)
  dtype = {leaf.dtype.name for leaf in flat(bcos_jax.load(tmp_path / "bundle").variables).values()}
  assert dtype == {"bfloat16" if "--dtype=bfloat16" in arguments else "float32"}


def processors():
  square, edge = {"height": 32, "width": 32}, {"shortest_edge": 32}
  crop = {"size": {"shortest_edge": 37}, "crop_size": square}
  return {
    "ViTImageProcessor": {"size": square},
    "DeiTImageProcessor": {"size": {"height": 37, "width": 35}, "crop_size": square},
    "BitImageProcessor": crop,
    "CLIPImageProcessor": crop,
    "SiglipImageProcessor": {"size": square},
    "ConvNextImageProcessor": {"size": edge},
    "ConvNextImageProcessor, no crop": {"size": {"shortest_edge": 384}},
    "ViTImageProcessor, plain": {"size": square, "do_normalize": False, "resample": 3},
  }


@pytest.mark.parametrize("name", processors())
@pytest.mark.parametrize("shape", [(50, 71), (64, 41), (20, 20)])
def test_pictures_are_read_as_by_transformers(name, shape, tmp_path):
  live.torchvision()
  import transformers

  cls = getattr(transformers, name.partition(",")[0])
  cls(**processors()[name]).save_pretrained(tmp_path)
  config = json.loads((tmp_path / "preprocessor_config.json").read_text())
  reading = preprocessing.of_transformers(config)
  noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  picture = tmp_path / "picture.png"
  Image.fromarray(noise).save(picture)
  theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
  expected = theirs(images=[Image.open(picture)], return_tensors="np")["pixel_values"][0]
  encode = bcos_jax.Encoding(reading.mean, reading.std)
  ours = np.asarray(encode(reading.preprocess(picture)[None]))[0]
  np.testing.assert_allclose(ours, expected.transpose(1, 2, 0), atol=1e-5)


def test_a_departure_names_the_first_layer_and_writes_nothing(
  repository, tmp_path, capsys, monkeypatch
):
  port = plan.port

  def wrong(state, table, leaves):
    made, extras = port(state, table, leaves)
    return made | {"params/encoder_1/norm1/scale": 2 * np.ones(32, np.float32)}, extras

  monkeypatch.setattr(plan, "port", wrong)
  assert run("convert", repository, tmp_path / "bundle", "--verify") == 2
  said = capsys.readouterr().err
  assert "differs from transformers" in said and "encoder_1" in said
  assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_torchvisions_and_lightnings_files(tmp_path, capsys):
  network = live.stirred(live.torchvision().models.resnet18(num_classes=7))
  torch.save(network.state_dict(), tmp_path / "resnet18.pth")
  wrapped = {"model." + key: tensor for key, tensor in network.state_dict().items()}
  about = {"epoch": 3, "hyper_parameters": {"lr": 0.1}, "callbacks": {}}
  torch.save({"state_dict": wrapped, **about}, tmp_path / "last.ckpt")
  assert run("convert", tmp_path / "resnet18.pth", tmp_path / "a", "--verify") == 0
  assert "verified against torchvision" in capsys.readouterr().out
  assert run("convert", tmp_path / "last.ckpt", tmp_path / "b", "--architecture=resnet18") == 0
  files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
  assert len(files[0]) == len(files[1])
  assert bcos_jax.load(tmp_path / "b").model == bcos_jax.load(tmp_path / "a").model


def test_every_source_has_a_layout_to_write():
  sources = set(keys.all_layouts())
  assert sources <= set(targets.names())
