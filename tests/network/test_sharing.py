"""Networks for others: the model card, and the way to the hub and back by the real client.

The hub is a stand-in that speaks its HTTP (tests/hub_server.py); the client runs in a process of
its own, because it reads its settings once, as it is imported.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import yaml

import bcos_jax
from bcos_jax import BcosOps, StandardOps, cli
from bcos_jax.errors import InputError
from bcos_jax.io import bundles, upload
from bcos_jax.network import card, sharing
from bcos_jax.render import kinds

from .. import hub_server, tokenizers
from ..common import ROOT, SIDE, filled, photos, tiny

LABELS = ("ant", "bee", "cat", "dog", "elk")
TRAINED = {
  "recipe": "digits:bcosify",
  "overrides": ["--config.init=/home/alice/secret/plain", "--config.steps=9"],
  "metrics": {"step": 9, "accuracy": 0.975, "loss": 0.125, "count": 40.0},
  "dataset": "imagenet2012",
  "init": {
    "source": "timm",
    "origin": "timm/resnet18.a1_in1k",
    "repository": "timm/resnet18.a1@0a",
  },
}


def made(folder, ops, provenance, pictures=2):
  """Saves a tiny network with examples and returns its bundle."""
  model = tiny("resnet_tiny", ops)
  files = []
  for i, image in enumerate(photos(pictures)):
    files.append(folder.parent / f"example {i}.png")
    Image.fromarray(np.uint8(255 * image)).save(files[-1])
  return bcos_jax.save(
    folder, model, filled(model), labels=LABELS, provenance=provenance, examples=files
  )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
  return made(tmp_path_factory.mktemp("networks") / "bcos", BcosOps(), TRAINED)


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved") / "bcos-insects"
  bcos_jax.load(bundle).save_pretrained(folder, license="apache-2.0")
  return folder


def header(text):
  return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


# The card.


def test_what_is_written_is_a_bundle_with_its_card_and_nothing_else(bundle, saved):
  names = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file())
  assert names == [
    "README.md",
    "config.json",
    "examples/example 0.png",
    "examples/example 1.png",
    "explanations.png",
    "model.safetensors",
  ]
  net, again = bcos_jax.load(bundle), bcos_jax.load(saved)
  assert again.model == net.model and again.labels == LABELS and len(again.examples) == 2
  weights = [(folder / "model.safetensors").read_bytes() for folder in (bundle, saved)]
  assert weights[0] == weights[1]
  with Image.open(saved / "explanations.png") as figure:
    assert min(figure.size) > 500


def test_a_card_says_what_is_known(saved):
  text = (saved / "README.md").read_text()
  about = header(text)
  assert about["library_name"] == "bcos_jax" and about["license"] == "apache-2.0"
  assert about["pipeline_tag"] == "image-classification" and about["metrics"] == ["accuracy"]
  assert about["base_model"] == "timm/resnet18.a1" and about["datasets"] == ["imagenet-1k"]
  assert "b-cos" in about["tags"]
  for said in (
    "# bcos-insects",
    "`resnet_tiny` with ",
    "every output is one linear map W(x) of its input",
    f"**{kinds.EXACT}**",
    "| accuracy, of 40 held-out examples | 97.5% |",
    "| classes | 5: ant, bee, cat, dog, elk |",
    "largest completeness error, of 2 explanations",
    "bcos-jax train --config=digits:bcosify",
    'bcos_jax.load("bcos-insects")',
    "2 of 2 pictures that come with it",
  ):
    assert said in text, said
  error = re.search(r"completeness error.*\| (\S+) of what", text)[1]
  assert 0 <= float(error) < 1e-4


def test_no_path_of_this_machine_is_published(saved):
  config = (saved / "config.json").read_text()
  text = (saved / "README.md").read_text()
  for shown in (config, text):
    assert "alice" not in shown and "--config.init=plain" in shown
    assert str(saved.parent) not in shown
  values = ["/a/b", "~/c/d/", "C:\\x\\y", "--config.init=/a/b", "a/b", "https://a/b", 3, None]
  cut = ["b", "d", "y", "--config.init=b", "a/b", "https://a/b", 3, None]
  assert sharing.published({"x": [values]}) == {"x": [cut]}


def test_what_is_not_known_is_left_out(tmp_path):
  folder = made(tmp_path / "net", BcosOps.v2(), {}, pictures=0)
  text = card.write(bcos_jax.load(folder), "me/net@v2", None, card.Stated())
  about = header(text)
  assert not about.keys() & {"license", "base_model", "datasets", "metrics"}
  for absent in ("## Origin", "## Measured", "## Explanations", ".png", "accuracy", "None"):
    assert absent not in text, absent
  assert 'bcos_jax.load("me/net@v2", download=True)' in text
  assert "bcos-jax explain me/net@v2 photo.jpg --download" in text
  bcos_jax.load(folder).save_pretrained(tmp_path / "out")
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
    "README.md",
    "config.json",
    "model.safetensors",
  ]


@pytest.mark.parametrize(
  ("ops", "provenance", "said", "measured"),
  [
    (StandardOps(), {}, ("A conventional network", kinds.POST_HOC), "is biases"),
    (BcosOps(), {"bcosified": {"from": {}}}, ("not trained since", "not fine-tuned"), ""),
  ],
)
@pytest.mark.parametrize("pictures", [0, 1])
def test_cards_are_honest_about_the_kind(ops, provenance, said, measured, pictures, tmp_path):
  folder = made(tmp_path / "net", ops, provenance, pictures)
  text = (bcos_jax.load(folder).save_pretrained(tmp_path / "out") / "README.md").read_text()
  for words in (*said, measured if pictures else ""):
    assert words in text, words
  assert ("completeness error" in text) == (bool(pictures) and not ops.conventional)
  assert kinds.EXACT not in text and ("is biases" in text) == (bool(pictures) and bool(measured))
  assert ("b-cos" in header(text)["tags"]) != ops.conventional


def test_the_card_of_a_network_of_texts(tmp_path):
  files = tokenizers.wordpieces(tmp_path / "tokenizer")
  model = bcos_jax.create("bert_tiny", ops=BcosOps.lm(b=1.5), num_classes=3)
  tokenizer = {path.name: path.read_bytes() for path in files.iterdir()}
  (tmp_path / "review.txt").write_text("The film was not funny.\n")
  folder = bcos_jax.save(
    tmp_path / "net",
    model,
    filled(model),
    labels=("bad", "fine", "good"),
    tokenizer=tokenizer,
    examples=[tmp_path / "review.txt"],
  )
  out = bcos_jax.load(folder).save_pretrained(tmp_path / "out", repository="me/reviews")
  text = (out / "README.md").read_text()
  assert header(text)["pipeline_tag"] == "text-classification"
  assert 'bcos-jax explain me/reviews --text "so funny" --download' in text
  assert "> The film was not funny." in text and re.search(r"funny [+-]\d\.\d{3}", text)
  assert "largest completeness error, of 1 explanations" in text
  assert not (out / "explanations.png").exists()
  names = {path.name for path in out.iterdir()}
  assert names == {"README.md", "config.json", "model.safetensors", "tokenizer", "examples"}
  again = bcos_jax.load(out)
  assert again.tokenizer == tokenizer and again.predict("so funny", top=1)[0].label


def test_given_pictures_are_explained_and_not_published(bundle, tmp_path):
  picture = tmp_path / "mine.png"
  Image.fromarray(np.uint8(255 * photos(1, seed=3)[0])).save(picture)
  out = bcos_jax.load(bundle).save_pretrained(tmp_path / "out", examples=picture)
  assert "1 of 1 pictures given" in (out / "README.md").read_text()
  assert not list(out.rglob("mine*")) and len(list((out / "examples").iterdir())) == 2


def test_a_folder_is_not_overwritten_silently(bundle, tmp_path):
  net = bcos_jax.load(bundle)
  out = net.save_pretrained(tmp_path / "out", examples=bundle.parent / "example 0.png")
  with pytest.raises(InputError, match="holds a network and its card already"):
    net.save_pretrained(out)
  net.save_pretrained(out, overwrite=True)
  (out / "notes.txt").write_text("mine")
  with pytest.raises(InputError, match="exists and is not a bundle"):
    net.save_pretrained(out, overwrite=True)
  assert (out / "notes.txt").read_text() == "mine"
  with pytest.raises(InputError, match="No picture at"):
    net.save_pretrained(tmp_path / "new", examples=tmp_path / "none.png")
  assert not (tmp_path / "new").exists()


# The hub.

CLIENT = """
import contextlib, io, json, sys
from bcos_jax import cli
cli.keep_compiled = lambda: None
for line in sys.stdin:
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = cli.main(json.loads(line))
  print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Client:
  """Runs commands in one process that has the real client of the hub; see `CLIENT`."""

  def __init__(self, folder, **settings):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
      "HF_HOME": str(folder / "hf"),
      "HF_HUB_DISABLE_XET": "1",  # the stand-in has the older storage of large files
      "HF_HUB_DISABLE_TELEMETRY": "1",
      "HF_HUB_DISABLE_PROGRESS_BARS": "1",
      "PYTHONPATH": str(ROOT),
      "JAX_PLATFORMS": "cpu",
    }
    self._process = subprocess.Popen(
      [sys.executable, "-c", CLIENT],
      env={**environment, **settings},
      cwd=folder,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )

  def __call__(self, *arguments):
    """Returns exit code, output and errors of a command."""
    self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
    self._process.stdin.flush()
    return json.loads(self._process.stdout.readline())

  def failing(self, *arguments, code=2):
    """Returns the one line of cause and the one of fix."""
    found, _, errors = self(*arguments)
    lines = [line for line in errors.splitlines() if "Warning" not in line]
    assert found == code, errors
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("  fix: ")
    return lines

  def close(self):
    self._process.stdin.close()
    self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def hub():
  with hub_server.running() as server:
    yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
  running = Client(
    tmp_path_factory.mktemp("me"), HF_ENDPOINT=hub.address, HF_TOKEN=hub_server.TOKEN
  )
  yield running
  running.close()


