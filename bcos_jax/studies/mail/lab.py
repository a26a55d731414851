"""Shared setup of the study of mail: its networks, made once, and readers of them.

As in `studies.lab`, networks are kept in the folder, and a study that was stopped goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import json
import pathlib
import time

import jax

import bcos_jax

from ... import TextReader, calibration
from ...errors import InputError, unknown_name
from ...io.files import write
from ...models import is_language_model
from ...ops import BcosOps, StandardOps
from ...text.tokenizer import saved_files
from ...train.config import load_config
from ...train.data.text import vocabularies
from ...train.loop import train
from ..lab import Say
from . import mails

B = 1.5
"""Exponent of all B-cos networks of the study: that of the recipe."""
BATCH = 16
_TIMES = "seconds.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MailSetting:
  """How long networks are trained, and on how much is measured.

  Attributes:
    steps: Of each fine-tuning, batches of 16.
    few: Steps of the fine-tuning that starts in closed form.
    headed: Steps of that on mails with their headers.
    calibrate: Training mails, without labels, of the closed form.
    rows: Places at which each of its maps is fitted, or four times its inputs if more.
    length: Most tokens of a mail.
    tested: Test mails that accuracy is measured on, at most.
    explained: Test mails whose explanations are measured.
    summed: Training mails over which contributions of words are summed.
    removed: Words that are hidden from test mails, of each label.
    path_steps: Steps of integrated gradients.
    rate: Learning rate of every fine-tuning but that with headers.
    headed_rate: Of that one, whose texts the encoder never saw.
  """

  steps: int = 150
  few: int = 20
  headed: int = 120
  calibrate: int = 128
  rows: int = 6000
  length: int = 96
  tested: int = 400
  explained: int = 16
  summed: int = 150
  removed: int = 10
  path_steps: int = 8
  rate: float = 5e-5
  headed_rate: float = 1e-4


_SHORT = MailSetting(
  steps=40,
  few=4,
  headed=40,
  calibrate=32,
  length=32,
  tested=40,
  explained=6,
  summed=40,
  removed=2,
  path_steps=2,
  rate=1e-2,
  headed_rate=1e-2,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MailLab:
  """A place for the study of mail; fields as of `lab.Lab`, and what networks start from.

  Attributes:
    init: Bundle of a pretrained conventional encoder with its tokenizer; "" for a small one of
      random weights, only if the study is short.
  """

  workdir: pathlib.Path
  dataset: str = mails.NAME
  network: str = ""
  init: str = ""
  seed: int = 0
  short: bool = False
  progress: bool = True
  say: Say = print

  def __post_init__(self):
    if self.dataset != mails.NAME:
      raise unknown_name("data set of the study of mail", self.dataset, (mails.NAME,))
    if self.network:
      raise InputError(
        f"--network={self.network}, expected none.",
        "The study of mail starts from the bundle of a pretrained encoder: --init=BUNDLE.",
      )
    if self.init:
      _check_encoder(self.init)
    elif not self.short:
      raise InputError(
        "--init is empty, expected the bundle of a pretrained encoder.",
        "Convert one with `bcos-jax convert`, or try --short, which takes random weights.",
      )

  @property
  def setting(self) -> MailSetting:
    return _SHORT if self.short else MailSetting()

  @functools.cached_property
  def folder(self) -> pathlib.Path:
    """The folder of the mails that the study reads."""
    return mails.written(self.workdir / "mails", made=self.short, seed=self.seed)

  def mails(self, split: str) -> mails.Mails:
    return mails.read(self.folder, split)

  def conventional(self) -> TextReader:
    """The conventional classifier of mails without headers."""
    return self._tuned("conventional", "conventional", self._start(), self.setting.steps)

  def fine_tuned(self) -> TextReader:
    """The B-cosified encoder, fine-tuned as long; the published preset."""
    return self._tuned("fine-tuned", "", self._start(), self.setting.steps)

  def closed_form(self) -> TextReader:
    """The B-cosified conventional classifier, in closed form from unlabelled mails."""
    given = self.conventional()
    return self._kept("closed-form", lambda: self._in_closed_form(given))

  def closed_form_tuned(self) -> TextReader:
    """The closed form, fine-tuned for a few steps."""
    self.closed_form()
    start = self._bundle("closed-form")
    return self._tuned("closed-form-tuned", "", start, self.setting.few)

  def headed(self) -> TextReader:
    """The closed form, fine-tuned for a few steps on mails with their headers."""
    self.closed_form()
    return self._tuned("headed", "", self._bundle("closed-form"), self.setting.headed, "mail")

  def seconds(self) -> dict[str, float]:
    """Returns how long each network kept one core busy, by the name of its folder.

    None of a network that was made in several runs.
    """
    path = self.workdir / _TIMES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

  def _bundle(self, name: str) -> pathlib.Path:
    return self.workdir / f"{name}.bundle"

  def _kept(self, name: str, make: Callable[[], None]) -> TextReader:
    """Returns the reader of a bundle, which is made if it is not there."""
    folder = self._bundle(name)
    if not folder.exists():
      resumed, began = (self.workdir / name).exists(), time.process_time()
      make()
      if not resumed:
        times = self.seconds() | {name: time.process_time() - began}
        write(self.workdir / _TIMES, json.dumps(times, indent=1).encode())
    return TextReader.load(folder, length=self.setting.length, truncate=True)

  def _start(self) -> pathlib.Path:
    """Returns the bundle that fine-tuning starts from."""
    if self.init:
      return pathlib.Path(self.init)
    folder = self._bundle("random")
    if not folder.exists():
      texts = self.mails("train").headed
      source = vocabularies.train_pieces(self.workdir / "pieces", texts, 400)
      sizes = {"width": 32, "mlp_dim": 64, "context_length": 64, "vocab_size": len(source)}
      model = bcos_jax.create("bert_tiny", ops=StandardOps(), num_classes=2, **sizes)
      ids = jax.numpy.zeros((1, 8), jax.numpy.int32)
      variables = model.init(jax.random.key(self.seed), ids)
      bcos_jax.save(folder, model, variables, tokenizer=saved_files(source))
    return folder

  def _tuned(
    self, name: str, variant: str, start: pathlib.Path, steps: int, column: str = "text"
  ) -> TextReader:
    return self._kept(name, lambda: self._tune(name, variant, start, steps, column))

  def _tune(self, name: str, variant: str, start: pathlib.Path, steps: int, column: str) -> None:
    self.say(f"Training {name}: {steps} steps")
    rate = self.setting.headed_rate if column == "mail" else self.setting.rate
    # The loss of each kind of network: softmax of the conventional one, sigmoids as published.
    own = ["--config.loss.name=cross_entropy", "--config.loss.eval_name=cross_entropy"]
    config = load_config(
      "bcosify_lm" + (f":{variant}" if variant else ""),
      [
        f"--config.init={start}",
        f"--config.data.folder={self.folder}",
        f"--config.data.text={column}",
        "--config.data.train_split=train",
        "--config.data.test_split=validation",
        f"--config.data.max_length={self.setting.length}",
        f"--config.data.batch_size={BATCH}",
        f"--config.steps={steps}",
        "--config.eval_every=0",
        "--config.best=False",
        f"--config.optimizer.lr={rate}",
        f"--config.optimizer.warmup_steps={steps // 10}",
        f"--config.seed={self.seed}",
        *([f"--config.ops.b={B}"] if not variant else own),
      ],
    )
    result = train(config, workdir=self.workdir / name, progress=self.progress)
    bcos_jax.save(
      self._bundle(name),
      result.model,
      jax.device_get(result.variables),
      labels=result.labels,
      tokenizer=result.tokenizer,
    )

  def _in_closed_form(self, given: TextReader) -> None:
    self.say(f"In closed form from {self.setting.calibrate} mails")
    batch = given.read(self.mails("train").some(self.setting.calibrate).bare)
    texts = {"tokens": batch.ids, "mask": batch.mask}
    twin = bcos_jax.bcosify(given.model, given.variables, ops=BcosOps.lm(b=B))
    settings = calibration.Calibration(
      head="log_odds", rows=self.setting.rows, rows_per_channel=4, seed=self.seed
    )
    made, report = calibration.calibrate(given.model, given.variables, *twin, texts, settings)
    self.say(str(report))
    source = bcos_jax.load(self._bundle("conventional"))
    bcos_jax.save(
      self._bundle("closed-form"),
      twin[0],
      made,
      labels=given.labels,
      tokenizer=source.tokenizer,
    )


def _check_encoder(folder: str) -> None:
  model = bcos_jax.load(folder).model
  if not is_language_model(model) or model.predicts == "next_tokens":
    raise InputError(
      f"--init={folder} is a {type(model).__name__}, expected an encoder of texts.",
      "Convert one with `bcos-jax convert`, such as bert_base.",
    )
  if isinstance(model.ops, BcosOps):
    raise InputError(
      f"--init={folder} is a B-cos network already, expected a conventional one.",
      "Give the encoder that it was made of.",
    )
