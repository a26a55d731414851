"""Published accuracies and settings of the B-cos v2 zoo and of B-cosification.

Top-1 and top-5 accuracy on ImageNet's validation set, in percent: of B-cos v2's model zoo
(arXiv 2306.10898), and of B-cosified networks (arXiv 2411.00715, tables 1 and 2).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
  """A network of the B-cos v2 zoo.

  Attributes:
    ops: Name of its layer family, for `ops.from_dict`.
    top1: Accuracy in percent.
    top5: Likewise.
    file: Name of the file in the zoo's release `v0.0.1-weights`; its last part is the beginning of
      the file's SHA-256.
  """

  ops: str
  top1: float
  top5: float
  file: str


def _bcos(top1: float, top5: float, file: str) -> Published:
  return Published("bcos_v2", top1, top5, f"{file}.pth")


def _vits(
  prefix: str, ops: str, rows: dict[str, tuple[float, float, str]], name: str
) -> dict[str, Published]:
  return {
    name.format(size=size): Published(
      ops, top1, top5, f"{prefix}{name.format(size=size).removeprefix('standard_')}-{digest}.pth"
    )
    for size, (top1, top5, digest) in rows.items()
  }


ZOO: dict[str, Published] = {
  "resnet18": _bcos(68.736, 87.430, "resnet_18-68b4160fff"),
  "resnet34": _bcos(72.284, 90.052, "resnet_34-a63425a03e"),
  "resnet50": _bcos(75.882, 92.528, "resnet_50-ead259efe4"),
  "resnet101": _bcos(76.532, 92.538, "resnet_101-84c3658278"),
  "resnet152": _bcos(76.484, 92.398, "resnet_152-42051a77c1"),
  "resnext50_32x4d": _bcos(75.820, 91.810, "resnext_50_32x4d-57af241ab9"),
  "densenet121": _bcos(73.612, 91.106, "densenet_121-b8daf96afb"),
  "densenet161": _bcos(76.622, 92.554, "densenet_161-9e9ea51353"),
  "densenet169": _bcos(75.186, 91.786, "densenet_169-7037ee0604"),
  "densenet201": _bcos(75.480, 91.992, "densenet_201-00ac87066f"),
  "vgg11_bnu": _bcos(69.310, 88.388, "vgg_11_bnu-34036029f0"),
  "convnext_tiny": _bcos(77.488, 93.192, "convnext_tiny_pn-539b1bfb37"),
  "convnext_base": _bcos(79.650, 94.614, "convnext_base_pn-b0495852c6"),
  "convnext_tiny_bnu": _bcos(76.826, 93.090, "convnext_tiny_bnu-dbd7f5ef9d"),
  "convnext_base_bnu": _bcos(80.142, 94.834, "convnext_base_bnu-7c32a704b3"),
  "densenet121_long": _bcos(77.302, 93.234, "densenet_121_long-5175461597"),
  "resnet50_long": _bcos(79.468, 94.452, "resnet_50_long-ef38a88533"),
  "resnet152_long": _bcos(80.144, 94.116, "resnet_152_long-0b4b434939"),
  **_vits(
    "bcos_",
    "bcos_v2",
    {
      "ti": (59.960, 81.838, "4b0824b1c1"),
      "s": (69.246, 88.096, "75e99d1f73"),
      "b": (74.408, 91.156, "1fc4750806"),
      "l": (75.060, 91.378, "9613b2ad0a"),
    },
    "simple_vit_{size}_patch16_224",
  ),
  **_vits(
    "bcos_",
    "bcos_v2",
    {
      "ti": (67.260, 86.774, "ddd6193a77"),
      "s": (74.504, 91.288, "cf55c88f0c"),
      "b": (77.152, 92.926, "a13c46397b"),
      "l": (77.782, 92.966, "8739e18b8d"),
    },
    "vitc_{size}_patch1_14",
  ),
  **_vits(
    "standard_",
    "standard",
    {
      "ti": (70.230, 89.380, "2ae8c65a39"),
      "s": (74.470, 91.226, "f2934fcdcf"),
      "b": (75.300, 91.026, "87074200ed"),
      "l": (75.710, 90.050, "62dc536e03"),
    },
    "standard_simple_vit_{size}_patch16_224",
  ),
  **_vits(
    "standard_",
    "standard",
    {
      "ti": (72.590, 90.788, "a5d6bded37"),
      "s": (75.756, 91.994, "34ecd7288e"),
      "b": (76.790, 92.024, "4d374b0220"),
      "l": (77.866, 92.298, "560e48f246"),
    },
    "standard_vitc_{size}_patch1_14",
  ),
}
"""By the names of `bcos_jax.names()`."""

BCOSIFIED: dict[str, tuple[float, ...]] = {
  "resnet18": (71.5,),
  "resnet50": (76.5, 77.3),  # from torchvision's first and second weights
  "densenet121": (76.3,),
  "simple_vit_ti_patch16_224": (69.3,),
  "simple_vit_s_patch16_224": (75.2,),
  "simple_vit_b_patch16_224": (75.3,),
  "simple_vit_l_patch16_224": (75.5,),
  "vitc_ti_patch1_14": (72.3,),
  "vitc_s_patch1_14": (76.0,),
  "vitc_b_patch1_14": (76.7,),
  "vitc_l_patch1_14": (77.1,),
}
"""Top-1 after B-cosification and fine-tuning."""
