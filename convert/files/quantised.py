"""Quantised checkpoints, refused by the name of their method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcos_jax.errors import InputError

_ENDINGS = {
  ".qweight": "GPTQ or AWQ",
  ".qzeros": "GPTQ or AWQ",
  ".g_idx": "GPTQ",
  ".absmax": "bitsandbytes (4 bits)",
  ".quant_map": "bitsandbytes (4 bits)",
  ".SCB": "bitsandbytes (8 bits)",
  ".weight_format": "bitsandbytes (8 bits)",
  ".weight_scale": "8-bit floats (compressed-tensors)",
  ".weight_scale_inv": "8-bit floats",
  ".weight_packed": "compressed-tensors",
  "._packed_params.dtype": "PyTorch's own quantisation",
}
FILES = {
  ".gguf": "GGUF (llama.cpp)",
  ".ggml": "GGML (llama.cpp)",
  ".onnx": "ONNX",
  ".tflite": "TensorFlow Lite",
  ".h5": "Keras or TensorFlow",
  ".keras": "Keras",
  ".msgpack": "Flax's msgpack",
  ".npz": "NumPy",
  ".mlmodel": "Core ML",
  ".engine": "TensorRT",
}
"""Ending of a file -> the format that it has."""
_WAY_OUT = (
  "Convert the network it was made from, in float32, bfloat16 or float16; or load it with its own "
  "library, dequantise, and save a state dict as safetensors."
)


def refuse(origin: str, config: Mapping[str, Any] | None, keys: Mapping[str, Any]) -> None:
  """Raises InputError if a checkpoint is quantised: B-cos networks need the weights themselves."""
  about = (config or {}).get("quantization_config") or (config or {}).get("compression_config")
  method = None
  if isinstance(about, Mapping):
    method = str(about.get("quant_method") or "an unnamed method")
    bits = [n for n in (4, 8) if about.get(f"load_in_{n}bit") or about.get("bits") == n]
    method += f" ({bits[0]} bits)" if bits else ""
  else:
    found = (
      (key, end) for key in keys for end in _ENDINGS if key.endswith(end) or f"{end}." in key
    )
    if (first := next(found, None)) is not None:
      method = f"{_ENDINGS[first[1]]}, as its key {first[0]!r} says"
  if method:
    raise InputError(f"{origin!r} is quantised by {method}, which is not converted.", _WAY_OUT)
