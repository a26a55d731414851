"""What `bcos-jax compile` prints: a step's costs, and what follows for the whole run."""

from __future__ import annotations

from collections.abc import Callable
import math

from ml_collections import ConfigDict

from ..config import TEXT_OBJECTIVES, as_steps
from .chips import GIB
from .pod import Cost

READ_BY_A_CORE = 400
"""Pictures that a core decodes and augments per second, see docs/performance.md."""

Say = Callable[[str], None]


def report(cost: Cost, say: Say, config: ConfigDict, *, examples: int, utilisation: float) -> None:
  """Prints what compiling a recipe, or estimating it, found.

  Args:
    cost: Of its step.
    say: Prints a line.
    config: The recipe.
    examples: Size of the training set.
    utilisation: Assumed share of the peaks.
  """
  rows = [*_memory(cost), *_work(cost), *_times(cost, config, examples, utilisation)]
  if cost.seconds is None:
    say("estimated from the program before it is compiled, and from published figures of the GPU")
  else:
    rows.append(("compiled in", f"{cost.seconds:.0f} s"))
  for name, value in rows:
    say(f"{name:<28}{value}")
  say("per device and step, unless said otherwise")


def _memory(cost: Cost) -> list[tuple[str, str]]:
  memory, guess = cost.memory, _guess(cost)
  return [
    ("topology", f"{cost.topology}, {cost.devices} devices, batch {cost.batch_size}"),
    ("parameters", f"{cost.parameters / 1e6:.1f} M"),
    ("memory of state and batch", f"{memory['arguments'] / GIB:.3f} GiB"),
    ("memory of temporaries", f"{memory['temporaries'] / GIB:.3f} GiB{guess}"),
    ("memory, total", f"{memory['total'] / GIB:.3f} of {cost.chip.memory / GIB:.0f} GiB{guess}"),
  ]


def _work(cost: Cost) -> list[tuple[str, str]]:
  rows = [
    ("FLOPs", f"{cost.flops / 1e12:.3f} T"),
    ("HBM traffic", f"{cost.traffic / 1e9:.2f} GB{_guess(cost)}"),
    ("arithmetic intensity", f"{cost.flops / cost.traffic:.0f} FLOPs per byte"),
    *(
      (kind, f"{count} with {size / 1e6:.2f} MB")
      for kind, (count, size) in sorted(cost.collectives.items())
    ),
  ]
  if cost.loops:
    rows.append(("loops", f"{cost.loops}; traffic and collectives count once"))
  if cost.exchange:
    rows.append(("exchange of gradients", f"{1e3 * cost.exchange:.1f} ms (estimate)"))
  return rows


def _guess(cost: Cost) -> str:
  return " (estimate)" if cost.seconds is None else ""


def _times(
  cost: Cost, config: ConfigDict, examples: int, utilisation: float
) -> list[tuple[str, str]]:
  seconds, epoch = cost.step_seconds(utilisation), max(examples // cost.batch_size, 1)
  steps = as_steps(config.steps, epoch)
  hours = seconds * steps / 3600
  rows = [
    (f"step at {utilisation:.0%} of peak", f"{1e3 * seconds:.1f} ms (estimate)"),
    (f"epoch of {examples} examples", f"{seconds * epoch / 60:.2f} min (estimate)"),
    (
      "whole run",
      f"{steps} steps, {steps / epoch:.4g} epochs: {hours:.3g} h, "
      f"{hours * cost.devices:.4g} chip-hours (estimate)",
    ),
  ]
  rate, hosts = cost.batch_size / seconds, math.ceil(cost.devices / cost.chip.per_host)
  if config.objective.name not in TEXT_OBJECTIVES:
    cores = math.ceil(rate / hosts / READ_BY_A_CORE)
    rows.append(
      (
        "pictures to read",
        f"{rate:.0f} per second; on each of {hosts} hosts {rate / hosts:.0f}, about {cores} cores",
      )
    )
  return rows
