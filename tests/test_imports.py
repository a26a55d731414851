"""Imports run one way, and `import bcos_jax` stays light (DESIGN, section 2)."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

from .common import ROOT

# What a room may import: rooms of a lower rank, and itself.
RANKS = {
  "errors": 0,
  "cache": 0,
  "tensor_files": 1,
  "functional": 1,
  "inputs": 1,
  "layers": 2,
  "ops": 3,
  "models": 4,
  "abstract": 4.5,
  "targets": 4,
  "words": 1,
  "telling_words": 2,
  "text_explanation": 2,
  "length_buckets": 3,
  "explain_tokens": 4.5,  # after what it explains, before `explain`, which hands texts over
  "tokenizer": 5,
  "tokens": 5.5,  # after the tokenizer, before what reads with it
  "batches": 5,
  "bcosify": 5,
  "explain": 5,
  "pretrained": 5,
  "render": 6,
  "texts": 6,
  "text_reader": 6,
  "zero_shot": 7,
  "attribution": 7,
  "metrics": 8,
  "explain_patches": 8,
  "explain_text": 8,
  "explain_pictures": 9,
  "explain_sentences": 9,
  "convert": 9,
  "explain_prompts": 10,
  "train": 10,
  "studies": 11,
  "app": 11,
  "cli": 12,
}
OUTSIDE = ("train", "convert", "configs")  # folders of the repository's root, linked into bcos_jax
LIBRARY = RANKS["pretrained"]  # rank of what `from bcos_jax import create` needs


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
  return parts[1] if len(parts) > 1 and (parts[1] in RANKS or parts[1] == "configs") else ""


def test_the_walk_sees_the_package():
  rooms = {_room(module) for module in MODULES}
  assert {"functional", "layers", "ops", "models", "explain", "convert"} <= rooms
  assert ("bcos_jax.ops", "bcos_jax.layers") in {
    (module, name) for module, path in MODULES.items() for name, _ in _imports(module, path)
  }


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
  room, path = _room(module), MODULES[module]
  if module == "bcos_jax":
    return  # gathers the public names
  assert room, f"{module} has no rank: give it one here, where DESIGN places it"
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
      assert RANKS[room] > LIBRARY, f"{where}: inside the library, import the module that has it"
    else:
      assert RANKS[other] < RANKS[room], f"{where}: {other} comes after {room}"


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
