"""`bcos-jax explain` on folders: what is written of each picture, and jobs that go on."""

import csv
import json

import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, cli
from bcos_jax.cli.explain_images import explain_pictures
from bcos_jax.explain import saving
from bcos_jax.explain.journal import Journal
from bcos_jax.inputs import Preprocess

from ..common import filled, photos

MAPS = ("map", "picture")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), image_size=16, num_classes=4)
  place = tmp_path_factory.mktemp("net")
  read = Preprocess((16, 16), 16)
  bcos_jax.save(place, model, filled(model), preprocess=read, labels=("a", "b", "c", "d"))
  return place


@pytest.fixture
def job(folder, tmp_path):
  """Seven pictures, and a function that explains them and returns the names of those it made."""
  network, pictures = bcos_jax.load(folder), tmp_path / "pictures"
  pictures.mkdir()
  for i, image in enumerate(photos(7, side=20)):
    Image.fromarray(np.uint8(255 * image)).save(pictures / f"{i}.png")
  made = []
  explanations = network.explanations

  def spied(*arguments, **options):
    for ex in explanations(*arguments, **options):
      yield ex
      made.extend(name.rpartition("/")[2] for name in ex.names)

  object.__setattr__(network, "explanations", spied)

  def run(**options):
    made.clear()
    said = []
    fields = {"kinds": MAPS, "output": tmp_path / "out", "batch_size": 3, "say": said.append}
    explain_pictures(network, [pictures], **fields | options)
    return list(made), "\n".join(said)

  run.pictures, run.out, run.network = pictures, tmp_path / "out", network
  return run


def test_each_kind_of_file_holds_the_explanation(job):
  made, said = job(kinds=saving.KINDS)
  assert made == [f"{i}.png" for i in range(7)] and "seen/NAME.png" in said
  ex = job.network.explain(job.pictures)
  contributions = np.load(job.out / "maps" / "4.npy")
  assert contributions.dtype == np.float32 and contributions.shape == (16, 16)
  assert np.allclose(contributions, ex.contributions[4], atol=1e-5)
  assert np.array_equal(contributions, np.load(job.out / "4.npz")["contributions"])
  seen = np.asarray(Image.open(job.out / "seen" / "4.png"))
  assert (
    np.abs(seen / 255.0 - bcos_jax.render.view(ex, 4, ex.labels, ex.options).colored).max() < 0.01
  )
  rows = json.loads((job.out / "explanations.json").read_text())["explanations"]
  assert [row["value"] for row in rows] == pytest.approx([float(v) for v in ex.value], abs=1e-5)
  assert rows[0]["figure"] == "0.png" and len(rows[0]["top"]) == 4
  with (job.out / "explanations.csv").open(newline="") as file:
    assert [row["kind"] for row in csv.DictReader(file)] == [row["kind"] for row in rows]
  assert (job.out / "report.html").read_text().count("<article>") == 7


def test_tables_alone(job):
  job(kinds=())
  names = {path.name for path in job.out.iterdir()}
  assert names == {"explanations.csv", "explanations.json", "explanations.journal", "report.html"}


def test_what_is_written_is_not_made_again(job):
  first, _ = job()
  report = (job.out / "report.html").read_bytes()
  table = (job.out / "explanations.csv").read_bytes()
  assert len(first) == 7
  again, said = job()
  assert again == [] and "7 of 7 pictures were explained before" in said
  assert (job.out / "report.html").read_bytes() == report
  assert (job.out / "explanations.csv").read_bytes() == table
  # Damaged, cut short, lost, changed, and new.
  damaged = bytearray((job.out / "maps" / "1.npy").read_bytes())
  damaged[-1] ^= 1
  (job.out / "maps" / "1.npy").write_bytes(damaged)
  (job.out / "seen" / "2.png").write_bytes(b"")
  (job.out / "maps" / "3.npy").unlink()
  Image.open(job.pictures / "0.png").save(job.pictures / "4.png")
  Image.open(job.pictures / "0.png").save(job.pictures / "9.png")
  assert job()[0] == ["1.png", "2.png", "3.png", "4.png", "9.png"]
  assert np.array_equal(np.load(job.out / "maps" / "4.npy"), np.load(job.out / "maps" / "0.npy"))
  assert job()[0] == []
  assert len(job(target="b")[0]) == 8  # another question
  assert len(job(target="b", kinds=("map",))[0]) == 8


def test_an_interrupted_job_goes_on(job, monkeypatch):
  add, count = saving.SavedPictures.add, []

  def once(self, ex):
    count.append(ex)
    if len(count) == 2:
      raise KeyboardInterrupt
    return add(self, ex)

  monkeypatch.setattr(saving.SavedPictures, "add", once)
  with pytest.raises(KeyboardInterrupt):
    job()
  assert not (job.out / "explanations.json").exists()
  assert {path.name for path in job.out.iterdir()} == {"explanations.journal", "maps", "seen"}
  assert len(job.network.pictures(job.out.parent)) == 7  # what is written is no picture to explain
  with (job.out / "explanations.journal").open("ab") as file:
    file.write(b'{"stem": "3", "pict')  # a line that a crash cut short
  made, said = job()
  # Of the first batch, what threads had begun to write.
  assert made[-4:] == ["3.png", "4.png", "5.png", "6.png"] and len(made) < 7
  assert f"{7 - len(made)} of 7 pictures" in said
  rows = json.loads((job.out / "explanations.json").read_text())["explanations"]
  assert [row["picture"].rpartition("/")[2] for row in rows] == [f"{i}.png" for i in range(7)]


def test_a_journal_of_another_job_begins_anew(tmp_path):
  path = tmp_path / "journal"
  one = Journal.opened(path, {"b": (1, 2)})
  one.add({"stem": "a", "n": 1})
  one.add({"stem": "a", "n": 2})
  one.close()
  again = Journal.opened(path, {"b": (1, 2)})
  assert again.get("a") == {"stem": "a", "n": 2} and again.get("b") is None
  again.close()
  other = Journal.opened(path, {"b": 3})
  assert other.get("a") is None and path.read_bytes().count(b"\n") == 1
  other.close()


@pytest.mark.parametrize(
  "given, words",
  [
    (["--write=maps"], "'maps' is not one of them"),
    (["--write="], "'' is not one of them"),
    (["--write=map", "--text=a dog"], "--write is not for texts"),
  ],
)
def test_kinds_that_are_none(given, words, folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
  assert cli.main(["explain", str(folder), str(tmp_path / "a.png"), *given]) == 2
  assert words in capsys.readouterr().err
