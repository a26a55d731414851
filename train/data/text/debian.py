"""Debian's package lists as a text classification set: section from description.

Real text that needs no download where a package list is at hand:

  python -m bcos_jax.train.data.text.debian Packages.xz --descriptions Translation-en.bz2 \
    --out data/debian

`Packages` is the list of an archive (dists/bookworm/main/binary-amd64/Packages.xz of a mirror),
what `apt-cache dumpavail` prints, or /var/lib/dpkg/status of a machine. Lists of an archive hold
one line per package only; the whole descriptions are in a file of translations beside them
(dists/bookworm/main/i18n/Translation-en.bz2). The command writes train.jsonl and test.jsonl, which
`read_texts` reads.

Packages of one source share much of their descriptions. So a source's packages are all on one
side, and a description that comes twice counts once.
"""

from __future__ import annotations

import argparse
import bz2
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import sys
from typing import Any
import zlib

from bcos_jax.errors import InputError
from bcos_jax.io import files

LEFT_OUT = ("debug", "oldlibs", "metapackages", "introspection", "unknown")
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_Paragraph = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Package:
  """A package.

  Attributes:
    name: Its name.
    source: Of the source that it is built from.
    section: Without its area: "net", also for contrib/net.
    text: Its description, the synopsis first.
  """

  name: str
  source: str
  section: str
  text: str


def read_packages(
  path: str | os.PathLike, descriptions: str | os.PathLike | None = None
) -> list[Package]:
  """Reads a package list.

  Args:
    path: A `Packages` or `status` file, plain or packed as .gz, .xz or .bz2.
    descriptions: A `Translation-en` file, likewise, with the whole descriptions.

  Returns:
    The packages that have a section and a description, in order, each name once.

  Raises:
    InputError: A file that is not there, damaged or not a package list; with the line.
  """
  whole = {}
  if descriptions is not None:
    for paragraph in paragraphs(descriptions):
      key = paragraph.get("Package"), paragraph.get("Description-md5")
      whole[key] = paragraph.get("Description-en", "")
  packages: dict[str, Package] = {}
  for paragraph in paragraphs(path):
    name, section = paragraph.get("Package", ""), paragraph.get("Section", "")
    own = paragraph.get("Description") or paragraph.get("Description-en", "")
    text = _prose(whole.get((name, paragraph.get("Description-md5")), "") or own)
    if name and section and text:
      source = (paragraph.get("Source") or name).split()[0]
      packages.setdefault(name, Package(name, source, section.rpartition("/")[2], text))
  if not packages:
    raise InputError(
      f"{os.fspath(path)!r} has no package with a section and a description.",
      "Give a Packages file of a Debian archive, or /var/lib/dpkg/status.",
    )
  return list(packages.values())


def paragraphs(path: str | os.PathLike) -> Iterator[_Paragraph]:
  """Yields the paragraphs of a control file (Debian policy, section 5.1), fields by name."""
  path = pathlib.Path(path).expanduser()
  if path.suffix in (".lz4", ".zst"):
    raise InputError(
      f"{str(path)!r} is compressed as {path.suffix}, expected .gz, .xz, .bz2 or a plain file.",
      "Decompress it: /usr/lib/apt/apt-helper cat-file FILE > Packages",
    )
  try:
    with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
      yield from _parsed(file, str(path))
  except FileNotFoundError as error:
    raise InputError(
      f"No package list {str(path)!r}.",
      "Download Packages.xz from dists/SUITE/main/binary-amd64 of a Debian mirror.",
    ) from error
  except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
    raise InputError(
      f"Cannot read {str(path)!r}: {error}.", "It may be truncated: download it again."
    ) from error


def _parsed(file: Iterable[str], where: str) -> Iterator[_Paragraph]:
  fields: _Paragraph = {}
  name = ""
  for number, line in enumerate(file, 1):
    line = line.rstrip("\n")
    if not line.strip():
      if fields:
        yield fields
      fields, name = {}, ""
    elif line[0] in " \t" and name:
      fields[name] += "\n" + line
    elif line[0] not in " \t" and ":" in line:
      name, _, value = line.partition(":")
      fields[name] = value.strip()
    else:
      raise InputError(
        f"Line {number} of {where!r} is {line[:60]!r}, expected 'Field: value'.",
        "Give a Packages file of a Debian archive, or /var/lib/dpkg/status.",
      )
  if fields:
    yield fields