@pytest.fixture(autouse=True)
def _no_failures(request):
  if "hub" in request.fixturenames:
    request.getfixturevalue("hub").fails.clear()


def test_to_the_hub_and_back(hub, client, bundle, tmp_path):
  code, printed, errors = client("push", bundle, "me/bcos-insects", "--private")
  assert code == 0, errors
  repository = hub.repositories["me/bcos-insects"]
  assert repository.private and len(repository.messages) == 2  # the hub's own, and one of ours
  files = repository.files()
  assert files.keys() == {
    *(".gitattributes", "README.md", "config.json", "model.safetensors", "explanations.png"),
    *("examples/example 0.png", "examples/example 1.png"),
  }
  assert files["model.safetensors"] == (bundle / "model.safetensors").read_bytes()
  assert files["model.safetensors"] in hub.large.values()  # large files go to their storage
  text = files["README.md"].decode()
  assert 'bcos_jax.load("me/bcos-insects", download=True)' in text
  assert repository.sha("main") in printed and "download=True" in printed
  # From an empty cache: only if asked.
  hub.requests.clear()
  cause, fix = client.failing("explain", "me/bcos-insects", bundle.parent / "example 0.png")
  assert "not in the cache" in cause and "--download" in fix and not hub.requests
  explained = ("explain", "me/bcos-insects", bundle.parent / "example 0.png", "--output")
  code, printed, errors = client(*explained, tmp_path / "a", "--download")
  assert code == 0 and "report: " in printed, errors
  fetched = [path.partition("/resolve/")[2] for method, path in hub.requests if method == "GET"]
  assert fetched[0] == "main/config.json" and fetched[-1].endswith("model.safetensors")
  assert {path.partition("/")[2] for path in fetched} >= {"examples/example 0.png"}
  assert not any("README" in path or "explanations.png" in path for path in fetched)
  # And from the cache without the hub.
  hub.requests.clear()
  assert client(*explained, tmp_path / "b")[0] == 0 and not hub.requests
  numbers = [json.loads((tmp_path / f / "explanations.json").read_text()) for f in "ab"]
  assert numbers[0] == numbers[1]


