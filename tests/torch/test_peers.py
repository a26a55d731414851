"""`benchmarks/peers.py`: what is timed is the same computation in both frameworks."""

import dataclasses
import importlib
import pathlib
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.torch


@pytest.fixture
def peers(monkeypatch):
  monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
  return importlib.import_module("peers")


def test_networks_of_both_frameworks_are_one(peers, monkeypatch):
  monkeypatch.setattr(peers, "PAUSE", 0.0)
  for task in ("inference", "train", "explain"):
    work = peers.Work("small_vit", task, 8, 1.0)
    seconds, worst = peers.measure(work, repeats=1)
    assert set(seconds) == {"jax", "plain attention", "fused attention"} and worst < 1e-4
    assert peers.row(work, seconds, worst).startswith(f"| small_vit | {task} | 8 | ")


def test_a_network_that_differs_is_not_timed(peers, monkeypatch):
  peer = peers.PEERS["small_vit"]
  family = peers.theirs.Family(True, unit_norm=True)  # with activations, which B-cos v2 has not
  other = dataclasses.replace(peer, twin=lambda: peers.theirs.SimpleViT(family, **peers._SMALL))
  monkeypatch.setitem(peers.PEERS, "small_vit", other)
  with pytest.raises(RuntimeError, match="the frameworks differ by"):
    peers.measure(peers.Work("small_vit", "inference", 2), repeats=1)


def test_works_by_name(peers):
  assert [w.name for w in peers.chosen("resnet50:explain,small_vit:train:256")] == [
    "resnet50:explain:8",
    "resnet50:explain:1",
    "small_vit:train:256",
  ]
  assert peers.chosen("") == list(peers.WORKS)
  with pytest.raises(SystemExit, match="unknown"):
    peers.chosen("resnet")
