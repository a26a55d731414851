"""The command `export`."""

from __future__ import annotations

import argparse
import pathlib

from .command import Commands, add_command, add_network, whole


def add_export(commands: Commands) -> None:
  command = add_command(
    commands,
    "export",
    _export,
    "write a network and its explanation for runtimes without this package",
    "bcos-jax export runs/quickstart/bcosified exports/digits --to=onnx",
  )
  add_network(command)
  command.add_argument("destination", type=pathlib.Path, help="folder to write")
  command.add_argument(
    "--to",
    default="stablehlo",
    help="stablehlo (JAX on several platforms), onnx (onnxruntime) or web (a page for browsers)",
  )
  command.add_argument(
    "--targets", help="platforms of stablehlo: cpu, cuda, rocm, tpu; default: cpu,cuda,tpu"
  )
  command.add_argument(
    "--batch", type=_batch, help="inputs at a time, or 'dynamic' for any number, the default"
  )
  command.add_argument(
    "--with",
    dest="parts",
    help="what it returns: logits, map, picture, weights; default: logits,map, and the picture "
    "where the network has a coloured explanation",
  )
  command.add_argument(
    "--image_size", help="side of the pictures, or HEIGHTxWIDTH; default: the network's"
  )
  command.add_argument(
    "--onnxruntime_web",
    type=pathlib.Path,
    metavar="FOLDER_OR_TGZ",
    help="npm package onnxruntime-web, which the page runs; from npm pack",
  )
  command.add_argument(
    "--length", type=whole(1), help="tokens of a text; default: the network's context"
  )


def _batch(text: str) -> int | None:
  if text == "dynamic":
    return None
  try:
    return whole(1)(text)
  except argparse.ArgumentTypeError:
    raise argparse.ArgumentTypeError(
      f"={text!r}, expected a whole number from 1, or 'dynamic'"
    ) from None


def _export(options, _):
  from .. import export
  from ..convert.sizes import parsed
  from ..network import load

  size = None if options.image_size is None else parsed(options.image_size)
  if isinstance(size, int):
    size = (size, size)
  written = export.save(
    load(options.bundle, download=options.download),
    options.destination,
    to=options.to,
    parts=_listed(options.parts),
    batch=options.batch,
    image_size=size,
    length=options.length,
    targets=_listed(options.targets),
    runtime=options.onnxruntime_web,
  )
  for path in sorted(written.iterdir()):
    if path.is_file():
      print(f"{path.stat().st_size:>14,} bytes  {path.name}")
  print(f"written: {written}; how to use it: {written / 'README.md'}")


def _listed(text: str | None) -> list[str] | None:
  return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
