"""Explanations that travel: a network and its explanation as one file for other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax

from .. import ops
from ..errors import InputError, unknown_name
from ..explain.targets import blaming_variables
from ..io.bundles import Bundle
from ..network import Network
from ..render import kinds
from . import checks, onnx_file, page, stablehlo, web_page
from . import folder as folders
from .programs import ExportProgram, program_of

KINDS = ("stablehlo", "onnx", "web")


def save(
  bundle: Bundle,
  folder: str | os.PathLike,
  *,
  to: str = "stablehlo",
  parts: Sequence[str] | None = None,
  batch: int | None = None,
  image_size: tuple[int, int] | None = None,
  length: int | None = None,
  targets: Sequence[str] | None = None,
  runtime: str | os.PathLike | None = None,
) -> pathlib.Path:
  """Writes a network and its explanation as one file, with a manifest and a page that say its use.

  The file is read again and compared with the network before the folder is there: bit for bit for
  StableHLO, within 1e-5 of the largest contribution for ONNX.

  Args:
    bundle: The network, such as `bcos_jax.load` returns.
    folder: Where to: new, empty, or an older export, which is replaced.
    to: "stablehlo", "onnx", or "web": a page that runs the ONNX file in a browser.
    parts: What it returns: "logits", "map" (contributions of an asked class, its value and the
      residual), "picture" (coloured explanation), "weights" (W(x)). None takes the first two, and
      the picture where the network has one.
    batch: Inputs at a time; None leaves it free.
    image_size: Height and width of the pictures; None takes the network's.
    length: Tokens of a text; None takes the network's context.
    targets: Platforms of StableHLO, of cpu, cuda, rocm and tpu; None takes all but rocm.
    runtime: For the page, the npm package onnxruntime-web: its folder or archive (.tgz).

  Returns:
    The folder; `load` reads it, unless it is a page.

  Raises:
    InputError: The folder holds something else; a kind, platform, part, operator or precision that
      cannot be exported; packages that are not installed.
    RunError: What was written differs from the network.
  """
  platforms = _checked(to, parts, batch, targets, runtime)
  folder = folders.check_destination(folder)
  network = bundle if isinstance(bundle, Network) else Network.of(bundle)
  if to == "web":
    batch = _for_page(network)
  asked = default_parts(network) if parts is None else parts
  program = program_of(network, asked, batch=batch, image_size=image_size, length=length)
  side = None if program.preprocess is None else program.preprocess.size
  with blaming_variables(network.model, network.variables, side):
    name, content, more, found = _written(network, program, to, platforms)
  manifest = {"kind": to, "file": name, **described(network, program), **more, "checked": found}
  if to == "web" and runtime is not None:
    manifest |= {"file": "index.html", "runtime": f"{web_page.RUNTIME} {web_page.VERSION}"}
    files = web_page.files(network, manifest, content, runtime)
  else:
    files = {name: content}
  files[folders.README] = page.page(manifest).encode()
  files |= {f"{folders.TOKENIZER}/{key}": value for key, value in network.tokenizer.items()}
  folders.write(folder, files, manifest)
  return folder


def _checked(
  to: str,
  parts: Sequence[str] | None,
  batch: int | None,
  targets: Sequence[str] | None,
  runtime: str | os.PathLike | None,
) -> tuple[str, ...]:
  """Checks options against the kind of export; returns the platforms of StableHLO."""
  if to not in KINDS:
    raise unknown_name("kind of export", to, KINDS)
  if targets is not None and to != "stablehlo":
    raise InputError("targets are platforms of StableHLO.", f"Omit them for {to}.")
  if to == "web":
    web_page.check_runtime(runtime)
    if parts is not None or batch not in (None, 1):
      raise InputError(
        f"{'parts are' if parts is not None else 'batch is'} given for a page, which shows one "
        "picture with all that there is.",
        "Omit it for web.",
      )
  elif runtime is not None:
    raise InputError("runtime is for a page of browsers.", f"Omit it for {to}.")
  return stablehlo.check_platforms(("cpu", "cuda", "tpu") if targets is None else targets)


def _for_page(network: Network) -> int:
  """Returns how many inputs a page explains at a time: one picture."""
  if network.preprocess is None:
    raise InputError(f"{network.name} reads texts, pages explain pictures.", "Export it as onnx.")
  return 1


def _written(
  network: Network, program: ExportProgram, to: str, platforms: Sequence[str]
) -> tuple[str, bytes, dict[str, Any], dict[str, float]]:
  """Returns name and content of a file, what the manifest says of it, and how it compares."""
  inputs = checks.example(program, network.model)
  if to != "stablehlo":
    content, more = onnx_file.written(program, {"network": network.name, "made_by": made_by()})
    run = onnx_file.reader(content)
    found = checks.compared(program, run, inputs, exact=False, where="onnxruntime on the CPU")
    return onnx_file.FILE, content, more, found
  content, more = stablehlo.written(program, platforms)
  found, here = {}, jax.default_backend()
  if {here, "cuda" if here == "gpu" else here}.intersection(platforms):
    run, exact = stablehlo.reader(content), here == "cpu"
    found = checks.compared(program, run, inputs, exact=exact, where=f"JAX on the {here}")
  return stablehlo.FILE, content, more, found


def made_by() -> str:
  """Returns the versions that write an export."""
  from .. import __version__

  return f"bcos_jax {__version__}, jax {jax.__version__}"


def default_parts(network: Network) -> tuple[str, ...]:
  """Returns what is asked for unless somebody says otherwise."""
  encoding = network.model.ops.encoding
  coloured = network.preprocess is not None and encoding.channels == 2 * encoding.colors
  return ("logits", "map", "picture") if coloured else ("logits", "map")


def described(network: Network, program: ExportProgram) -> dict[str, Any]:
  """Returns what the manifest says of a network and its program, whatever it is written as."""
  results = jax.eval_shape(program.function, *program.inputs.values())
  model = network.model
  how = kinds.POST_HOC if model.ops.conventional else kinds.EXACT
  return {
    "made_by": made_by(),
    "network": {
      "name": network.name,
      "fields": dict(network.config.get("fields", {})),
      "ops": ops.to_dict(dataclasses.replace(model.ops, detach=False)),
      "conventional": model.ops.conventional,
    },
    "explanation": "; ".join(filter(None, (how, kinds.origin_of(network.config).value))),
    "batch": program.batch,
    "inputs": [_value(name, spec) for name, spec in program.inputs.items()],
    "outputs": [_value(name, results[name]) for name in program.outputs],
    "classes": getattr(model, "num_classes", 0) or model.vocab_size,
    "probability": model.ops.probability if program.preprocess is not None else "softmax",
    "preprocess": None if program.preprocess is None else dataclasses.asdict(program.preprocess),
    "labels": list(network.labels),
  }


def _value(name: str, spec: Any) -> dict[str, Any]:
  shape = [dim if isinstance(dim, int) else "N" for dim in spec.shape]
  return {"name": name, "shape": shape, "dtype": str(spec.dtype)}
