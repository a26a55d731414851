"""Run time beside the authors' formulas in PyTorch, on this machine's CPU, in float32.

    python benchmarks/peers.py
    python benchmarks/peers.py --only=resnet50:explain,small_vit --repeats=20
    taskset -c 0 python benchmarks/peers.py --busy      # beside other work: one core, CPU time

Both frameworks have the same random weights and the same pictures, and take turns, so that a busy
moment of the machine hits both; the ratio of the medians is the number to read, on a machine that
does nothing else: threads of PyTorch wait for each other actively, and suffer most. It is at its
best: `torch_networks.py` says how formulas are evaluated, convolutional networks run in the
faster of its two memory formats, transformers with the faster of plain and fused attention,
inference in `inference_mode`, explanations as one batched backward pass without kernel gradients.
The last column is the norm of the difference of what both computed, relative to theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
import copy
import dataclasses
import functools
import gc
import os
import sys
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as TF
import torch_networks as theirs

import bcos_jax
from bcos_jax import BcosOps, compiling, convert
from bcos_jax.train.objectives import Supervised, losses
from bcos_jax.train.optimizer import Optimizer
from bcos_jax.train.state import create as create_state
from bcos_jax.train.step import make_train_step

Run = Callable[[], Mapping[str, np.ndarray]]
RATE = 1e-4
WARM_UP = 2  # calls before those timed: the second training step sees the first's update
PAUSE = 0.05  # seconds between turns, in which the threads of the other framework fall asleep
TOLERANCE = 5e-3  # gates of values close to zero: W(x) of a ResNet-50 in float64 is 4.5e-4 away


@dataclasses.dataclass(frozen=True, eq=False)
class Peer:
  """A network in both frameworks.

  Attributes:
    architecture: Its name here.
    ops: Its family here.
    source: Layout of its keys in PyTorch.
    prefix: Before its keys in the layout.
    twin: Makes it in PyTorch.
    fields: Replaces fields of the architecture.
  """

  architecture: str
  ops: BcosOps
  source: str
  prefix: str
  twin: Callable[[], torch.nn.Module]
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Work:
  """What is timed, and which ratio is wanted."""

  network: str
  task: str
  batch: int
  goal: float | None = None

  @property
  def name(self) -> str:
    return f"{self.network}:{self.task}:{self.batch}"


_V2, _FAMILY = BcosOps.v2(), theirs.BCOS_V2
_BOTTLENECKS: dict[str, Any] = {"stages": (3, 4, 6, 3), "bottleneck": True}
_SMALL = {"patch": 4, "width": 64, "depth": 4, "heads": 4, "hidden": 256, "classes": 10}

PEERS = {
  "resnet50": Peer("resnet50", _V2, "bcos_v2", "", lambda: theirs.ResNet(_FAMILY, **_BOTTLENECKS)),
  "bcosified_resnet50": Peer(
    "resnet50",
    BcosOps(),
    "bcosification",
    "model.",
    lambda: theirs.ResNet(theirs.BCOSIFIED, **_BOTTLENECKS),
  ),
  "simple_vit_s": Peer(
    "simple_vit_s_patch16_224", _V2, "bcos_v2", "0.", lambda: theirs.SimpleViT(_FAMILY)
  ),
  "small_vit": Peer(
    "simple_vit_s_patch16_224",
    _V2,
    "bcos_v2",
    "0.",
    lambda: theirs.SimpleViT(_FAMILY, **_SMALL),
    {
      "patch_size": 4,
      "width": 64,
      "depth": 4,
      "num_heads": 4,
      "mlp_dim": 256,
      "num_classes": 10,
      "image_size": 28,
    },
  ),
  "densenet121": Peer("densenet121", _V2, "bcos_v2", "", lambda: theirs.BcosDenseNet(_FAMILY)),
  "convnext_tiny": Peer("convnext_tiny", _V2, "bcos_v2", "", lambda: theirs.BcosConvNeXt(_FAMILY)),
}

WORKS = (
  *(
    Work(name, task, batch, goal)
    for name in ("resnet50", "bcosified_resnet50")
    for task, batch, goal in (
      ("inference", 8, None),
      ("inference", 1, 1.0),
      ("train", 8, 0.95),
      ("explain", 8, 1.0),
      ("explain", 1, 1.0),
    )
  ),
  Work("simple_vit_s", "inference", 8, 1.5),
  Work("simple_vit_s", "train", 8, 1.2),
  Work("simple_vit_s", "explain", 8, 2.0),
  Work("small_vit", "inference", 256, 0.9),
  Work("small_vit", "train", 256, 0.8),
  Work("densenet121", "explain", 8, 1.0),
  Work("convnext_tiny", "explain", 8, 1.0),
)


@functools.lru_cache(maxsize=1)
def start(peer: Peer) -> tuple[Any, Any, torch.nn.Module]:
  """Returns a network with random weights: here, its variables, and in PyTorch.

  Batch norms have the statistics of some pictures, so that signals keep their size.
  """
  torch.manual_seed(0)
  twin = peer.twin()
  for key, tensor in twin.state_dict().items():
    if key.endswith("running_var"):
      tensor.zero_()
  like = bcos_jax.create(peer.architecture, ops=peer.ops, **peer.fields)
  with torch.no_grad():
    twin.train()(encoded(peer.ops, nchw(pictures(like.image_size, 8))))
  for key, tensor in twin.state_dict().items():
    if key.endswith("running_var"):
      tensor.div_(0.1)  # a tenth of what there is was taken from the pictures
  state = {peer.prefix + key: tensor.numpy().copy() for key, tensor in twin.state_dict().items()}
  bundle = convert.from_state_dict(
    state, peer.architecture, peer.source, ops=peer.ops, fields=peer.fields
  )
  return bundle.model, jax.device_put(bundle.variables), twin


def pictures(side: int, count: int) -> np.ndarray:
  """Returns pictures with coarse and fine detail, [count, side, side, 3] in [0, 1]."""
  rng = np.random.default_rng(0)
  coarse = rng.random((count, -(-side // 14), -(-side // 14), 3)).repeat(14, 1).repeat(14, 2)
  fine = rng.random((count, side, side, 3))
  return np.float32(0.7 * coarse[:, :side, :side] + 0.3 * fine)


def nchw(images: np.ndarray) -> torch.Tensor:
  """Returns pictures in PyTorch's layout."""
  return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def labels_of(model: Any, count: int) -> np.ndarray:
  """Returns class numbers, int32 [count]."""
  return np.arange(count, dtype=np.int32) * 7 % model.num_classes


