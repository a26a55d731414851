"""Checkpoints as others publish them, with random weights: what the reader of a page downloads.

Networks that a configuration describes are small; files by themselves have the sizes of their
names.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np

import bcos_jax
from bcos_jax import BcosOps, StandardOps, convert, ops
from bcos_jax.convert import readers, sources
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import write_safetensors

from .. import torch_files
from ..common import shapes, unflat

State = dict[str, np.ndarray]
_WEIGHTS = "model.safetensors"
PICTURES = {
  "image_processor_type": "ViTImageProcessor",
  "do_resize": True,
  "size": {"height": 32, "width": 32},
  "resample": 2,
  "do_rescale": True,
  "rescale_factor": 1 / 255,
  "do_normalize": True,
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
}


def state(
  name: str, layout: str, family: ops.Ops | None = None, *, form: str = "", **fields: Any
) -> State:
  """Returns random weights of a network of this package, as a layout names them.

  Args:
    name: The architecture.
    layout: As of `convert.to_state_dict`.
    family: Of its layers, by default conventional.
    form: Which of the layout's tables, where it has several.
    **fields: What to replace in the architecture.
  """
  model = bcos_jax.create(name, ops=family or StandardOps(), **fields)
  chance = np.random.default_rng(0)

  def leaf(path: str, like: Any) -> np.ndarray:
    z = chance.standard_normal(like.shape, np.float32)
    if path.endswith("kernel"):
      return z * np.float32(np.sqrt(2 / max(np.prod(like.shape[:-1]), 1)))
    if path.endswith("var"):
      return 1 + 0.5 * np.abs(z)
    return (1 if path.endswith("scale") else 0) + np.float32(0.1) * z

  filled = unflat({path: leaf(path, like) for path, like in shapes(model).items()})
  bundle = make_bundle(model, filled, provenance={"source": layout, "layout": form})
  return {key: np.array(t, order="C") for key, t in convert.to_state_dict(bundle, layout).items()}


def torch_file(path: pathlib.Path, tensors: State, *, entry: str = "", **others: Any) -> None:
  """Writes what `torch.save` writes: a state dict, alone or in an entry of a dictionary."""
  held = torch_files.state(tensors)
  torch_files.save(path, {entry: held, **others} if entry else held, tensors)


def repository(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  *,
  name: str = "config.json",
  weights: str = _WEIGHTS,
  tower: str | None = None,
  preprocessor: Mapping[str, Any] | None = None,
) -> State:
  """Writes a folder of Hugging Face, timm or open_clip, with weights as its configuration says.

  Args:
    folder: Where.
    config: Content of the configuration.
    name: Of the configuration's file.
    weights: Of the weights' file.
    tower: An architecture, if it is another than the configuration's own: a text tower.
    preprocessor: Content of `preprocessor_config.json`, if there is one.

  Returns:
    The weights.
  """
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text(json.dumps(config), encoding="utf-8")
  if preprocessor is not None:
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
  write_safetensors(folder / weights, {"none": np.zeros(1, np.float32)}, {"format": "pt"})
  said = readers.describe(sources.open_checkpoint(folder), tower)
  assert said.architecture and said.layout
  fields: dict[str, Any] = dict(said.fields)
  if said.num_labels:
    fields = {"num_classes": said.num_labels} | fields
  family = BcosOps.aloe() if said.layout == "aloe" else StandardOps()
  tensors = state(said.architecture, said.layout, family, **fields)
  write_safetensors(folder / weights, tensors, {"format": "pt"})
  return tensors


def cached(hub: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the folder of a repository in the cache of huggingface_hub, as after a download."""
  place = hub / f"models--{name.replace('/', '--')}"
  snapshot = place / "snapshots" / ("0123456789" * 4)
  snapshot.mkdir(parents=True, exist_ok=True)
  (place / "refs").mkdir(exist_ok=True)
  (place / "refs" / "main").write_text(snapshot.name, encoding="utf-8")
  return snapshot


def labels(*names: str) -> dict[str, Any]:
  """Returns the attributes of a configuration that name its classes."""
  return {"id2label": {str(i): name for i, name in enumerate(names)}}


_BLOCKS = {
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
}
VIT = {
  "model_type": "vit",
  "architectures": ["ViTForImageClassification"],
  **_BLOCKS,
  "image_size": 32,
  "patch_size": 8,
  **labels("tabby", "dog", "goldfish"),
}
DINOV3 = {
  "model_type": "dinov3_vit",
  "architectures": ["DINOv3ViTModel"],
  **_BLOCKS,
  "image_size": 32,
  "patch_size": 8,
  "num_register_tokens": 4,
}
ALOE = {
  "model_type": "aloe_dinov3_vision",
  **_BLOCKS,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-5,
  "image_size": 32,
  "patch_size": 16,
  "num_channels": 6,
  "num_labels": 5,
  "rope_theta": 100.0,
  "aloe_add_conv_stem": [8, 16, 16, 32],
  "aloe_num_registers": 4,
  "aloe_cls_token": True,
  "aloe_use_layer_scale": True,
  "aloe_b_linear": 2.0,
  "aloe_bcos_impl": "v2",
}
SIGLIP = {
  "model_type": "siglip",
  "architectures": ["SiglipModel"],
  "vision_config": {**_BLOCKS, "image_size": 32, "patch_size": 8},
  "text_config": {**_BLOCKS, "vocab_size": 50, "max_position_embeddings": 8},
}
CLIP = {
  "model_type": "clip",
  "architectures": ["CLIPModel"],
  "projection_dim": 16,
  "vision_config": {**_BLOCKS, "image_size": 32, "patch_size": 8},
  "text_config": {
    **_BLOCKS,
    "vocab_size": 50,
    "max_position_embeddings": 77,
    "bos_token_id": 48,
    "eos_token_id": 49,
  },
}
CONVNEXT = {
  "model_type": "convnext",
  "architectures": ["ConvNextForImageClassification"],
  "hidden_sizes": [40, 80, 160, 320],
  "depths": [2, 2, 4, 2],
  "image_size": 64,
  **labels("tabby", "dog", "goldfish"),
}
BERT = {
  "model_type": "bert",
  "architectures": ["BertForMaskedLM"],
  "vocab_size": 60,
  **_BLOCKS,
  "max_position_embeddings": 64,
}
OPEN_CLIP = {
  "model_cfg": {
    "embed_dim": 16,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {},
  },
  "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def timm(name: str, classes: int = 3, tag: str = "a1_in1k", **arguments: Any) -> dict[str, Any]:
  """Returns what `timm.models.save_for_hf` writes about a network."""
  side = arguments.get("img_size", 64)
  return {
    "architecture": name,
    "num_classes": classes,
    "model_args": {"num_classes": classes, **arguments},
    "pretrained_cfg": {
      "tag": tag,
      "input_size": [3, side, side],
      "interpolation": "bicubic",
      "crop_pct": 0.95,
      "mean": [0.485, 0.456, 0.406],
      "std": [0.229, 0.224, 0.225],
      "num_classes": classes,
    },
  }
