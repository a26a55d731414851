"""Bundles loaded onto several devices: each reads only its own shards from the file."""

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps
from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import FileTensor

from ..common import filled, flat, tiny, unflat

MODEL = tiny("resnet_tiny", BcosOps(), width=16)
DEVICES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return bcos_jax.save(tmp_path_factory.mktemp("bundle") / "net", MODEL, filled(MODEL))


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh((DEVICES,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


def _split(mesh):
  """Splits the last axis that eight devices divide; other leaves are on every device."""

  def place(path, shape):
    axes = [axis for axis, size in enumerate(shape) if size % DEVICES == 0]
    spec = [None] * (max(axes) if axes else 0) + (["x"] if axes else [])
    return NamedSharding(mesh, PartitionSpec(*spec))

  return place


@pytest.fixture
def pieces(monkeypatch):
  """Records what is read of a file: for each offset, the bytes of each piece."""
  read: dict[int, list[int]] = {}
  part = FileTensor.__getitem__

  def recorded(tensor, index):
    piece = part(tensor, index)
    read.setdefault(tensor.offset, []).append(piece.nbytes)
    return piece

  monkeypatch.setattr(FileTensor, "__getitem__", recorded)
  return read


def _assert_loaded(bundle, folder):
  expected = flat(bcos_jax.load(folder).variables)
  loaded = flat(bundle.variables)
  assert loaded.keys() == expected.keys()
  for path, leaf in loaded.items():
    assert leaf.dtype == expected[path].dtype
    np.testing.assert_array_equal(np.asarray(leaf), expected[path], path)


def test_no_device_and_no_read_holds_a_full_copy(folder, mesh, pieces):
  place = _split(mesh)
  bundle = bcos_jax.load(folder, sharding=place)
  leaves = flat(bundle.variables)
  split = {path: leaf for path, leaf in leaves.items() if not leaf.is_fully_replicated}
  assert sum(leaf.nbytes for leaf in split.values()) > 0.9 * sum(x.nbytes for x in leaves.values())
  for path, leaf in split.items():
    assert leaf.sharding == place(path, leaf.shape)
    sizes = [shard.data.nbytes for shard in leaf.addressable_shards]
    assert sizes == [leaf.nbytes // DEVICES] * DEVICES, path
  # One eighth at a time, and every byte of a split leaf once.
  wanted = sorted((leaf.nbytes // DEVICES,) * DEVICES for leaf in split.values())
  assert sorted(tuple(sizes) for sizes in pieces.values() if len(sizes) > 1) == wanted
  _assert_loaded(bundle, folder)


def test_one_sharding_for_all(folder, mesh):
  everywhere = NamedSharding(mesh, PartitionSpec())
  bundle = bcos_jax.load(folder, sharding=everywhere)
  assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(bundle.variables))
  _assert_loaded(bundle, folder)


def test_a_tree_of_shardings(folder, mesh):
  place = _split(mesh)
  shapes = flat(bcos_jax.load(folder).variables)
  tree = {path: place(path, leaf.shape) for path, leaf in shapes.items()}
  bundle = bcos_jax.load(folder, sharding=unflat(tree))
  assert {path: leaf.sharding for path, leaf in flat(bundle.variables).items()} == tree
  _assert_loaded(bundle, folder)


def test_a_tree_that_leaves_something_out(folder, mesh):
  with pytest.raises(InputError, match=r"sharding of '[\w/]+' is None"):
    bcos_jax.load(folder, sharding={"params": NamedSharding(mesh, PartitionSpec())})


def test_a_sharding_that_does_not_divide_a_shape(folder, mesh):
  with pytest.raises(InputError, match=r"params/conv1/kernel.*NamedSharding") as raised:
    bcos_jax.load(folder, sharding=NamedSharding(mesh, PartitionSpec("x")))
  assert "(path, shape) -> sharding" in raised.value.fix


def test_a_function_that_gives_no_sharding(folder):
  with pytest.raises(InputError, match="'x'"):
    bcos_jax.load(folder, sharding=lambda path, shape: "x")
