"""Graceful interruption between two steps, by the user or the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

StopRequested = Callable[[int], bool]


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequested]:
  """Yields a function of the finished steps that returns whether to stop now.

  SIGINT (Ctrl-C) and SIGTERM request it; a second signal acts as usual. Of several processes it
  is enough that one is asked: all of them stop after the same step. Outside the main thread,
  where Python handles no signals, no stop is requested.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
  elif jax.process_count() > 1:
    # JAX's own handler of SIGTERM tells the other processes, so it must stay in place.
    with _handled((signal.SIGINT,), lambda: os.kill(os.getpid(), signal.SIGTERM)):
      yield multihost_utils.reached_preemption_sync_point
  else:
    requested = threading.Event()
    with _handled((signal.SIGINT, signal.SIGTERM), requested.set):
      yield lambda step: requested.is_set()


@contextlib.contextmanager
def _handled(numbers: tuple[int, ...], act: Callable[[], None]) -> Iterator[None]:
  """Calls `act` at the first of each of these signals."""
  before = {number: signal.getsignal(number) for number in numbers}
  # Handlers that were not installed from Python cannot be put back, so they stay.
  before = {number: handler for number, handler in before.items() if handler is not None}

  def handle(number, frame):
    del frame
    act()
    signal.signal(number, before[number])

  for number in before:
    signal.signal(number, handle)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