def test_every_command_takes_an_id(hub, client, bundle, tmp_path):
  """A folder of other pictures, a second repository, and the flag of every command."""
  repository = hub.make(
    "you/other",
    {
      path.relative_to(bundle).as_posix(): path.read_bytes()
      for path in bundle.rglob("*")
      if path.is_file()
    },
  )
  repository.branches["v2"] = list(repository.branches["main"])
  pictures = tmp_path / "pictures"
  for i, label in enumerate(LABELS * 2):
    (pictures / label).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255 * photos(1, seed=i)[0])).save(pictures / label / f"{i}.png")
  code, printed, errors = client("evaluate", "you/other@v2", f"--dataset={pictures}", "--download")
  assert code == 0 and re.search(r"accuracy \d+\.\d\d% on 10 ", printed), errors
  assert client("evaluate", "you/other@v2", f"--dataset={pictures}")[1] == printed
  cause, fix = client.failing("evaluate", "you/other@v3", f"--dataset={pictures}")
  assert "not in the cache" in cause
  cause, fix = client.failing("evaluate", "bundles/other", f"--dataset={pictures}", "--download")
  assert "read as a path" in cause and "hf:bundles/other" in fix
  probed = ("probe", "you/other@v2", f"--dataset={pictures}", "--train_split=all", "--epochs=1")
  cause, _ = client.failing(*probed, "--teacher=no/teacher", "--test_split=all", "--knn=1")
  assert "no/teacher" in cause  # the network itself is in the cache
  cause, _ = client.failing("bcosify", "you/other@v2", tmp_path / "b")
  assert "not in the cache" not in cause
  code, printed, errors = client("convert", "you/other@v2", tmp_path / "copy")
  assert code == 0, errors
  copy = bcos_jax.load(tmp_path / "copy")
  assert copy.labels == LABELS and len(copy.examples) == 2
  for command in ("app", "evaluate", "probe", "explain", "bcosify", "convert", "push"):
    parser = cli.commands(cli.command_parser())[command]
    assert "--download" in parser.format_help(), command


