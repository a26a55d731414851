"""Original PyTorch networks of checkpoints, where their library is installed."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import importlib.util
from typing import Any

import numpy as np

from bcos_jax import models

from .plan import ConversionPlan
from .readers import timm as timm_reader


def build(plan: ConversionPlan) -> tuple[Any | None, str]:
  """Builds the original network with the weights of the checkpoint, in float32, for evaluation.

  Args:
    plan: The conversion.

  Returns:
    The network and what built it; or None and why there is none.
  """
  if importlib.util.find_spec("torch") is None:
    return None, "PyTorch is not installed"
  if plan.new_head:
    return None, "the head is reinitialised, so there is no original to compare with"
  layout = plan.keys.layout
  if layout not in _BUILDERS:
    return None, f"the PyTorch code of {layout!r} is not an installable library"
  library = {"huggingface": "transformers"}.get(layout, layout)
  if importlib.util.find_spec(library) is None:
    return None, f"{library} is not installed"
  try:
    return _BUILDERS[layout](plan)
  except (ImportError, RuntimeError) as error:
    # An installation that does not fit together, such as a torchvision for another PyTorch.
    return None, f"{library} cannot be used here: {' '.join(str(error).split())[:200]}"


def read_pictures(plan: ConversionPlan, pictures: Sequence[Any]) -> np.ndarray | None:
  """Reads picture files as transformers does beside PyTorch, with PIL.

  Args:
    plan: The conversion.
    pictures: Paths.

  Returns:
    What the network sees, [N, H, W, 3]; None where the source came without an image processor, or
    with one that only works on tensors, whose scaling rounds differently.
  """
  from PIL import Image

  if plan.keys.layout != "huggingface" or plan.checkpoint.preprocessor is None:
    return None
  import transformers

  processor = transformers.AutoImageProcessor.from_pretrained(
    plan.checkpoint.folder, backend="pil", local_files_only=True
  )
  if not type(processor).__name__.endswith("Pil"):
    return None
  images = [Image.open(path).convert("RGB") for path in pictures]
  return np.moveaxis(processor(images=images, return_tensors="np")["pixel_values"], 1, -1)


def _torchvision(plan: ConversionPlan) -> tuple[Any | None, str]:
  import torchvision

  name = _variant(plan)
  if name not in torchvision.models.list_models():
    return None, f"torchvision has no {name!r}"
  network = torchvision.models.get_model(name, num_classes=plan.model.num_classes)
  return _filled(network, plan), f"torchvision {torchvision.__version__}"


def _timm(plan: ConversionPlan) -> tuple[Any | None, str]:
  import timm

  config = plan.checkpoint.config or {}
  name = timm_reader.architecture_of(config) if "pretrained_cfg" in config else _variant(plan)
  if not timm.is_model(name):
    return None, f"timm has no {name!r}"
  arguments = dict(config.get("model_args") or _timm_arguments(plan.model))
  network = timm.create_model(name, **{**arguments, "num_classes": plan.model.num_classes})
  return _filled(network, plan), f"timm {timm.__version__}"


def _timm_arguments(model: Any) -> dict[str, Any]:
  """Returns what a file alone tells of timm's arguments: colours, sizes and windows."""
  named = dict(models.describe(model)[1])
  names = {"image_size": "img_size", "window": "window_size"}
  arguments = {names[field]: named[field] for field in names if field in named}
  if not hasattr(model, "positions") and not hasattr(model, "window"):
    arguments.pop("img_size", None)
  return {**arguments, "in_chans": model.ops.encoding.channels}


_WITH_HEAD = {"GPT2Model": "GPT2LMHeadModel"}
"""Networks whose tied head needs no weights of its own: ours always have it."""


def _huggingface(plan: ConversionPlan) -> tuple[Any | None, str]:
  import torch
  import transformers

  folder = plan.checkpoint.folder
  if folder is None:
    return None, "the checkpoint came without config.json"
  named = ((plan.checkpoint.config or {}).get("architectures") or [""])[0]
  cls = getattr(transformers, _WITH_HEAD.get(named, named or ""), None)
  if cls is None:
    return None, f"transformers has no class {named!r}"
  # transformers itself maps the keys of files to those of its current modules.
  network, loaded = cls.from_pretrained(
    folder,
    dtype=torch.float32,
    attn_implementation="eager",
    local_files_only=True,
    output_loading_info=True,
  )
  if missing := sorted(loaded["missing_keys"]):
    raise RuntimeError(f"transformers does not find {missing[0]!r} in the checkpoint")
  return _tower(network.eval(), plan), f"transformers {transformers.__version__}"


def _tower(network: Any, plan: ConversionPlan) -> Any:
  """Lets a network be called with what our network reads: pictures, or tokens."""
  if models.is_language_model(plan.model):
    return _language_model(network, plan)
  reads = "text" if plan.model.is_text_tower else "image"
  # Only networks of two towers have these.
  forward = getattr(network, f"get_{reads}_features", network.forward)
  if reads == "image" and type(network).__name__.startswith("Siglip2"):
    forward = functools.partial(_as_patches, forward, plan.model.patch_size)
  network.forward = forward
  return network


def _language_model(network: Any, plan: ConversionPlan) -> Any:
  """Lets a network without head return its hidden states, where transformers pools them too.

  Of random tokens none stands for padding, without which transformers takes one text at a time.
  """
  network.config.pad_token_id = -1
  if not plan.keys.form.startswith("hidden"):
    return network
  forward = network.forward
  network.forward = lambda tokens: forward(tokens).last_hidden_state
  return network


def _as_patches(forward: Any, size: int, pictures: Any) -> Any:
  """Gives a SigLIP2 network of variable resolution the patches [N, T, size * size * 3] it reads."""
  import torch

  count, colors, height, width = pictures.shape
  rows, columns = height // size, width // size
  patches = pictures.reshape(count, colors, rows, size, columns, size)
  patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
  mask = torch.ones(patches.shape[:2], dtype=torch.long)
  return forward(patches, mask, torch.tensor([[rows, columns]] * count))


def _variant(plan: ConversionPlan) -> str:
  return models.describe(plan.model)[0]


def _filled(network: Any, plan: ConversionPlan) -> Any:
  """Loads the checkpoint into a network; PyTorch complains about any key that does not fit."""
  import torch

  state = {}
  for key, tensor in plan.state.items():
    array = np.array(tensor)
    array = array.astype(np.float32) if "float" in str(array.dtype) else array
    state[key] = torch.from_numpy(array)
  absent = network.load_state_dict(state, strict=False)
  lost = [key for key in absent.missing_keys if key in dict(network.named_parameters())]
  if lost or absent.unexpected_keys:
    raise RuntimeError(
      f"PyTorch's network lacks {absent.unexpected_keys}, or the checkpoint lacks {lost[:3]}"
    )
  return network.eval()


_BUILDERS = {"torchvision": _torchvision, "timm": _timm, "huggingface": _huggingface}
