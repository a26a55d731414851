"""The lines of "one line" on a bundle and on a text network, in a script and in a notebook."""

import csv
import json

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError

from .. import tokenizers
from ..common import ROOT, filled
from ..docs import notebooks
from . import one_line

NOTEBOOK = ROOT / "docs" / "notebooks" / "one_line.ipynb"


def pictures_network(folder):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=3)
  return bcos_jax.save(folder, model, filled(model), labels=("tabby", "dog", "goldfish"))


def text_network(folder):
  files = tokenizers.wordpieces(folder.parent / "tokenizer")
  model = bcos_jax.create("bert_tiny", ops=BcosOps.lm(b=1.5), num_classes=3)
  tokenizer = {path.name: path.read_bytes() for path in files.iterdir()}
  labels = ("bad", "fine", "good")
  return bcos_jax.save(folder, model, filled(model), labels=labels, tokenizer=tokenizer)


def test_a_bundle(tmp_path):
  one_line.check(pictures_network(tmp_path / "net"), "tabby", tmp_path)


def test_a_text_network(tmp_path, capsys):
  net = bcos_jax.load(text_network(tmp_path / "net"))
  ex = net.explain("The film was not funny.", target="good")
  ex.show()
  printed = capsys.readouterr().out
  assert "funny" in printed and "'good' has the value" in printed
  assert len(repr(ex)) < 200 and "good" in repr(ex) and "completeness error" in repr(ex)
  page = ex._repr_html_()
  assert "<style>" in page and ">funny</span>" in page
  texts = ["The film was not funny.", "good & <b>bad</b>"]
  several = net.explain(texts, target=["good", "bad"])
  assert several.target.tolist() == [2, 0] and "2 texts" in repr(several)
  assert "<b>" not in several._repr_html_()
  paths = several.save(tmp_path / "out")
  names = ["report.html", "explanations.jsonl", "explanations.csv", "explanations.npz"]
  assert [path.name for path in paths] == names
  rows = [json.loads(line) for line in paths[1].read_text().splitlines()]
  assert [row["target_name"] for row in rows] == ["good", "bad"]
  with paths[2].open(newline="") as file:
    words = list(csv.DictReader(file))
  total = sum(float(row["contribution"]) for row in words if row["text"] == "0")
  assert total == pytest.approx(float(several.contributions[0].sum()), abs=1e-5)
  found = net.predict("The film was not funny.", top=2)
  assert [one.number for one in found] == np.argsort(-ex.logits[0])[:2].tolist()
  again = net.predict(texts, top=2)[0]
  assert [one.label for one in again] == [one.label for one in found]
  assert again[0].probability == pytest.approx(found[0].probability, rel=1e-5)
  with pytest.raises(InputError, match="expected a text or texts"):
    net.explain([3])


def test_the_notebook_displays_what_it_says(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pictures_network(tmp_path / "runs" / "mine" / "bundle")
  text_network(tmp_path / "runs" / "reviews" / "bundle")
  one_line.pictures(tmp_path / "photos")
  _, shown = notebooks.execute(NOTEBOOK)
  pictures = [value for value in shown if isinstance(value, bcos_jax.Explanation)]
  texts = [value for value in shown if isinstance(value, bcos_jax.TextExplanation)]
  assert len(pictures) == 2 and all(value._repr_png_() for value in pictures)
  assert len(texts) == 1 and texts[0]._repr_html_()
  assert (tmp_path / "out" / "report.html").is_file()
