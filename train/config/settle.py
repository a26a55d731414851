"""Checks of a recipe: every key is known, of its type, in range, and read by what is chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import difflib
import math
import numbers
import re
from typing import Any

from ml_collections import ConfigDict

from bcos_jax.configs.sections import KEYS, MOST_STEPS, Key, nested
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.io.files import check_name

PREFIX = "--config."
# What runs on texts: objective to what the network does.
TEXT_OBJECTIVES = {"text": "classify", "masked_lm": "masked_lm", "causal_lm": "next_token"}
TAUGHT = ("match", "align", "clip")  # by a frozen teacher
# Sections that take any key: bcos_jax.create and the layer families know theirs.
OPEN_SECTIONS = ("model", "ops", "text")
_NAMING = {"text": "text.name"}  # The key whose condition an open section shares.
_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def settle(
  config: ConfigDict, asked: Collection[str] | None = None, before: Mapping[str, Any] | None = None
) -> ConfigDict:
  """Returns a locked recipe with all keys, those that nothing reads at their defaults.

  Args:
    config: A recipe; keys that it leaves out take their defaults.
    asked: Keys that the user has set. What the recipe itself has set for other choices than the
      user's is dropped. None for a recipe as it is, where that is an error.
    before: Values of the recipe before the user changed it.

  Raises:
    InputError: An unknown key, with the nearest one; a wrong type or a value out of range; a value
      that nothing reads, with the choice that would read it.
  """
  values = {name: key.default for name, key in KEYS.items()} | flatten(config)
  for name in values:
    if name not in KEYS and name.partition(".")[0] not in OPEN_SECTIONS:
      raise unknown_key(name)
  check_values(values)
  for name, when in _unread(values).items():
    default, cleared = KEYS[name].default if name in KEYS else None, (before or {}).get(name)
    at_default = name in KEYS and values[name] == default
    clears = at_default and cleared not in (None, default)
    if clears or (at_default if asked is None else name not in asked):
      continue
    raise InputError(
      f"{PREFIX}{name}={values[name]!r} does nothing in this recipe: no part of it reads the key.",
      f"It is read with {when.unmet(values)}.",
    )
  if values.get("ops.detach"):
    raise InputError(
      f"{PREFIX}ops.detach=True is explanation mode: a network of it cannot be trained.",
      f"Leave out {PREFIX}ops.detach.",
    )
  values = _reset(values)
  labelled = values["objective.name"] in ("supervised", "text") and not values["finetune"]
  if labelled and values["model.num_classes"] < 1:
    raise InputError(
      f"config.model.num_classes={values['model.num_classes']}; expected at least 1.",
      f"Set {PREFIX}model.num_classes to the number of classes of the data.",
    )
  return ConfigDict(nested(values), type_safe=False).lock()


def settled_values(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values by dotted key that `settle` leaves of a recipe that was stored once.

  Checkpoints hold all keys of their time: also some that nothing read, and none of later ones.
  """
  return _reset({name: key.default for name, key in KEYS.items()} | dict(values))


def unknown_key(name: str) -> InputError:
  """Returns the error for a key that no section has, with the nearest or those beside it."""
  section = name.rpartition(".")[0]
  beside = [key for key in KEYS if key.rpartition(".")[0] == section]
  near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.5)
  return unknown_name("config key", name, near or beside or KEYS)


def read_keys(config: ConfigDict) -> list[str]:
  """Returns the keys of a recipe that what it chooses reads, sorted."""
  values = flatten(config)
  return sorted(values.keys() - _unread(values).keys())


def check_values(values: Mapping[str, Any], section: str = "") -> None:
  """Checks types and ranges.

  Args:
    values: By dotted key, or by the names within a section.
    section: Whose values they are; "" for the whole recipe.

  Raises:
    InputError: For the first one that is wrong.
  """
  finetune = bool(values.get("finetune"))
  for name, value in values.items():
    key = KEYS.get(f"{section}.{name}" if section else name)
    if key is not None and not (finetune and key.open is not None and value == key.open):
      _check_type(key, value)
      _check_range(key, value)