def test_a_repository_is_not_overwritten_silently(hub, client, bundle):
  theirs = {".gitattributes": b"", "pytorch_model.bin": b"theirs", "README.md": b"theirs"}
  hub.make("me/theirs", theirs)
  cause, fix = client.failing("push", bundle, "me/theirs")
  assert "holds 2 files already" in cause and "--overwrite" in fix
  assert hub.repositories["me/theirs"].files() == theirs
  cause, _ = client.failing("push", bundle, "me/theirs", "--private", "--overwrite")
  assert "is public" in cause
  # A branch of its own starts from theirs, which stay.
  cause, _ = client.failing("push", bundle, "me/theirs@bcos")
  assert "bcos" not in hub.repositories["me/theirs"].branches
  assert client("push", bundle, "me/theirs@bcos", "--overwrite")[0] == 0
  assert hub.repositories["me/theirs"].files() == theirs
  ours = hub.repositories["me/theirs"].files("bcos")
  assert ours["pytorch_model.bin"] == b"theirs" and b"me/theirs@bcos" in ours["README.md"]
  # What an earlier push left and this one has not goes with it.
  hub.repositories["me/theirs"].commit("bcos", {**ours, "examples/old.png": b"x"}, "older")
  assert client("push", bundle, "me/theirs@bcos", "--overwrite")[0] == 0
  assert hub.repositories["me/theirs"].files("bcos").keys() == ours.keys()


def test_failures_on_the_way_leave_the_repository_as_it_was(hub, client, bundle):
  before = {"notes.txt": b"mine"}
  hub.make("me/broken", before)
  pushed = ("push", bundle, "me/broken", "--overwrite")
  for part, status in (("/preupload/", 400), ("/lfs-storage/", 400), ("/commit/", 0)):
    hub.fails.clear()
    hub.fails[part] = status
    hub.large.clear()
    cause, fix = client.failing(*pushed, code=1)
    assert "push to 'me/broken'" in cause and "run it again" in fix
    assert hub.repositories["me/broken"].files() == before
  hub.fails.clear()
  hub.fails["/commit/"] = 403
  cause, fix = client.failing(*pushed)
  assert "refuses" in cause and "token" in fix
  hub.fails.clear()
  assert client(*pushed)[0] == 0
  # A download that breaks is one line too, and the next one goes on.
  hub.fails["model.safetensors"] = 404
  cause, _ = client.failing("convert", "me/broken", "copy", "--download")
  assert "model.safetensors" in cause
  hub.fails.clear()
  assert client("convert", "me/broken", "copy", "--download")[0] == 0