def ours(task: str, model: Any, variables: Any, images: np.ndarray) -> Run:
  """Returns a task of this project: what users call."""
  if task == "explain":

    def explain():
      ex = bcos_jax.explain(model, variables, images)
      return {"weights": ex.weights, "contributions": ex.contributions}

    return explain
  if task == "inference":
    apply = compiling.jit(lambda v, x: model.apply(v, model.ops.encoding(x)))  # as `predict` does
    return lambda: {"logits": np.asarray(apply(variables, images))}
  return _training(model, variables, images)


def _training(model: Any, variables: Any, images: np.ndarray) -> Run:
  rate = optax.constant_schedule(RATE)
  optimizer = Optimizer(optax.adam(rate), rate, None)
  # The step takes the buffers of the state for the next one.
  state = create_state(jax.tree.map(jnp.copy, variables), optimizer, jax.random.key(1))
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda leaf: place, state)
  step = make_train_step(Supervised(model, losses.uniform_off_label_bce), optimizer, shardings)
  batch = jax.device_put({"image": images, "label": labels_of(model, len(images))})

  def run():
    nonlocal state
    state, metrics = step(state, batch, {})
    return {name: np.asarray(metrics[name]) for name in ("loss", "gradient_norm")}

  return run


def encoded(ops: BcosOps, images: torch.Tensor) -> torch.Tensor:
  """Returns what a network sees of [N, 3, H, W] in [0, 1]."""
  if ops.encoding.pairing == "complement":
    return torch.cat([images, 1 - images], 1)
  mean, std = (
    torch.tensor(values, device=images.device)[:, None, None]
    for values in (ops.encoding.mean, ops.encoding.std)
  )
  z = (images - mean) / std
  return torch.cat([z, -z], 1)


def torch_run(task: str, ops: BcosOps, network: torch.nn.Module, images: torch.Tensor) -> Run:
  """Returns the same task in PyTorch, where the pictures are; the network is changed by it."""
  network = network.to(images.device)
  if task == "train":
    return _torch_training(ops, network, images)
  network = network.eval().requires_grad_(False)
  if task == "inference":

    def infer():
      with torch.inference_mode():
        return {"logits": network(encoded(ops, images)).cpu().numpy()}

    return infer
  theirs.explaining(network)

  def explain():
    x = encoded(ops, images).requires_grad_()
    value = network(x).max(dim=1).values
    (weights,) = torch.autograd.grad(value.sum(), x)
    contributions = (x.detach() * weights).sum(1)
    found = {"weights": weights.movedim(1, -1), "contributions": contributions}
    return {name: array.cpu().numpy() for name, array in found.items()}

  return explain


def _torch_training(ops: BcosOps, network: torch.nn.Module, images: torch.Tensor) -> Run:
  network = network.train().requires_grad_()
  optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
  with torch.no_grad():
    classes = network(encoded(ops, images[:2])).shape[1]
  labels = torch.arange(len(images)) * 7 % classes
  targets = TF.one_hot(labels, classes).float().clamp(min=1 / classes).to(images.device)
  compared = iter(range(WARM_UP))

  def run():
    optimizer.zero_grad(set_to_none=True)
    loss = TF.binary_cross_entropy_with_logits(network(encoded(ops, images)), targets)
    loss.backward()
    found = {"loss": loss.detach()}
    if next(compared, None) is not None:  # no part of a training step in PyTorch, and not timed
      found["gradient_norm"] = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
    optimizer.step()
    return {name: value.cpu().numpy() for name, value in found.items()}

  return run