def _prose(description: str) -> str:
  """Returns a description as one line: its paragraphs' dots and indentation are not words."""
  lines = (line.strip() for line in description.split("\n"))
  return " ".join(" ".join(line for line in lines if line and line != ".").split())


def choose(
  packages: Sequence[Package], *, least: int = 100, left_out: Sequence[str] = LEFT_OUT
) -> tuple[list[Package], Counter[str]]:
  """Returns the packages to use, and how many were left out, by reason.

  Args:
    packages: All packages.
    least: Packages that a section needs to be a class.
    left_out: Sections that do not describe the purpose of a package.

  Raises:
    InputError: Fewer than two sections are left.
  """
  out: Counter[str] = Counter()
  seen: set[str] = set()
  distinct = []
  for package in packages:
    if package.section in left_out:
      out["a section that is left out"] += 1
    elif package.text in seen:
      out["a description seen before"] += 1
    else:
      distinct.append(package)
      seen.add(package.text)
  sizes = Counter(package.section for package in distinct)
  kept = [package for package in distinct if sizes[package.section] >= least]
  if len(kept) < len(distinct):
    out[f"a section of fewer than {least}"] = len(distinct) - len(kept)
  if len({package.section for package in kept}) < 2:
    raise InputError(
      f"Of {len(sizes)} sections, fewer than 2 have {least} packages; the largest: "
      f"{', '.join(f'{name} {count}' for name, count in sizes.most_common(3))}.",
      "Lower --least, or use a larger package list.",
    )
  return kept, out


def is_held_out(package: Package, share: float) -> bool:
  """Whether a package is held out for testing; equal for all packages of one source."""
  digest = hashlib.blake2b(package.source.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big") < share * 2**64


def write(packages: Sequence[Package], folder: str | os.PathLike, share: float) -> dict[str, int]:
  """Writes train.jsonl and test.jsonl, and returns the number of packages in each.

  Raises:
    InputError: A side without packages, or a folder that cannot be written.
  """
  sides: dict[str, list[Package]] = {"train": [], "test": []}
  for package in packages:
    sides["test" if is_held_out(package, share) else "train"].append(package)
  for side, own in sides.items():
    if not own:
      raise InputError(f"There are no packages to {side} on.", "Change --held-out.")
  for side, own in sides.items():
    target = files.check_folder(pathlib.Path(folder) / f"{side}.jsonl")
    lines = (
      json.dumps({"text": p.text, "label": p.section, "package": p.name}, ensure_ascii=False)
      for p in own
    )
    files.write(target, "".join(f"{line}\n" for line in lines).encode())
  return {side: len(own) for side, own in sides.items()}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m bcos_jax.train.data.text.debian",
    description="Makes a text classification set of a Debian package list: section from "
    "description.",
    epilog="example: python -m bcos_jax.train.data.text.debian Packages.xz --out data/debian",
  )
  parser.add_argument("packages", help="Packages file (.gz, .xz or plain), or dpkg's status")
  parser.add_argument("--descriptions", help="Translation-en file with the whole descriptions")
  parser.add_argument("--out", default="data/debian", help="folder to write (data/debian)")
  parser.add_argument("--least", type=int, default=100, help="packages per section (100)")
  parser.add_argument("--held-out", type=float, default=0.2, help="share to test on (0.2)")
  arguments = parser.parse_args(argv)
  if not 0 < arguments.held_out < 1:
    parser.error(f"--held-out={arguments.held_out}, expected a share between 0 and 1")
  try:
    packages, out = choose(
      read_packages(arguments.packages, arguments.descriptions), least=arguments.least
    )
    counts = write(packages, arguments.out, arguments.held_out)
  except InputError as error:
    print(f"error: {error.cause}\nfix: {error.fix}", file=sys.stderr)
    return 1
  print(f"{arguments.out}: {counts['train']} packages to train on, {counts['test']} to test on.")
  sections = Counter(package.section for package in packages)
  print("sections: " + ", ".join(f"{name} {count}" for name, count in sections.most_common()))
  for reason, count in out.items():
    print(f"left out: {count} with {reason}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
