"""A walk through a page: its blocks run in order, in a copy of the checkout."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any, TextIO

from ..common import ROOT
from . import givens, pages
from .pages import Block, Command

_OURS = ("XLA_FLAGS", "PJRT_NPROC", "JAX_DISABLE_MOST_OPTIMIZATIONS")  # what conftest.py sets
_LEFT_OUT = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "runs")
_LONGEST = 900  # seconds of a command


def checkout(place: pathlib.Path) -> pathlib.Path:
  """Copies the checkout to a new folder, as somebody who clones it has it."""
  return shutil.copytree(
    ROOT, place, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True
  )


def environment(place: pathlib.Path, shared: pathlib.Path) -> dict[str, str]:
  """Returns the environment of a user's shell, who has installed the package and is offline.

  Args:
    place: The checkout.
    shared: Folder of what several walks may share: compiled programs.
  """
  scripts = pathlib.Path(sys.executable).parent
  kept = {key: value for key, value in os.environ.items() if key not in _OURS}
  return kept | {
    "PATH": f"{scripts}{os.pathsep}{kept['PATH']}",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(place), kept.get("PYTHONPATH", "")])),
    "XDG_CACHE_HOME": str(shared / "cache"),
    "HF_HUB_CACHE": str(place / givens.HUB),
    "HF_HUB_OFFLINE": "1",
    "VENV": str(_installed(place)),
  }


def _installed(place: pathlib.Path) -> pathlib.Path:
  """Returns a virtual environment that `make` finds made: the one of this process."""
  venv = place / "build" / "venv"
  venv.mkdir(parents=True)
  (venv / "bin").symlink_to(pathlib.Path(sys.executable).parent)
  for name in (".installed", ".installed-test"):
    (venv / name).touch()
  return venv


@dataclasses.dataclass
class Walk:
  """What is there while a page is walked.

  Attributes:
    place: The checkout, and working directory.
    environment: Of its commands.
    space: Names that its Python blocks have defined.
    port: File whose lock is held while an app runs: all pages print the same port.
    server: The app that the page has started last, and that still runs.
  """

  place: pathlib.Path
  environment: dict[str, str]
  port: TextIO
  space: dict[str, Any] = dataclasses.field(default_factory=dict)
  server: subprocess.Popen | None = None

  def run(self, block: Block) -> None:
    """Makes what a block needs, and runs it, unless the page says that it is not run."""
    if block.not_run or block.language == pages.OUTPUT:
      return
    for name in block.given:
      givens.make(name, self.place, self.space)
    if block.file:
      (self.place / block.file).write_text(block.text, encoding="utf-8")
    elif block.language == pages.PYTHON:
      source = "\n" * block.line + block.text  # so that a traceback tells the line of the page
      exec(compile(source, str(pages.path(block.page)), "exec"), self.space)
    else:
      for command in block.commands():
        self._command(command, block.extra)

  def _command(self, command: Command, extra: str) -> None:
    words = command.words
    if words[:2] == ["bcos-jax", "app"]:
      self._serve(words)
      return
    done = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", f"{command.text.partition(' #')[0]} {extra}"],
      cwd=self.place,
      env=self.environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=_LONGEST,
      check=False,
    )
    said = (
      f"{command.text}\nexit code {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    )
    if command.printed.startswith("error: "):  # refused, as the page shows
      assert done.returncode == 2 and command.printed.strip() in done.stderr, said
    else:
      assert done.returncode == 0, said

  def _serve(self, words: list[str]) -> None:
    """Starts the app, waits until it says its address, and leaves it running."""
    self.stop()
    fcntl.flock(self.port, fcntl.LOCK_EX)
    log = self.place / "build" / "app.log"
    with log.open("w") as file:
      self.server = subprocess.Popen(
        words, cwd=self.place, env=self.environment, stdout=file, stderr=subprocess.STDOUT
      )
    said = ""
    for _ in range(600):
      said = log.read_text()
      if "http://" in said:
        return
      assert self.server.poll() is None, said
      time.sleep(0.2)
    raise AssertionError(f"{words} does not say its address: {said}")

  def stop(self) -> None:
    """Ends the app, if one runs."""
    if self.server is not None:
      self.server.terminate()
      self.server.wait(30)
      self.server = None
      fcntl.flock(self.port, fcntl.LOCK_UN)


@contextlib.contextmanager
def walking(place: pathlib.Path, shared: pathlib.Path):
  """Yields a walk in a new checkout, made the working directory of this process meanwhile."""
  checkout(place)
  with (shared / "port.lock").open("a") as port, contextlib.chdir(place):
    walk = Walk(place, environment(place, shared), port)
    sys.path.insert(0, str(place))
    known = set(sys.modules)
    try:
      yield walk
    finally:
      walk.stop()
      sys.path.remove(str(place))
      for name in set(sys.modules) - known:  # the modules that the page wrote
        if str(place) in str(getattr(sys.modules[name], "__file__", "")):
          del sys.modules[name]
