"""Stopping between two steps when the user or the machine asks for it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
import threading


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
  """Yields an event that SIGINT (Ctrl-C) or SIGTERM sets; a second signal acts as usual.

  Outside the main thread, where Python handles no signals, it is never set.
  """
  requested = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield requested
    return
  before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  # Handlers that were not installed from Python cannot be put back, so they stay.
  before = {number: handler for number, handler in before.items() if handler is not None}

  def request(number, frame):
    del frame
    requested.set()
    signal.signal(number, before[number])

  for number in before:
    signal.signal(number, request)
  try:
    yield requested
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
