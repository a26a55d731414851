"""Import rules: one direction between layers, and a light `import bcos_jax` (DESIGN, 2)."""

import ast
import collections
import os
import pathlib
import subprocess
import sys

import pytest

from .common import ROOT

# The floors of the house, from the ground up: a module imports only from its own room and from
# rooms on lower floors. Its room is its folder in `bcos_jax`, or its file in the root.
FLOORS = (
  ("errors", "cache", "compiling"),
  ("picture_files",),
  ("functional", "inputs", "batches", "variables"),
  ("layers",),
  ("ops",),
  ("models",),
  ("calibration",),
  ("bcosify",),
  ("io",),
  ("text",),
  ("render",),
  ("explain",),
  ("program",),
  ("zero_shot",),
  ("attribution",),
  ("metrics",),
  ("convert",),
  ("network",),
  ("export",),
  ("train",),
  ("studies",),
  ("app",),
  ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_MODULES_IN_THE_ROOT = 10
MOST_MODULES_IN_A_FOLDER = 17
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
OUTSIDE = ("train", "convert", "configs")  # folders of the repository's root, linked into bcos_jax
LIBRARY = FLOOR["explain"]  # what `import bcos_jax` needs is not above


def _files():
  """Yields (module name, path) of every module of the package, by its one name."""
  for folder in ("bcos_jax", *OUTSIDE):
    for path in sorted((ROOT / folder).rglob("*.py")):
      parts = path.relative_to(ROOT).with_suffix("").parts
      if folder == "bcos_jax" and parts[1] in OUTSIDE:
        continue  # reached through its link
      prefix = () if folder == "bcos_jax" else ("bcos_jax",)
      yield ".".join((*prefix, *parts)).removesuffix(".__init__"), path


def _imports(module: str, path: pathlib.Path):
  """Yields (absolute name, line) of everything a module imports, function bodies included."""
  package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else []
      base = ".".join([*base, *(node.module or "").split(".")]).strip(".")
      for alias in node.names:
        yield f"{base}.{alias.name}", node.lineno


MODULES = dict(_files())


def _room(name: str) -> str | None:
  """Returns the room of one of our modules; '' for the package itself, None for others."""
  parts = name.split(".")
  if parts[0] != "bcos_jax":
    return None
  rooms = FLOOR.keys() | {"configs", "__main__"}
  return parts[1] if len(parts) > 1 and parts[1] in rooms else ""


def test_every_folder_and_file_has_a_floor():
  rooms = {
    path.name.removesuffix(".py")
    for path in (ROOT / "bcos_jax").iterdir()
    if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("__")
  }
  assert rooms == FLOOR.keys() | {"configs"}


def test_folders_stay_small():
  sizes = collections.Counter(path.parent for path in MODULES.values())
  root = ROOT / "bcos_jax"
  assert sizes.pop(root) <= MOST_MODULES_IN_THE_ROOT
  assert {folder: n for folder, n in sizes.items() if n > MOST_MODULES_IN_A_FOLDER} == {}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
  room, path = _room(module), MODULES[module]
  if module in ("bcos_jax", "bcos_jax.__main__"):
    return  # gathers the public names; starts the command
  assert room, f"{module} has no floor: give its room one here, where DESIGN places it"
  for name, line in _imports(module, path):
    where = f"{path.relative_to(ROOT)}:{line} imports {name}"
    assert name.split(".")[0] not in OUTSIDE, f"{where}: write bcos_jax.{name}"
    other = _room(name)
    if other is None or other == room:
      continue
    assert room != "configs", f"{where}: recipes import nothing of ours"
    if other == "configs":
      assert room in ("train", "cli"), where
    elif other == "":
      assert FLOOR[room] > LIBRARY, f"{where}: inside the library, import the module that has it"
    else:
      assert FLOOR[other] < FLOOR[room], f"{where}: {other} is not on a lower floor than {room}"


def test_no_two_public_classes_share_a_name():
  places = collections.defaultdict(list)
  for module, path in MODULES.items():
    if module == "bcos_jax.layers.nnx":
      continue  # the layers of another library, by the names of ours
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        places[node.name].append(module)
  assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_files_and_functions_stay_readable():
  long = []
  for path in MODULES.values():
    text = path.read_text(encoding="utf-8")
    if text.count("\n") > MOST_LINES_OF_A_FILE:
      long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines > MOST_LINES_OF_A_FUNCTION:
          long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
  assert long == []


def _run(code: str) -> str:
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_importing_the_library_is_light_and_its_rooms_are_attributes():
  heavy = (
    "matplotlib",
    "sklearn",
    "tensorflow",
    "orbax",
    "grain",
    "transformers",
    "PIL",
    "tensorflow_datasets",
    "optax.contrib",
    "tensorboardX",
    "safetensors",
    "torch",
    "ml_collections",
    "tqdm",
  )
  base = _run("import sys, jax, flax.linen; print(*sys.modules)").split()
  loaded, rooms = _run(
    "import sys, bcos_jax; print(*sys.modules); print(bcos_jax.convert.__name__, "
    "bcos_jax.configs.__name__, bcos_jax.metrics.__name__, hasattr(bcos_jax, 'nothing'))"
  ).splitlines()
  assert rooms == "bcos_jax.convert bcos_jax.configs bcos_jax.metrics False"
  loaded = loaded.split()
  # flax itself imports optax, orbax and others: only what we add counts, unless flax may not.
  added = {name.split(".")[0] for name in set(loaded) - set(base)}
  assert not added & set(heavy)
  never = {"matplotlib", "sklearn", "tensorflow", "grain", "transformers", "PIL", "torch"}
  assert not never & {name.split(".")[0] for name in loaded}
