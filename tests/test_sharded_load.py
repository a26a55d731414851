"""A bundle loaded onto sharded devices: each gets its shards from the file, and nothing else."""

import collections
import dataclasses

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, pretrained
from bcos_jax.tensor_files import FileTensor, read_safetensors

from .common import filled, flat, tiny

MODEL = tiny("simple_vit_tiny", BcosOps())
DEVICES = 8


@pytest.fixture
def folder(tmp_path):
  return bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL))


@pytest.fixture
def reads(monkeypatch):
  """Path of a tensor -> bytes of each of its reads; those of whole tensors count as well."""
  counted = collections.defaultdict(list)

  class Counting(FileTensor):
    def __getitem__(self, index):
      part = super().__getitem__(index)
      counted[self.offset].append(part.nbytes)
      return part

  def count_whole(tensor):
    def read():
      counted[tensor.offset].append(tensor.nbytes)
      return tensor.read()

    fields = {f.name: getattr(tensor, f.name) for f in dataclasses.fields(tensor)}
    return Counting(**{**fields, "read": read})

  by_path = {}

  def opened(path):
    tensors = {key: count_whole(tensor) for key, tensor in read_safetensors(path).items()}
    by_path.update({key: counted[tensor.offset] for key, tensor in tensors.items()})
    return tensors

  monkeypatch.setattr(pretrained, "read_safetensors", opened)
  return by_path


def split(shape: tuple[int, ...], parts: int) -> int | None:
  """Returns the last axis that can be split, if any."""
  return next((axis for axis in reversed(range(len(shape))) if shape[axis] % parts == 0), None)


def spec_of(shape: tuple[int, ...], parts: int) -> PartitionSpec:
  axis = split(shape, parts)
  return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, "fsdp")


@pytest.mark.parametrize("data, fsdp", [(1, 8), (2, 4), (4, 2)])
def test_each_device_gets_its_shards_straight_from_the_file(folder, reads, data, fsdp):
  mesh = Mesh(np.array(jax.devices()[:DEVICES]).reshape(data, fsdp), ("data", "fsdp"))
  bundle = bcos_jax.load(
    folder, sharding=lambda path, shape: NamedSharding(mesh, spec_of(shape, fsdp))
  )
  leaves, expected = flat(bundle.variables), flat(filled(MODEL))
  assert leaves.keys() == expected.keys() == reads.keys()
  for path, leaf in leaves.items():
    axis = split(leaf.shape, fsdp)
    part = list(leaf.shape)
    if axis is not None:
      part[axis] //= fsdp
    assert len(leaf.addressable_shards) == DEVICES, path
    for shard in leaf.addressable_shards:
      assert shard.data.shape == tuple(part), path
      assert shard.data.devices() == {shard.device}, path
      assert np.array_equal(shard.data, expected[path][shard.index]), path
    # One shard at a time, and no part of the file more often than it is held.
    nbytes = leaf.nbytes if axis is None else leaf.nbytes // fsdp
    assert set(reads[path]) == {nbytes} and len(reads[path]) <= DEVICES, (path, reads[path])
  wide = [path for path, leaf in leaves.items() if leaf.ndim > 1]
  assert sum(split(leaves[path].shape, fsdp) is not None for path in wide) > len(wide) // 2


def test_whole_tensors_are_counted_too(folder, reads):
  """What the test above relies on: an unsharded load reads every tensor whole, once."""
  leaves = flat(bcos_jax.load(folder).variables)
  assert reads == {path: [leaf.nbytes] for path, leaf in leaves.items()}
