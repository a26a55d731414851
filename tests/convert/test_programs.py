"""A saved program of PyTorch, read where there is no PyTorch: values, names, damage, refusals."""

import io
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import InputError, convert, program

from ..common import rel

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures" / "programs"
FILE = FOLDER / "small.pt2"
EXPECTED = np.load(FOLDER / "small.npz")
MODEL = "archive/models/model.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def read():
  return convert.from_torch(FILE)


def changed(folder, edit, entry=MODEL):
  """Writes the program with one of its JSON entries changed by `edit`, or left out."""
  path = folder / "changed.pt2"
  with zipfile.ZipFile(FILE) as saved, zipfile.ZipFile(path, "w") as written:
    for info in saved.infolist():
      data = saved.read(info)
      if info.filename == entry:
        value = json.loads(data)
        data = json.dumps(edit(value) or value).encode()
      written.writestr(info.filename, data)
  return path


def nodes(value):
  return {node["name"]: node for node in value["graph_module"]["graph"]["nodes"]}


def test_outputs_are_those_of_pytorch_for_any_batch(read):
  function, variables = read
  outputs = np.asarray(jax.jit(function)(variables, EXPECTED["inputs"]))
  assert rel(outputs, EXPECTED["outputs"]) <= 1e-6
  three = np.concatenate([EXPECTED["inputs"], EXPECTED["inputs"][:1]])
  assert rel(function(variables, three)[2], EXPECTED["outputs"][0]) <= 1e-6
  assert not function.alone and function.channel_axis == 1


def test_variables_have_the_names_of_the_module(read):
  function, variables = read
  assert {"stem.0.weight", "stem.1.running_mean", "qkv.bias"} <= variables.keys()
  assert "stem.1.num_batches_tracked" not in variables and "scale" not in variables
  assert ("mlp.0.weight" in variables) != ("head.weight" in variables)  # tied
  assert variables.keys() - function.parameters == {"stem.1.running_mean", "stem.1.running_var"}
  state = function.state_dict({name: leaf + 1 for name, leaf in variables.items()})
  assert np.array_equal(state["mlp.0.weight"], state["head.weight"])
  assert state["stem.1.num_batches_tracked"].dtype == np.int64
  assert "scale" not in state  # is not saved by the module either
  for name, leaf in variables.items():
    assert np.array_equal(state[name], leaf + 1) and state[name].dtype == np.float32
  with pytest.raises(InputError, match=r"qkv.bias has shape \(2,\), the module's has \(24,\)"):
    function.state_dict({**variables, "qkv.bias": np.zeros(2)})


def test_traced_explained_and_bcosified(read):
  function, variables = read
  traced = program.trace(function, variables, EXPECTED["inputs"])
  certificate = traced.check()
  assert certificate.maps >= 4
  ex = bcos_jax.explain(function, variables, EXPECTED["inputs"], 3)
  assert ex.weights.shape == (2, 12, 12, 3) and ex.contributions.shape == (2, 12, 12)
  assert ex.completeness_error.max() <= 3e-6
  assert {"stem.1.bias", "stem.1.running_mean", "qkv.bias", "head.bias"} <= ex.residuals.keys()
  places = {(e.place.modules, e.place.line) for e in traced.body.walk()}
  assert any(modules == "stem.0" and line.startswith("conv.py:") for modules, line in places)
  kept = traced.bcosify(b=1.0, biases="keep")
  assert rel(kept(kept.variables, EXPECTED["inputs"]), EXPECTED["outputs"]) <= 1e-6
  made = traced.bcosify(b=2.0)
  lines = made.table().splitlines()
  assert any(line.split()[:2] == ["stem.0.weight", "map"] and "B=2" in line for line in lines)
  ex = bcos_jax.explain(made, made.variables, EXPECTED["inputs"])
  assert ex.completeness_error.max() <= 3e-6 and not ex.conventional
  # Only the norm's mean is held, which has no names: all else is the pixels'.
  assert rel(ex.contributions.sum((1, 2)) + ex.residual, ex.value) <= 1e-6


def test_inputs_and_variables_that_do_not_fit(read):
  function, variables = read
  with pytest.raises(InputError, match=r"x has shape \(2, 12, 12, 3\), expected \(any, 3, 12, 12"):
    function(variables, np.zeros((2, 12, 12, 3), np.float32))
  with pytest.raises(InputError, match="2 inputs are given, expected 1: x"):
    function(variables, EXPECTED["inputs"], EXPECTED["inputs"])
  with pytest.raises(InputError, match=r"lack 'stem\.0\.weight'"):
    function({n: v for n, v in variables.items() if n != "stem.0.weight"}, EXPECTED["inputs"])
  with pytest.raises(InputError, match="expected a module of PyTorch, an exported program or"):
    convert.from_torch({"weight": np.zeros(3)})
  with pytest.raises(InputError, match="Omit the example"):
    convert.from_torch(FILE, EXPECTED["inputs"])


@pytest.mark.parametrize("keep", [0, 10, 4000, -1])
def test_damaged_files(tmp_path, keep):
  path = tmp_path / "damaged.pt2"
  path.write_bytes(FILE.read_bytes()[:keep])
  with pytest.raises(InputError, match=r"damaged.pt2' is not a \.pt2 archive"):
    convert.from_torch(path)


