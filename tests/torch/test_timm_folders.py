"""Folders that timm 1.0 itself writes: converted, and every layer compared with timm."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from bcos_jax.cli import conversion  # noqa: E402
from bcos_jax.convert import imagenet, original, verify  # noqa: E402
from bcos_jax.convert.plan import plan  # noqa: E402

from . import live  # noqa: E402

pytestmark = pytest.mark.torch
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 3}
NETWORKS = {
  "token": ("vit_tiny_patch16_224", {**VIT, "drop_rate": 0.1}),
  "not square": ("vit_tiny_patch16_224", {**VIT, "img_size": (64, 32)}),
  "mean": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg", "img_size": 64, "in_chans": 1}),
  "mean, norm first": (
    "vit_tiny_patch16_224",
    {**VIT, "global_pool": "avg", "fc_norm": False, "class_token": False, "img_size": 64},
  ),
  "map": ("vit_tiny_patch16_224", {**VIT, "global_pool": "map", "img_size": 64}),
  "max": (
    "vit_tiny_patch16_224",
    {**VIT, "global_pool": "max", "reg_tokens": 2, "no_embed_class": True, "img_size": 64},
  ),
  "registers with positions": (
    "vit_tiny_patch16_224",
    {**VIT, "reg_tokens": 2, "act_layer": "quick_gelu", "mlp_ratio": 2, "img_size": 64},
  ),
  "no classes, two tokens": (
    "deit_tiny_distilled_patch16_224",
    {**VIT, "num_classes": 0, "img_size": 64},
  ),
  "resnet": ("resnet18", {"num_classes": 5, "global_pool": "catavgmax", "in_chans": 1}),
  "convnext": ("convnextv2_atto", {"num_classes": 0, "global_pool": "avg"}),
  "swin": (
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "img_size": (32, 64), "window_size": 4}
    | {"num_classes": 3, "global_pool": "max"},
  ),
}


def saved(path, name, arguments):
  live.torchvision()
  import timm

  torch.manual_seed(0)
  network = live.stirred(timm.create_model(name, **arguments))
  timm.models.save_for_hf(network, path)
  return path


@pytest.mark.parametrize("case", NETWORKS)
def test_folders(tmp_path, case):
  name, arguments = NETWORKS[case]
  made = plan(saved(tmp_path / "net", name, arguments))
  network, about = original.build(made)
  assert network is not None, about
  bundle = made.bundle()
  for _, inputs in conversion._inputs(bundle, ()):
    checks = verify.compare(network, bundle, made.keys, inputs)
    assert len(checks) >= 4 and all(check.agrees for check in checks), checks


def test_a_command_verifies_a_folder(tmp_path, capsys):
  source = saved(tmp_path / "net", "resnet18", {})
  lines = []
  choices = conversion.ConversionChoices(verify=True)
  conversion.convert(source, tmp_path / "bundle", choices, lines.append)
  assert any(line.startswith("verified against timm") for line in lines)
  assert plan(source).bundle(lazy=True).labels == imagenet.names()


def test_a_given_architecture_does_not_pass_as_verified(tmp_path):
  live.torchvision()
  import timm

  network = live.stirred(timm.create_model("resnetaa50", num_classes=5))
  torch.save(network.state_dict(), tmp_path / "net.pth")
  lines = []
  choices = conversion.ConversionChoices(architecture="resnet50", verify=True)
  conversion.convert(tmp_path / "net.pth", tmp_path / "bundle", choices, lines.append)
  printed = "\n".join(lines)
  assert "nothing in the file proves that it is a 'resnet50'" in printed
  assert "verified against" not in printed and "which the file does not say it is" in printed