def as_steps(duration: int | str, steps_per_epoch: int) -> int:
  """Returns a duration, a number of steps or text such as "90 epochs", in steps.

  Raises:
    InputError: for anything else.
  """
  if isinstance(duration, int) and 0 <= duration <= MOST_STEPS:
    return duration
  epochs = _EPOCHS.fullmatch(str(duration))
  if not epochs or float(epochs[1]) * steps_per_epoch > MOST_STEPS:
    raise InputError(
      f"Duration {duration!r} is neither a number of steps, at most {MOST_STEPS}, nor of epochs.",
      'Write 1000 or "90 epochs".',
    )
  return round(float(epochs[1]) * steps_per_epoch)


def is_epochs(text: str) -> bool:
  """Returns whether text is a duration such as "90 epochs"."""
  return bool(_EPOCHS.fullmatch(text))


def in_steps(config: ConfigDict, steps_per_epoch: int) -> ConfigDict:
  """Returns a copy of the config with every duration in steps."""
  values = flatten(config)
  for name, key in KEYS.items():
    if key.duration and name in values:
      values[name] = as_steps(values[name], steps_per_epoch)
  return ConfigDict(nested(values), type_safe=False).lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
  """Returns the values by dotted key, such as {"optimizer.lr": 0.001}."""

  def walk(section: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
      if isinstance(value, ConfigDict):
        yield from walk(value, f"{prefix}{name}.")
      else:
        yield prefix + name, value

  return dict(walk(config, ""))


def format_config(config: ConfigDict) -> str:
  """Writes what a recipe reads as lines such as `--config.optimizer.lr=0.001`, sorted."""
  values = flatten(config)
  return "\n".join(f"{PREFIX}{name}={values[name]}" for name in read_keys(config))


def _unread(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the keys that nothing chosen reads, with the conditions under which they are read."""
  found = {}
  for name in values:
    key = KEYS.get(name) or KEYS.get(_NAMING.get(name.partition(".")[0], ""))
    if key is not None and not key.when.holds(values):
      found[name] = key.when
  return found


def _reset(values: dict[str, Any]) -> dict[str, Any]:
  """Returns the values, those that nothing reads at their defaults, or left out without one."""
  while True:  # A key that falls back may have been the condition of another.
    unread = _unread(values)
    after = {
      name: KEYS[name].default if name in unread else value
      for name, value in values.items()
      if name not in unread or name in KEYS
    }
    if after == values:
      return after
    values = after


def _check_type(key: Key, value: Any) -> None:
  kind = type(key.default)
  if key.duration and isinstance(value, str):
    return
  number = {int: numbers.Integral, float: numbers.Real, tuple: (tuple, list)}.get(kind, kind)
  if not isinstance(value, number) or (isinstance(value, bool) and kind is not bool):
    raise InputError(
      f"{PREFIX}{key.name}={value!r}: expected {_KINDS.get(kind, 'a Python tuple')}.",
      f"The default is {key.default!r}: {key.doc}.",
    )


def _check_range(key: Key, value: Any) -> None:
  """Checks bounds, names, durations and regular expressions."""
  for item in value if key.patterns else ():
    _check_pattern(key, item)
  if key.duration:
    as_steps(value, 1)
  if isinstance(value, str) and not (key.names or key.duration):
    check_name(value)
  if key.names and value not in key.names:
    raise unknown_name(key.name, value, key.names)
  if isinstance(value, float) and not math.isfinite(value):
    raise InputError(f"config.{key.name}={value}; expected a finite number.", _set_it(key))
  number: Any = value  # wherever there is a bound
  for fits, expected in (
    (key.least is None or number >= key.least, f"at least {key.least}"),
    (key.most is None or number <= key.most, f"at most {key.most}"),
    (key.below is None or number < key.below, f"below {key.below}"),
  ):
    if not fits:
      raise InputError(f"config.{key.name}={value}; expected {expected}.", _set_it(key))


def _check_pattern(key: Key, item: Any) -> None:
  """Checks a regular expression, or a pair that begins with one."""
  pattern: Any = item
  if key.patterns == "pairs":
    if not (isinstance(item, tuple | list) and len(item) == 2):
      raise InputError(
        f"config.{key.name}: {item!r} is not a pair that begins with a regular expression.",
        _set_it(key),
      )
    pattern = item[0]
  try:
    re.compile(pattern)
  except (re.error, TypeError) as error:
    raise InputError(
      f"config.{key.name}: {pattern!r} is not a regular expression: {error}.", _set_it(key)
    ) from error


def _set_it(key: Key) -> str:
  return f"Set {PREFIX}{key.name}; the default is {key.default!r}."
