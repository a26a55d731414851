"""Modules of PyTorch as functions: exported, decomposed, explained, B-cosified, written back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")
from torch import nn  # noqa: E402

import bcos_jax  # noqa: E402
from bcos_jax import InputError, cli, convert, program  # noqa: E402
from bcos_jax.train.start.bundles import new_head  # noqa: E402

from ..common import photos, rel  # noqa: E402
from ..docs import pages  # noqa: E402
from . import live, program_fixture  # noqa: E402

pytestmark = pytest.mark.torch
PICTURES = np.random.RandomState(0).standard_normal((3, 3, 12, 12)).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)


@pytest.fixture(scope="module")
def small():
  network = program_fixture.small()
  return network, *convert.from_torch(network, PICTURES)


def outputs_of(network, *inputs, **named):
  with torch.no_grad():
    made = network(
      *map(torch.from_numpy, inputs), **{k: torch.from_numpy(v) for k, v in named.items()}
    )
  return made.numpy() if isinstance(made, torch.Tensor) else made


def test_a_module(small):
  network, function, variables = small
  assert rel(function(variables, PICTURES), outputs_of(network, PICTURES)) <= 1e-5
  assert rel(function(variables, PICTURES[:1]), outputs_of(network, PICTURES[:1])) <= 1e-5


def test_a_program_decomposed_to_core_aten(small, tmp_path):
  """What users save after `run_decompositions`, with the guard of softmax if there is one."""
  network, _, variables = small
  x = torch.from_numpy(PICTURES)
  exported = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
  decomposed = exported.run_decompositions()
  targets = {str(node.target) for node in decomposed.graph.nodes}
  assert "aten.bmm.default" in targets and "aten.relu_.default" not in targets
  torch.export.save(decomposed, tmp_path / "decomposed.pt2")
  function, read = convert.from_torch(tmp_path / "decomposed.pt2")
  assert read.keys() == variables.keys()
  assert rel(function(read, PICTURES), outputs_of(network, PICTURES)) <= 1e-5
  ex = bcos_jax.explain(function, read, PICTURES)
  assert ex.completeness_error.max() <= 3e-6
  again, _ = convert.from_torch(decomposed)
  assert again.graph.nodes[0].target == function.graph.nodes[0].target


def test_fine_tuned_variables_go_back(small):
  _, function, variables = small

  @jax.jit
  @jax.grad
  def gradient(variables):
    return jnp.square(function(variables, PICTURES)).sum()

  tuned = jax.tree.map(lambda leaf, slope: leaf - 1e-3 * slope, variables, gradient(variables))
  state = function.state_dict(tuned)
  other = program_fixture.Small().eval()
  assert state.keys() == other.state_dict().keys()
  other.load_state_dict({key: torch.from_numpy(leaf) for key, leaf in state.items()})
  expected = outputs_of(other, PICTURES)
  assert rel(function(tuned, PICTURES), expected) <= 1e-5
  assert rel(function(variables, PICTURES), expected) >= 1e-3


class Literal(nn.Module):
  """Reshapes by the batch that it saw when it was exported."""

  def __init__(self):
    super().__init__()
    self.map = nn.Linear(12, 5)

  def forward(self, x):
    count = int(x.shape[0])
    return self.map(x).view(count * 3, 12, 5).mean((1,)).view(torch.Size([count, 3, 5])).amax(1)


def test_a_batch_that_is_taken_literally():
  network = live.stirred(Literal())
  given = torch.from_numpy(PICTURES[:1])
  fixed = torch.export.export(network, (given,))
  function, variables = convert.from_torch(fixed)
  assert function.alone
  expected = outputs_of(network, PICTURES)
  assert rel(jax.jit(function)(variables, PICTURES), expected) <= 1e-5
  ex = bcos_jax.explain(function, variables, PICTURES, 2)
  assert ex.completeness_error.max() <= 3e-6 and rel(ex.logits, expected) <= 1e-5
  kept = program.trace(function, variables, PICTURES).bcosify(b=1.0, biases="keep")
  assert rel(kept(kept.variables, PICTURES), expected) <= 1e-5
  two, _ = convert.from_torch(torch.export.export(network, (torch.from_numpy(PICTURES[:2]),)))
  with pytest.raises(InputError, match=r"expected \(2, 3, 12, 12\).* export it for a batch of one"):
    two(variables, PICTURES)


class Written(nn.Module):
  """Writes into parts of tensors, keeps states of two kinds, and returns a structure."""

  def __init__(self):
    super().__init__()
    self.map = nn.Conv2d(3, 4, 3)
    self.register_buffer("unused_count", torch.zeros((), dtype=torch.int64))
    self.norm = nn.BatchNorm2d(4, track_running_stats=False)

  def forward(self, x):
    y = self.map(x)
    z = torch.zeros_like(y)
    z[:, 1:3] = y[:, :2] * 2
    z.add_(1)
    with torch.no_grad():
      scale = y.amax((1, 2, 3)).abs() + 1
    self.unused_count += 1
    return {"normed": self.norm(z), "pair": (z.sum((2, 3)), [scale])}


def test_a_module_that_writes_in_place_is_decomposed():
  network = live.stirred(Written())
  function, variables = convert.from_torch(network, PICTURES)
  assert not any("_." in node.target for node in function.graph.nodes)
  ours, theirs = jax.jit(function)(variables, PICTURES), outputs_of(network, PICTURES)
  assert jax.tree.structure(ours) == jax.tree.structure({"normed": 0, "pair": (0, [0])})
  pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
  assert all(rel(one, other.numpy()) <= 1e-5 for one, other in pairs)
  with pytest.raises(InputError, match="in evaluation mode"):  # the norm is of the batch
    bcos_jax.explain(lambda v, x: function(v, x)["normed"].mean((2, 3)), variables, PICTURES)


class Scaled(nn.Module):
  """Blocks without gradient or autocast, which exported programs keep as graphs of their own."""

  def __init__(self):
    super().__init__()
    self.map = nn.Conv2d(3, 4, 3)

  def forward(self, x):
    with torch.no_grad():
      scale = (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
    with torch.autocast("cpu", enabled=False):
      return self.map(x / scale).mean((2, 3))


def test_blocks_without_gradient():
  network = live.stirred(Scaled())
  dynamic = ({0: torch.export.Dim.AUTO},)
  exported = torch.export.export(network, (torch.from_numpy(PICTURES),), dynamic_shapes=dynamic)
  function, variables = convert.from_torch(exported)
  targets = {node.target for node in function.graph.nodes}
  assert "higher_order.wrap_with_autocast" in targets
  assert "higher_order.wrap_with_set_grad_enabled" in targets
  assert rel(function(variables, PICTURES), outputs_of(network, PICTURES)) <= 1e-5


class Refused(nn.Module):
  """One of several things that no function of arrays can do."""

  def __init__(self, kind):
    super().__init__()
    self.kind = kind
    self.map = nn.Linear(12, 4)
    self.register_buffer("count", torch.zeros(()))

  def forward(self, x):
    y = self.map(x)
    if self.kind == "state":
      self.count.add_(1)
      return y + self.count
    if self.kind == "shape":
      return y[y > 0]
    if self.kind == "random":
      return y + torch.rand_like(y)
    if self.kind == "branch":
      return y if y.sum() > 0 else -y
    return torch.fft.fft(y).real


@pytest.mark.parametrize(
  ("kind", "what"),
  [
    ("state", "depends on the buffer 'count', which calls change"),
    (
      "shape",
      r"index.Tensor at .*test_programs.py:\d+ makes a tensor whose shape depends",
    ),
    ("random", r"rand_like.default at .*test_programs.py:\d+ has no rule"),
    ("branch", "torch.export does not take the Refused: .*data-dependent"),
    ("complex", "ScalarType|has no rule"),
  ],
)
def test_what_is_refused(kind, what):
  with pytest.raises(InputError, match=what):
    function, variables = convert.from_torch(Refused(kind).eval(), PICTURES)
    function(variables, PICTURES)


def test_modules_in_training_mode_and_without_example():
  with pytest.raises(InputError, match=r"in training mode. Call .eval\(\) first"):
    convert.from_torch(program_fixture.Small(), PICTURES)
  with pytest.raises(InputError, match="example of its inputs, there is none"):
    convert.from_torch(program_fixture.Small().eval())
  with pytest.raises(InputError, match=r"Small cannot be called with the example: .*channels"):
    convert.from_torch(program_fixture.Small().eval(), PICTURES[:, :2])


def test_a_text_encoder():
  """Ids and a mask; explained with respect to embeddings."""
  live.torchvision()
  import transformers

  config = transformers.BertConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
  )
  network = live.stirred(transformers.BertForSequenceClassification(config))
  ids = np.random.RandomState(0).randint(3, 60, (3, 7))
  mask = np.ones_like(ids)
  mask[1, 4:] = 0
  given = {"input_ids": ids, "attention_mask": mask}
  function, variables = convert.from_torch(network, given)
  expected = outputs_of(network, **given).logits.numpy()
  assert function.arguments == ("input_ids", "attention_mask")
  assert rel(function(variables, ids, mask), expected) <= 1e-5
  with pytest.raises(InputError, match="embeddings"):
    bcos_jax.explain(lambda v, x: function(v, x, mask), variables, ids)
  embeddings = np.asarray(variables["bert.embeddings.word_embeddings.weight"])[ids]
  function, variables = convert.from_torch(network, {"inputs_embeds": embeddings})
  ex = bcos_jax.explain(function, variables, embeddings)
  assert ex.contributions.shape == (3, 7) and ex.completeness_error.max() <= 3e-6
  assert rel(ex.logits[:1], expected[:1]) <= 1e-5
  assert "bert.embeddings.position_embeddings.weight" in ex.residuals


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2Moe"])
def test_a_mixture_of_experts(kind):
  """Tokens of all texts are sorted by expert; each text is explained by its own, biases as well."""
  live.torchvision()
  import transformers

  experts = {"Mixtral": "num_local_experts", "Qwen2Moe": "num_experts"}[kind]
  sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, experts: 4}
  heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
  fields = {"vocab_size": 64, "pad_token_id": 0, "use_cache": False, **sizes, **heads}
  if kind == "Qwen2Moe":
    fields |= {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
  config = getattr(transformers, f"{kind}Config")(**fields)
  network = live.stirred(getattr(transformers, f"{kind}ForSequenceClassification")(config))
  embeddings = np.random.RandomState(0).standard_normal((3, 6, 16)).astype(np.float32)
  expected = outputs_of(network, inputs_embeds=embeddings).logits.numpy()
  function, variables = convert.from_torch(network, {"inputs_embeds": embeddings})
  logits = function(variables, embeddings)
  assert rel(logits, expected) <= 1e-5
  ex = bcos_jax.explain(function, variables, embeddings, 1)
  assert rel(ex.logits, expected) <= 1e-5 and ex.completeness_error.max() <= 1e-5
  alone = bcos_jax.explain(function, variables, embeddings[1:2], 1)
  assert rel(ex.weights[1:2], alone.weights) <= 1e-5


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "squeezenet1_1"])
def test_as_a_network_of_this_package(name, tmp_path, capsys):
  """Saved by PyTorch, converted and compared by the command, explained, and for other classes."""
  torchvision = live.torchvision()
  import timm

  if name == "squeezenet1_1":
    network, side = torchvision.models.squeezenet1_1(num_classes=10), 64
  else:
    side = 64 if name == "resnet10t" else 56
    sized = {} if name == "resnet10t" else {"img_size": side, "depths": (1, 1, 1, 1)}
    network = timm.create_model(name, num_classes=10, **sized)
  network = live.stirred(network)
  x = torch.zeros(2, 3, side, side)
  free = ({0: torch.export.Dim.AUTO},)
  torch.export.save(torch.export.export(network, (x,), dynamic_shapes=free), tmp_path / "net.pt2")
  options = ("--verify", "--mean=0.485,0.456,0.406", "--std=0.229,0.224,0.225")
  paths = [str(tmp_path / each) for each in ("net.pt2", "bundle")]
  assert cli.main(["convert", *paths, *options]) == 0
  assert "verified against PyTorch" in capsys.readouterr().out
  read = bcos_jax.load(tmp_path / "bundle")
  images = photos(2, side)
  seen = np.moveaxis(np.asarray(read.model.ops.encoding(images)), -1, 1)
  ex = read.explain(images, 3)
  assert rel(ex.logits, outputs_of(network, seen)) <= 2e-5
  assert ex.completeness_error.max() <= 1e-5
  if name == "squeezenet1_1":  # whose head is a convolution before the pooling
    return
  new, own = new_head(read.model, read.variables, 4, jax.random.key(0))
  assert new.apply(own, read.model.ops.encoding(images)).shape == (2, 4)


def test_the_page_runs_as_printed(tmp_path, monkeypatch):
  live.torchvision()
  monkeypatch.chdir(tmp_path)
  space = {}
  for block in [b for b in pages.blocks("pytorch.md") if b.not_run][:3]:
    assert block.not_run.startswith("needs PyTorch")
    exec(compile(block.text, str(block), "exec"), space)
  assert bcos_jax.load(tmp_path / "bundles" / "resnet10t").model == space["net"]
  expected = outputs_of(space["network"], space["pictures"])
  function, variables, made = (space[name] for name in ("function", "variables", "made"))
  assert rel(function(variables, space["pictures"]), expected) <= 1e-5
  assert {"bn1.bias", "layer1.0.bn1.running_mean"} <= space["ex"].residuals.keys()
  assert space["ex"].completeness_error.max() <= 1e-5
  assert "conv1.0.weight" in made.table()