def variants(
  peer: Peer, task: str, twin: torch.nn.Module, images: np.ndarray, device: str
) -> Iterator[tuple[str, Run]]:
  """Yields the ways in which PyTorch may do a task, each by its name."""
  seen = nchw(images).to(device)
  if isinstance(twin, theirs.SimpleViT):
    yield "plain attention", torch_run(task, peer.ops, copy.deepcopy(twin), seen)
    yield "fused attention", torch_run(task, peer.ops, theirs.fused(copy.deepcopy(twin)), seen)
    return
  for name, order in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
    own = copy.deepcopy(twin).to(memory_format=order)
    yield name, torch_run(task, peer.ops, own, seen.contiguous(memory_format=order))


def difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
  """Returns the norm of the difference of two results relative to their norm, the largest.

  Arrays are taken without their mean: a constant that both add, such as the logit bias, would hide
  that the rest differs.
  """

  def size(values: np.ndarray) -> float:
    return float(np.linalg.norm(values - values.mean() if values.size > 1 else values))

  return max(float(np.linalg.norm(np.asarray(a[name]) - b[name])) / size(b[name]) for name in b)


def measure(
  work: Work,
  repeats: int,
  device: str = "cpu",
  clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, np.ndarray], float]:
  """Returns the seconds of each repeat, of "jax" and of PyTorch's variants, and the difference.

  `device` is PyTorch's name of the device that JAX has by default, `clock` what tells the time.

  Raises:
    RuntimeError: They do not compute the same.
  """
  peer = PEERS[work.network]
  model, variables, twin = start(peer)
  images = pictures(model.image_size, work.batch)
  runs = {"jax": ours(work.task, model, variables, images)}
  runs |= dict(variants(peer, work.task, twin, images, device))
  for _ in range(WARM_UP):
    results = {name: run() for name, run in runs.items()}
  worst = max(difference(results["jax"], found) for name, found in results.items() if name != "jax")
  if not worst < TOLERANCE:
    raise RuntimeError(f"{work.name}: the frameworks differ by {worst:.1e}.")
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      time.sleep(PAUSE)
      begin = clock()
      run()
      seconds[name].append(clock() - begin)
  return {name: np.array(values) for name, values in seconds.items()}, worst


def row(work: Work, seconds: dict[str, np.ndarray], worst: float) -> str:
  """Returns a line of the table."""
  own = seconds.pop("jax")
  best = min(seconds, key=lambda name: float(np.median(seconds[name])))
  medians = [float(np.median(values)) for values in (seconds[best], own)]
  ratio, goal = medians[0] / medians[1], "" if work.goal is None else f"{work.goal:g}"
  return (
    f"| {work.network} | {work.task} | {work.batch} | {1e3 * medians[0]:.0f} ({best}) "
    f"| {1e3 * medians[1]:.0f} | {ratio:.2f} | {seconds[best].min() / own.min():.2f} | {goal} "
    f"| {worst:.0e} |"
  )


def chosen(only: str) -> list[Work]:
  """Returns the works that `--only` names: network, network:task or network:task:batch."""
  wanted = [name for name in only.split(",") if name]
  known = {":".join(w.name.split(":")[:n]) for w in WORKS for n in (1, 2, 3)}
  if unknown := set(wanted) - known:
    raise SystemExit(f"--only: unknown {sorted(unknown)}; known are {sorted(known)}")
  return [
    work
    for work in WORKS
    if not wanted or any(f"{work.name}:".startswith(f"{name}:") for name in wanted)
  ]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--only", default="", help="network, network:task or network:task:batch, ...")
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument(
    "--busy", action="store_true", help="count the processor's time, on one core (taskset)"
  )
  args = parser.parse_args()
  cores = len(os.sched_getaffinity(0))
  if args.busy and cores > 1:
    parser.error(f"--busy counts the time of one core, and may use {cores}: start by taskset -c 0")
  torch.set_num_threads(cores)
  what = "CPU time" if args.busy else "wall time"
  clock = time.process_time if args.busy else time.perf_counter
  print(
    f"jax {jax.__version__}, torch {torch.__version__}, {cores} cores, {what}, float32, medians of "
    f"{args.repeats}, load {os.getloadavg()[0]:.1f}, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}\n"
  )
  print("| network | task | batch | PyTorch (ms) | here (ms) | ratio | of minima | goal | differ |")
  print("|---|---|---|---|---|---|---|---|---|", flush=True)
  for work in chosen(args.only):
    print(f"{work.name} ...", end="\r", file=sys.stderr, flush=True)
    print(row(work, *measure(work, args.repeats, clock=clock)), flush=True)
    gc.collect()
    jax.clear_caches()


if __name__ == "__main__":
  main()