def test_missing_and_foreign_files(tmp_path):
  with pytest.raises(InputError, match=r"Cannot read .*nothing\.pt2"):
    convert.from_torch(tmp_path / "nothing.pt2")
  for entry, what in (
    ("archive/other.txt", "it has no archive_format"),
    ("archive/serialized_exported_program.json", "older versions of PyTorch, whose weights"),
  ):
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as file:
      file.writestr(entry, "")
    with pytest.raises(InputError, match=what):
      convert.from_torch(str(tmp_path / "other.pt2"))


def _without(*path):
  def edit(value):
    for key in path[:-1]:
      value = value[key]
    del value[path[-1]]

  return edit


def _put(value, new, *path):
  for key in path[:-1]:
    value = value[key]
  value[path[-1]] = new


@pytest.mark.parametrize(
  ("entry", "edit", "what"),
  [
    (MODEL, lambda m: _put(m, 9, "schema_version", "major"), "schema version 9.*expected 8"),
    (MODEL, _without("graph_module", "graph", "outputs"), "not a complete exported program"),
    (MODEL, lambda m: _put(m, [], "graph_module", "graph", "inputs"), "cannot|not a complete"),
    (
      WEIGHTS,
      lambda m: _put(m, True, "config", "qkv.weight", "use_pickle"),
      "qkv.weight of .* is pickled",
    ),
    (
      WEIGHTS,
      lambda m: _put(m, {"as_int": 999}, "config", "qkv.weight", "tensor_meta", "storage_offset"),
      "not a complete .pt2 archive: tensor of size",
    ),
    (
      WEIGHTS,
      lambda m: _put(m, 10, "config", "qkv.weight", "tensor_meta", "dtype"),
      "qkv.weight has the dtype number 10",
    ),
    (WEIGHTS, _without("config", "qkv.weight"), "not a complete exported program: KeyError"),
    (
      MODEL,
      lambda m: _put(nodes(m)["gelu"], "torch.ops.aten.nothing.default", "target"),
      r"aten.nothing.default at mlp.1 \(.*:\d+\) has no rule. Give it one",
    ),
    (
      MODEL,
      lambda m: _put(
        nodes(m)["gelu"]["inputs"][0], {"as_complex": {"real": 0.0, "imag": 1.0}}, "arg"
      ),
      "an argument of the kind 'complex'",
    ),
  ],
)
def test_programs_that_are_refused(tmp_path, entry, edit, what):
  with pytest.raises(InputError, match=what):
    function, variables = convert.from_torch(changed(tmp_path, edit, entry))
    function(variables, EXPECTED["inputs"])


def test_active_dropout_is_refused_where_it_is(tmp_path):
  def train(value):
    nodes(value)["dropout"]["inputs"][2]["arg"] = {"as_bool": True}

  function, variables = convert.from_torch(changed(tmp_path, train))
  with pytest.raises(InputError, match=r"dropout.default at mlp.2 .*p=0.5 is active. Export"):
    function(variables, EXPECTED["inputs"])


def test_rules_that_make_another_shape_are_named(tmp_path):
  def other(value):
    _put(nodes(value)["gelu"], "torch.ops.mylib.halved.default", "target")

  path = changed(tmp_path, other)
  known = dict(convert.programs.operators._RULES)
  try:
    convert.operator("mylib.halved")(lambda x: x[..., ::2])
    function, variables = convert.from_torch(path)
    with pytest.raises(InputError, match=r"mylib.halved.default at mlp.1 .* makes the shape"):
      function(variables, EXPECTED["inputs"])
    convert.operator("mylib.halved.default")(jax.nn.gelu)
    outputs = function(variables, EXPECTED["inputs"])
    assert rel(outputs, EXPECTED["outputs"]) <= 1e-2  # the other GELU
  finally:
    convert.programs.operators._RULES.clear()
    convert.programs.operators._RULES.update(known)
  with pytest.raises(InputError, match="has no namespace"):
    convert.operator("halved")


def test_writing_into_what_is_seen_through_another_view_is_refused(tmp_path):
  """The ReLU writes into the output of the norm, of which a view is read later."""

  def view(value):
    own = value["graph_module"]["graph"]["nodes"]
    at = [node["name"] for node in own].index("relu_")
    norm = own[at]["inputs"][0]["arg"]["as_tensor"]["name"]
    alias = json.loads(json.dumps(own[at]))
    alias["target"], alias["name"] = "torch.ops.aten.alias.default", "seen"
    alias["outputs"] = [{"as_tensor": {"name": "seen"}}]
    own.insert(at, alias)
    own[at + 2]["inputs"][0]["arg"]["as_tensor"]["name"] = "seen"
    assert alias["inputs"][0]["arg"]["as_tensor"]["name"] == norm

  with pytest.raises(InputError, match=r"relu_.default at act .* another view later \(seen\)"):
    convert.from_torch(changed(tmp_path, view))


def test_no_pickle_is_read(tmp_path):
  """Sample inputs are a pickle, which is left alone whatever it holds."""
  file = io.BytesIO(FILE.read_bytes())
  with zipfile.ZipFile(file, "a") as archive:
    archive.writestr("archive/data/sample_inputs/model.pt", b"cos\nsystem\n(S'false'\ntR.")
  path = tmp_path / "with_samples.pt2"
  path.write_bytes(file.getvalue())
  function, variables = convert.from_torch(path)
  assert rel(function(variables, EXPECTED["inputs"]), EXPECTED["outputs"]) <= 1e-6
