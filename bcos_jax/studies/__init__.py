"""Studies of B-cosification with small networks, which run offline in minutes.

  bcos-jax study equivalence | speedup | b-sweep | options | methods | sanity | robustness |
    alignment | clip | closed-form | texts

Each trains what it needs, measures it, and leaves a table, plots and a report. Every sentence of
an answer is written from the numbers of its table.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import shlex
import time

from ..errors import unknown_name
from ..io.bundles import check_writable
from . import (
  alignment,
  b_sweep,
  clip,
  closed_form,
  equivalence,
  methods,
  options,
  robustness,
  sanity,
  speedup,
  text,
)
from .lab import SETTINGS, Lab
from .study import Findings
from .text_lab import DATASET, TextLab

STUDIES: dict[str, Callable[..., Findings]] = {
  "equivalence": equivalence.study,
  "speedup": speedup.study,
  "b-sweep": b_sweep.study,
  "options": options.study,
  "methods": methods.study,
  "sanity": sanity.study,
  "robustness": robustness.study,
  "alignment": alignment.study,
  "clip": clip.study,
  "closed-form": closed_form.study,
  "texts": text.study,
}
"""Every study by name."""

_OF_TEXTS = ("texts",)


def run(
  name: str,
  *,
  workdir: str | os.PathLike = "runs/studies",
  dataset: str = "",
  network: str = "",
  seed: int = 0,
  short: bool = False,
  progress: bool = True,
  say: Callable[[str], None] = print,
) -> Findings:
  """Runs a study and writes what it finds.

  Args:
    name: One of `STUDIES`.
    workdir: Folder of networks and findings, which other studies share; a study that was stopped
      goes on where it was.
    dataset: "digits", "shape_scenes" or, once it is prepared, "fashion_mnist"; of `texts`
      "reviews". "" for shape_scenes or reviews.
    network: Architecture, see `bcos_jax.names()`, or "vit" of fashion_mnist; "" for that of the
      data set's recipe (of `equivalence`: one small network of every kind).
    seed: Of everything.
    short: A fraction of the steps and pictures; shows that everything runs, the numbers mean
      little.
    progress: Whether to show progress bars.
    say: Function that prints one line of output.

  Returns:
    The findings, also written to study.md, table.csv, report.html and a PNG per plot in
    `workdir/findings/<data set>/<name>`.

  Raises:
    InputError: An unknown name, or a folder that cannot be written.
  """
  if name not in STUDIES:
    raise unknown_name("study", name, STUDIES)
  began = time.monotonic()
  workdir = check_writable(workdir)
  reads_texts = name in _OF_TEXTS
  dataset = dataset or (DATASET if reads_texts else "shape_scenes")
  words = [dataset, network, f"seed{seed}", "short" if short else ""]
  kind = "-".join(word for word in words if word)
  lab = (TextLab if reads_texts else Lab)(
    workdir=pathlib.Path(workdir) / "networks" / kind,
    dataset=dataset,
    network=network,
    seed=seed,
    short=short,
    progress=progress,
    say=say,
  )
  found = STUDIES[name](lab)
  folder = pathlib.Path(workdir) / "findings" / kind / name
  folder.mkdir(parents=True, exist_ok=True)
  found.write(folder, _command(name, lab), time.monotonic() - began)
  say("")
  for line in found.answer:
    say(line)
  say(f"\nTable, plots and report: {folder}")
  return found


def _command(name: str, lab: Lab | TextLab) -> str:
  words = ["bcos-jax", "study", name, f"--dataset={lab.dataset}"]
  words += [f"--network={lab.network}"] if lab.network else []
  words += [f"--seed={lab.seed}"] if lab.seed else []
  words += ["--short"] if lab.short else []
  return shlex.join(words)


__all__ = ["SETTINGS", "STUDIES", "Findings", "Lab", "TextLab", "run"]