def test_names_that_cannot_be_are_refused_before_the_network_is_read(client):
  for name in ("bcos", "a/b/c", "me/..bad", "me/a--b", "me/", "me/x.git", "me/" + "x" * 100):
    cause, fix = client.failing("push", "no/bundle", name)
    assert "no repository of the hub" in cause and "me/" in fix, name


def test_without_a_token_or_the_hub(hub, bundle, tmp_path):
  with_none = Client(tmp_path, HF_ENDPOINT=hub.address)
  cause, fix = with_none.failing("push", bundle, "me/nobody")
  assert "no token" in cause and "HF_TOKEN" in fix
  with_none.close()
  wrong = Client(tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN="hf_wrong")
  cause, fix = wrong.failing("push", bundle, "me/nobody")
  assert "refuses" in cause and "token" in fix
  assert "me/nobody" not in hub.repositories
  wrong.close()


def test_offline(hub, client, bundle, tmp_path):
  """The real client with HF_HUB_OFFLINE: the cache is read, nothing is sent."""
  hub.make("me/cached", {p.name: p.read_bytes() for p in bundle.iterdir() if p.is_file()})
  folder = tmp_path / "offline"
  folder.mkdir()
  online = Client(folder, HF_ENDPOINT=hub.address)
  assert online("convert", "me/cached", "first", "--download")[0] == 0
  online.close()
  hub.requests.clear()
  offline = Client(folder, HF_HUB_OFFLINE="1", HF_TOKEN="hf_any", HF_ENDPOINT=hub.address)
  assert offline("convert", "me/cached", "second", "--download")[0] == 0
  assert offline("convert", "me/cached", "third")[0] == 0
  assert bcos_jax.load(folder / "third").model == bcos_jax.load(bundle).model
  cause, fix = offline.failing("push", bundle, "me/new")
  assert "HF_HUB_OFFLINE" in cause and "HF_HUB_OFFLINE" in fix
  cause, fix = offline.failing("explain", "me/unknown", "p.png", "--download")
  assert "cannot be reached" in cause and "HF_HUB_OFFLINE" in fix
  offline.close()
  assert not hub.requests


def test_what_would_be_sent_is_looked_at_without_the_hub(bundle, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setattr(upload, "destination", None)
  picture = str(bundle.parent / "example 1.png")
  arguments = ["push", str(bundle), "me/x@v1", "--save", str(tmp_path / "x"), "--dataset=a/b"]
  assert cli.main([*arguments, "--examples", picture, "--base_model=c/d", "--license=mit"]) == 0
  assert "nothing is sent" in capsys.readouterr().out
  text = (tmp_path / "x" / "README.md").read_text()
  assert header(text)["datasets"] == ["a/b"] and header(text)["base_model"] == "c/d"
  assert 'bcos_jax.load("me/x@v1", download=True)' in text and "# x" in text
  assert bundles.has_bundle_config(tmp_path / "x")
  assert SIDE and bcos_jax.load(tmp_path / "x").predict(picture)


def test_folders_of_other_libraries_are_networks_of_every_command(tmp_path, monkeypatch, capsys):
  from bcos_jax.app import networks
  from bcos_jax.convert import targets

  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  model = bcos_jax.create("resnet18", ops=StandardOps(), num_classes=5, image_size=32)
  bundle = bundles.make_bundle(model, filled(model), labels=LABELS)
  theirs = targets.write(bundle, tmp_path / "theirs", "huggingface")
  pictures = tmp_path / "pictures"
  for i, label in enumerate(LABELS * 2):
    (pictures / label).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255 * photos(1, seed=i)[0])).save(pictures / label / f"{i}.png")
  assert cli.main(["evaluate", str(theirs), f"--dataset={pictures}"]) == 0
  assert " on 10 " in capsys.readouterr().out
  (served,) = networks.load_networks([theirs])
  assert served.labels == LABELS and served.conventional and served.bundle.examples == ()
  assert cli.main(["bcosify", str(theirs), str(tmp_path / "bcos")]) == 0
  assert bcos_jax.load(tmp_path / "bcos").labels == LABELS
