"""Recipes by name, with command-line overrides; every misspelling is an error."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
import contextlib
import importlib
import importlib.util
import pathlib
import pkgutil
import re
import traceback
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from bcos_jax import configs
from bcos_jax.configs.sections import KEYS
from bcos_jax.errors import InputError, unknown_name

from .settle import OPEN_SECTIONS, PREFIX, flatten, is_epochs, settle, unknown_key

_PARTS = ("common", "sections")  # of recipes, not recipes


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Returns a locked config.

  Args:
    spec: A name such as "digits", or the path of a .py file, with variants after a colon:
      "digits:bcosify".
    overrides: Command-line arguments such as ["--config.optimizer.lr=1e-3"]; the value may also
      be the next item.

  Returns:
    The config.

  Raises:
    InputError: for an unknown config, variant or key (naming the nearest), or a wrong type.
  """
  named = re.fullmatch(r"(.+?\.py|[^:]*)(?::(.*))?", spec)
  name, variants = named.groups() if named else (spec, "")
  module = _module(name)
  known = _variants(module)
  with _naming_the_line(module):
    config = module.get_config()
  for variant in filter(None, (variants or "").split(",")):
    if variant not in known:
      raise unknown_name(f"variant of the config {name!r}", variant, known)
    with _naming_the_line(module):
      known[variant](config)
  if not isinstance(config, ConfigDict):
    raise InputError(
      f"get_config of {_line_of(module)} returns {type(config).__name__}, expected a ConfigDict.",
      "Start from bcos_jax.configs.common.get_config(), change it, and return it.",
    )
  config = settle(config)
  before, asked = flatten(config), []
  for key, text in _pairs(overrides):
    _set(config, key, text)
    asked.append(key)
  return settle(config, asked, before)


def names() -> list[str]:
  """Returns the configs that `load_config` finds by name."""
  found = (module.name for module in pkgutil.iter_modules(configs.__path__))
  return sorted(name for name in found if name not in _PARTS)


def variants(name: str) -> list[str]:
  """Returns the variants of a config."""
  return list(_variants(_module(name)))


def _module(name: str) -> ModuleType:
  if name in names():
    return importlib.import_module(f"{configs.__name__}.{name}")
  path = pathlib.Path(name)
  if path.suffix != ".py":
    raise unknown_name("config", name, names())
  if not path.is_file():
    raise InputError(
      f"No config file {name!r}.", f"Give an existing .py file or one of {', '.join(names())}."
    )
  module_spec = importlib.util.spec_from_file_location(path.stem, path)
  assert module_spec is not None and module_spec.loader is not None, "it is a Python file"
  module = importlib.util.module_from_spec(module_spec)
  with _naming_the_line(module):
    module_spec.loader.exec_module(module)
  if not callable(getattr(module, "get_config", None)):
    raise InputError(
      f"The config file {name!r} has no function get_config.",
      "Define get_config(), which returns a ConfigDict; bcos_jax/configs/digits.py is an example.",
    )
  return module


def _variants(module: ModuleType) -> dict[str, Any]:
  """Returns the variants that a recipe offers; a file may have none."""
  found = getattr(module, "VARIANTS", {})
  if not isinstance(found, dict) or not all(map(callable, found.values())):
    raise InputError(
      f"VARIANTS of {str(module.__file__)!r} is {found!r}, expected names and functions.",
      "For example: VARIANTS = {'small': small}, where small(config) changes the config.",
    )
  return found


@contextlib.contextmanager
def _naming_the_line(module: ModuleType) -> Iterator[None]:
  """Turns whatever a recipe raises, an exit included, into an error with its file and line."""
  try:
    yield
  except (InputError, KeyboardInterrupt):
    raise
  except BaseException as error:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    if line is None:
      frames = traceback.extract_tb(error.__traceback__)
      line = next((at.lineno for at in reversed(frames) if at.filename == module.__file__), None)
    said = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())[:200]
    place = str(module.__file__) + (f", line {line}" if line else "")
    raise InputError(
      f"The config file {place}: {type(error).__name__}{f': {said}' if said else ''}.",
      "Correct the file; --debug shows the traceback.",
    ) from error


def _line_of(module: ModuleType) -> str:
  return f"{module.__file__}, line {module.get_config.__code__.co_firstlineno}"


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Splits ["--config.a=1", "--config.b", "2"] into ("a", "1"), ("b", "2")."""
  rest = iter(arguments)
  for argument in rest:
    if not argument.startswith(PREFIX):
      raise InputError(
        f"Unknown argument {argument!r}.", f"Config fields are set by {PREFIX}a.b=value."
      )
    key, equals, text = argument.removeprefix(PREFIX).partition("=")
    text = text if equals else next(rest, None)
    if text is None:
      raise InputError(f"No value for {argument}.", f"Write {argument}=value.")
    yield key, text


def _set(config: ConfigDict, key: str, text: str) -> None:
  """Sets a dotted key to the value that `text` stands for."""
  known = flatten(config)
  section = key.rpartition(".")[0]
  if key not in known and section.partition(".")[0] not in OPEN_SECTIONS:
    children = sorted(other for other in known if other.startswith(f"{key}."))
    if children:
      raise InputError(f"{key!r} is a section of the config.", f"Set {', '.join(children)}.")
    raise unknown_key(key)
  if section == "ops.encoding" and "encoding" not in config.ops:
    with config.unlocked():
      config.ops.encoding = ConfigDict()
  parent, name = _find(config, key)
  with parent.unlocked():
    parent[name] = _parse(text, known.get(key), key)


def _find(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
  """Returns the section that holds a dotted key, and the key's last part."""
  *sections, name = key.split(".")
  for section in sections:
    config = config[section]
  return config, name


def _parse(text: str, old: Any, key: str) -> Any:
  """Reads `text` as a value of the type of `old`; open keys and durations have two types."""
  duration = key in KEYS and KEYS[key].duration
  if duration and is_epochs(text):
    return text
  kind = int if duration else type(old)
  try:
    if kind is bool:
      return {"true": True, "false": False}[text.lower()]
    if kind is int:
      return _whole(text)
    if kind in (float, str):
      return kind(text)
    value = ast.literal_eval(text)
  except (ValueError, KeyError, SyntaxError, MemoryError, RecursionError):
    if old is None:  # A new key of an open section: plain words need no quotes.
      return {"true": True, "false": False}.get(text.lower(), text)
    raise _wrong_type(key, text, old) from None
  if isinstance(old, (tuple, list)) and not isinstance(value, (tuple, list)):
    raise _wrong_type(key, text, old)
  return value


def _whole(text: str) -> int:
  """Reads a whole number, also one such as 1e6; ValueError for others."""
  try:
    return int(text)
  except ValueError:
    value = float(text)
    if not value.is_integer():
      raise
    return int(value)


def _wrong_type(key: str, text: str, old: Any) -> InputError:
  kinds = {bool: "true or false", int: "a whole number", float: "a number"}
  kind = kinds.get(type(old), "a Python tuple")
  if key in KEYS and KEYS[key].duration:
    kind = 'a whole number of steps or text such as "90 epochs"'
  return InputError(f"{PREFIX}{key}={text!r}: expected {kind}.", f"The current value is {old!r}.")
