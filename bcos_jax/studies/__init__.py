"""Studies of B-cosification with small networks, which run offline in minutes.

  bcos-jax study equivalence | speedup | b-sweep | options | methods | sanity | robustness |
    alignment | clip | closed-form | calibration | replication | texts | mail

Each trains what it needs, measures it, and leaves a table, plots and a report. Every sentence of
an answer is written from the numbers of its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import shlex
import time

from ..errors import InputError, unknown_name
from ..io.bundles import check_writable
from . import (
  alignment,
  b_sweep,
  clip,
  closed_form,
  equivalence,
  mail,
  methods,
  options,
  replication,
  robustness,
  sanity,
  speedup,
  text,
)
from .lab import SETTINGS, Lab
from .study import Findings
from .text_lab import DATASET, TextLab

AnyLab = Lab | TextLab | mail.MailLab

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
  "calibration": closed_form.settings,
  "replication": replication.study,
  "texts": text.study,
  "mail": mail.study,
}
"""Every study by name."""

_OF_TEXTS = {"texts": (TextLab, DATASET), "mail": (mail.MailLab, mail.DATASET)}
_FROM_A_BUNDLE = ("mail",)
_OF_SEEDS = ("closed-form", "calibration", "replication")


def run(
  name: str,
  *,
  workdir: str | os.PathLike = "runs/studies",
  dataset: str = "",
  network: str = "",
  init: str = "",
  seed: int = 0,
  seeds: int = 1,
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
      "reviews", of `mail` "spam_assassin". "" for shape_scenes or those.
    network: Architecture, see `bcos_jax.names()`, or "vit" or "vitc" of fashion_mnist; "" for that
      of the data set's recipe (of `equivalence`: one small network of every kind).
    init: Of `mail`: bundle of the pretrained encoder; networks are kept by its last two names.
    seed: Of everything.
    seeds: How many seeds, from `seed` on, are measured; more than one for `closed-form`,
      `calibration` and `replication`.
    short: A fraction of the steps and pictures; shows that everything runs, the numbers mean
      little.
    progress: Whether to show progress bars.
    say: Function that prints one line of output.

  Returns:
    The findings, also written to study.md, table.csv, report.html and a PNG per plot in
    `workdir/findings/<data set>/<name>`.

  Raises:
    InputError: An unknown name, several seeds or a bundle for a study that takes none, or a folder
      that cannot be written.
  """
  _check(name, seeds, init)
  began = time.monotonic()
  workdir = pathlib.Path(check_writable(workdir))
  kind, usual = _OF_TEXTS.get(name, (Lab, "shape_scenes"))
  lab = kind(
    workdir=workdir / "networks",
    dataset=dataset or usual,
    network=network,
    seed=seed,
    short=short,
    progress=progress,
    say=say,
    **({"init": init} if name in _FROM_A_BUNDLE else {}),
  )
  labs = [_of_seed(lab, one) for one in range(seed, seed + seeds)]
  found = STUDIES[name](*labs)
  folder = _folder(workdir, labs, name)
  found.write(folder, _command(name, labs), time.monotonic() - began)
  say("\n" + "\n".join(found.answer) + f"\n\nTable, plots and report: {folder}")
  return found


def _of_seed(lab: AnyLab, seed: int) -> AnyLab:
  return dataclasses.replace(lab, seed=seed, workdir=lab.workdir / _kind(lab, f"seed{seed}"))


def _folder(workdir: pathlib.Path, labs: Sequence[AnyLab], name: str) -> pathlib.Path:
  first, last = labs[0].seed, labs[-1].seed
  which = f"seed{first}" if len(labs) == 1 else f"seeds{first}-{last}"
  folder = workdir / "findings" / _kind(labs[0], which) / name
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def _kind(lab: AnyLab, seeds: str) -> str:
  words = [lab.dataset, lab.network, *_source(lab), seeds, "short" if lab.short else ""]
  return "-".join(word for word in words if word)


def _source(lab: AnyLab) -> tuple[str, ...]:
  """Returns the last two names of the bundle that a study starts from, or nothing."""
  init = lab.init if isinstance(lab, mail.MailLab) else ""
  return pathlib.Path(init).resolve().parts[1:][-2:] if init else ()


def _check(name: str, seeds: int, init: str) -> None:
  if name not in STUDIES:
    raise unknown_name("study", name, STUDIES)
  several = name in _OF_SEEDS
  if seeds < 1 or (seeds > 1 and not several):
    raise InputError(
      f"{seeds} seeds, expected {'at least 1' if several else '1'} for {name}.",
      f"Several seeds are measured by {', '.join(_OF_SEEDS)}; --seed=1 is another one.",
    )
  if init and name not in _FROM_A_BUNDLE:
    raise InputError(
      f"--init={init} for {name}, expected none.",
      f"Omit it; {', '.join(_FROM_A_BUNDLE)} starts from a bundle.",
    )


def _command(name: str, labs: Sequence[AnyLab]) -> str:
  lab = labs[0]
  words = ["bcos-jax", "study", name, f"--dataset={lab.dataset}"]
  words += [f"--network={lab.network}"] if lab.network else []
  words += [f"--init={lab.init}"] if isinstance(lab, mail.MailLab) and lab.init else []
  words += [f"--seed={lab.seed}"] if lab.seed else []
  words += [f"--seeds={len(labs)}"] if len(labs) > 1 else []
  words += ["--short"] if lab.short else []
  return shlex.join(words)


__all__ = ["SETTINGS", "STUDIES", "Findings", "Lab", "TextLab", "run"]
