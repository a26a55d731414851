"""Where the bytes of a training step go on a TPU v5e, by kind of layer. No TPU is needed.

    python benchmarks/traffic.py
    python benchmarks/traffic.py --models resnet50 --batch 64

The compiled program of `cost.py`, instruction by instruction: what each reads from and writes to
the chip's main memory, by the layer that its name says and the pass that it belongs to. A fusion
has the name of the operation that it ends with, so that a convolution with the norm that follows it
counts as a norm. Sums are of whole operands; XLA's own count, which knows where a fusion reads but
a part, is given for comparison. Beside ResNet-50 stands one of Flax's own layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import math
import re

import cost

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
ENTRY = re.compile(r"^ENTRY .*?\{$(.*?)^\}", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.+?) ([\w-]+)\((.*)$")
ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
FREE = {
  "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "copy-done", "slice-done",
  "async-done", "partition-id", "after-all", "opt-barrier",
}  # fmt: skip
KINDS = {
  "norm": r"bn|norm",
  "attention": r"attn",
  "mlp": r"mlp|ff_",
  "convolution": r"conv|embedding|stem",
  "head": r"head|logits|fc",
}


def sizes(shape: str) -> float:
  """Returns the bytes in main memory of the arrays that a text names."""
  total = 0.0
  for dtype, sides, layout in ARRAY.findall(shape):
    if "S(" not in layout:  # another memory, on the chip
      total += BYTES.get(dtype, 4) * math.prod(int(side) for side in sides.split(",") if side)
  return total


def instructions(program: str) -> Iterator[tuple[str, float]]:
  """Yields the metadata name and the bytes of each instruction of the main computation."""
  (body,) = ENTRY.findall(program)
  shapes = {}
  for line in body.splitlines():
    found = LINE.match(line)
    if not found:
      continue
    name, shape, kind, rest = found.groups()
    shapes[name] = shape
    if kind in FREE:
      continue
    operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
    moved = sizes(shape) + sum(sizes(shapes.get(operand, "")) for operand in operands)
    if kind.endswith("-start"):  # names its operand in its result as well
      moved = sizes(shape)
    label = re.search(r'op_name="([^"]*)"', rest)
    yield label[1] if label else "", moved


def kind_of(name: str) -> str:
  """Returns the kind of layer that an operation belongs to."""
  for kind, pattern in KINDS.items():
    if any(re.search(pattern, part) for part in name.split("/")[1:-1]):
      return kind
  return "between layers" if "jvp(" in name else "optimiser, copies"


def table(programs: dict[str, str], batch: int) -> list[str]:
  """Returns rows of Markdown: MB per picture by kind and pass, a column for each program."""
  found: dict[str, dict[str, float]] = {}
  for family, program in programs.items():
    for name, moved in instructions(program):
      way = "backward" if "transpose(" in name else "forward"
      kind = kind_of(name)
      row = kind if kind == "optimiser, copies" else f"{kind}, {way}"
      of = found.setdefault(row, dict.fromkeys(programs, 0.0))
      of[family] += moved / batch / 1e6
  found["all"] = {family: sum(of[family] for of in found.values()) for family in programs}
  order = sorted(found, key=lambda row: (row == "all", row))
  return [
    f"| {row} | " + " | ".join(f"{v:.1f}" for v in found[row].values()) + " |" for row in order
  ]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--models", nargs="+", default=["resnet50", "simple_vit_b_patch16_224"])
  parser.add_argument("--batch", type=int, default=256)
  args = parser.parse_args()
  for name in args.models:
    families = [*cost.FAMILIES, *([cost.PLAIN] if name == "resnet50" else [])]
    programs, counted = {}, {}
    for family in families:
      programs[family], values = cost.measure(name, family, args.batch, full=False)
      counted[family] = values[1] / args.batch / 1e6
    print(f"\n{name}, batch {args.batch}, bfloat16, AdamW: MB of main memory per picture\n")
    print(f"| | {' | '.join(families)} |\n|---|{'---|' * len(families)}")
    print("\n".join(table(programs, args.batch)))
    print(f"| XLA's count | {' | '.join(f'{v:.1f}' for v in counted.values())} |", flush=True)


if __name__ == "__main__":
  main()
