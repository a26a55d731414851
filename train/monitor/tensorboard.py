"""A writer of TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

_PROTO: Any = event_pb2  # whose classes are made when it is imported


class Board:
  """Writes events as they come.

  `tensorboardX.SummaryWriter` writes from a thread. A full disk ends that thread, and then the
  training waits for it for ever.
  """

  def __init__(self, folder: pathlib.Path, start_step: int):
    """Opens a file of its own in `folder`.

    Args:
      folder: Made if needed.
      start_step: What earlier files hold of later steps is hidden.
    """
    folder.mkdir(parents=True, exist_ok=True)
    self._events = event_file_writer.EventsWriter(str(folder / "events"))
    if start_step:
      log = _PROTO.SessionLog(status=_PROTO.SessionLog.START)
      self._events.write_event(_PROTO.Event(step=start_step + 1, session_log=log))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one number per name."""
    for name, value in values.items():
      self._write(step, summary.scalar(name, value))
    self._events.flush()

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a picture, uint8 [H, W, 3]."""
    self._write(step, summary.image(name, image, dataformats="HWC"))
    self._events.flush()

  def close(self) -> None:
    """Closes the file."""
    self._events.close()

  def _write(self, step: int, content: object) -> None:
    self._events.write_event(_PROTO.Event(step=step, wall_time=time.time(), summary=content))
