"""The page for people in an exported folder: what it takes and returns, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABOUT = {
  "images": "pictures, colours in [0, 1], channels last; encoded inside",
  "ids": "token ids of the tokenizer, padded on the right",
  "mask": "1 for tokens, 0 for padding",
  "target": "class to explain; -1 for the predicted one",
  "logits": "the network's outputs",
  "probabilities": "of the classes, as the network was trained ({probability})",
  "explained": "the explained class",
  "value": "its logit",
  "contributions": "what each pixel, or token, contributes to that logit",
  "residual": "what constants of the network contribute",
  "picture": "the coloured explanation: red, green, blue, opacity in [0, 1]",
  "weights": "the dynamic linear weights W(x) of each encoded channel",
}

_STABLEHLO = """import jax
from jax import export
import numpy as np

with open("{file}", "rb") as file:
  explanation = jax.jit(export.deserialize(bytearray(file.read())).call)
found = explanation({arguments})
"""
_ONNX = """import numpy as np
import onnxruntime

explanation = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
names = [output.name for output in explanation.get_outputs()]
inputs = {{{named}}}
found = dict(zip(names, explanation.run(names, inputs)))
"""
_INPUTS = {
  "images": "np.zeros({shape}, np.float32)",
  "ids": "np.zeros({shape}, np.int32)",
  "mask": "np.ones({shape}, np.int32)",
  "target": "np.full({shape}, -1, np.int32)",
}


def page(manifest: Mapping[str, Any]) -> str:
  """Returns README.md of an export, from its manifest."""
  network = manifest["network"]
  parts = [
    f"# {network['name']}, exported",
    f"`{manifest['file']}` computes what the network predicts and why, in one function of arrays. "
    f"{_kind(manifest)}",
    _table("Input", manifest["inputs"], manifest),
    _table("Output", manifest["outputs"], manifest),
  ]
  if any(each["name"] == "contributions" for each in manifest["outputs"]):
    parts.append(
      "The explanation is complete: `value = sum(contributions) + residual`, up to rounding."
      f" This explanation is {manifest['explanation']}."
    )
  parts.append(_reading(manifest))
  if manifest["kind"] == "web":
    return "\n\n".join([*parts, _checked(manifest)]) + "\n"
  parts += ["## Use", f"```python\n{snippet(manifest)}```"]
  parts.append(
    "`bcos_jax.export.load(folder)` does the same, and checks version, hashes and inputs first. "
    "`manifest.json` says all of this to programs, and names the classes."
  )
  parts.append(_checked(manifest))
  return "\n\n".join(part for part in parts if part) + "\n"


def _kind(manifest: Mapping[str, Any]) -> str:
  if manifest["kind"] == "stablehlo":
    where = ", ".join(manifest["platforms"])
    return (
      f"It is StableHLO for {where}, written by `jax.export`; JAX runs it, without this package."
    )
  if manifest["kind"] == "web":
    return (
      "Open it in a browser, from the disk or a web server; nothing is sent anywhere. Inside is "
      f"ONNX, opset {manifest['opset']}, run by {manifest['runtime']} (MIT licence)."
    )
  return f"It is ONNX, opset {manifest['opset']}; onnxruntime runs it, without JAX."


def _table(title: str, rows: Any, manifest: Mapping[str, Any]) -> str:
  lines = [f"| {title} | Type | Shape | |", "| --- | --- | --- | --- |"]
  for each in rows:
    about = ABOUT[each["name"]].format(**manifest)
    shape = ", ".join(map(str, each["shape"]))
    lines.append(f"| `{each['name']}` | {each['dtype']} | [{shape}] | {about} |")
  return "\n".join(lines)


def _reading(manifest: Mapping[str, Any]) -> str:
  told = manifest["preprocess"]
  if told is None:
    return "Texts become ids by the files in `tokenizer/`, where there are any."
  height, width = told["size"]
  colors = "grey" if told["colors"] == 1 else "RGB"
  resize = told["resize"]
  if not resize:
    scaled = f"scaled to {width} x {height} pixels"
  elif isinstance(resize, int):
    scaled = f"scaled so that the shorter side has {resize} pixels, cropped to the middle "
    scaled += f"{width} x {height}"
  else:
    scaled = f"scaled to {resize[1]} x {resize[0]} pixels, cropped to the middle {width} x {height}"
  return (
    f"Pictures in files are not read by it. Turn them upright, to {colors}, {scaled} "
    f"({told['interpolation']}, anti-aliased), and divided by 255; `preprocess` in `manifest.json` "
    "has these numbers."
  )


def snippet(manifest: Mapping[str, Any]) -> str:
  """Returns Python that runs an export in its folder, without this package."""
  arrays = {}
  for each in manifest["inputs"]:
    shape = tuple(1 if isinstance(n, str) else n for n in each["shape"])
    arrays[each["name"]] = _INPUTS[each["name"]].format(shape=shape)
  template = _STABLEHLO if manifest["kind"] == "stablehlo" else _ONNX
  code = template.format(
    file=manifest["file"],
    arguments=", ".join(arrays.values()),
    named="".join(f'\n  "{name}": {array},' for name, array in arrays.items()) + "\n",
  )
  if any(each["name"] == "contributions" for each in manifest["outputs"]):
    code += 'print(found["value"], found["contributions"].sum() + found["residual"])\n'
  return code


def _checked(manifest: Mapping[str, Any]) -> str:
  found = manifest["checked"]
  if not found:
    return "It was not run where it was written, which is none of its platforms."
  said = "every bit is the same"
  if any(found.values()):
    gaps = ", ".join(f"{name} {gap:.0e}" for name, gap in found.items() if gap)
    said = f"differences relative to the largest number are {gaps}"
  return f"Compared with the network when it was written, on random inputs: {said}."
