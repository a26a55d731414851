"""The study of mail: words that decide, what is hidden, its mails, and its files."""

import json

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps, studies
from bcos_jax.studies.mail import MailLab, leaks, mails, measures
from bcos_jax.studies.mail.study import header_share
from bcos_jax.text.words import TextBatch, Word

CLS, MASK = 1, 9


def word(text, value, span=(0, 1)):
  return Word(text, span, value, (0,))


def batch(*texts):
  """Texts of which a token has at most four letters, between two special tokens."""
  spans = []
  for text in texts:
    cut, begin = [], 0
    for part in text.split(" "):
      for i in range(0, len(part), 4):
        cut.append((begin + i, begin + min(i + 4, len(part))))
      begin += len(part) + 1
    spans.append([(0, 0), *cut, (0, 0)])
  length = max(map(len, spans))
  padded = np.array([row + [(0, 0)] * (length - len(row)) for row in spans], np.int32)
  mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in spans], np.int32)
  special = padded[..., 0] == padded[..., 1]
  ids = np.where(special, CLS, 5).astype(np.int32) * mask
  return TextBatch(
    texts, ids, mask, special, padded, tuple(("x",) * len(r) for r in spans), np.zeros(len(texts))
  )


def test_totals_of_words_by_hand():
  """Case does not count; punctuation and special tokens are no words."""
  found = leaks.word_totals(
    [
      [word("[CLS]", 9.0, None), word("Free", 0.5), word("!", 7.0), word("list", -0.25)],
      [word("free", 0.25), word("free", 0.25), word("offer", 0.75)],
      [word("LIST", -1.0), word("offer", 0.25)],
    ],
    np.array([True, True, False]),
  )
  assert found == [
    leaks.WordTotal("free", 1.0, 3, 2, 1.0),
    leaks.WordTotal("offer", 1.0, 2, 2, 0.5),
    leaks.WordTotal("list", -1.25, 2, 2, 0.5),
  ]


def test_deciding_words_speak_for_their_side():
  totals = [
    leaks.WordTotal(name, total, 1, 1, 0.0) for name, total in zip("abc", (2, 1, -1), strict=True)
  ]
  for_spam, against = leaks.deciding(totals, 2)
  assert [one.word for one in for_spam] == ["a", "b"]
  assert [one.word for one in against] == ["c"]
  with pytest.raises(InputError, match="most=0"):
    leaks.deciding(totals, 0)


def test_totals_refuse_what_they_cannot_sum():
  with pytest.raises(InputError, match="2 labels for 1 mails"):
    leaks.word_totals([[word("a", 1.0)]], np.array([True, False]))
  with pytest.raises(InputError, match="'a' of mail 0 contributes nan"):
    leaks.word_totals([[word("a", float("nan"))]], np.array([True]))


def test_a_word_is_hidden_with_all_its_tokens():
  """'mailing' has two tokens; '.' is no word."""
  texts = batch("Mailing list . news", "news")
  ids, counts = leaks.hidden(texts, {"mailing", "news"}, MASK)
  np.testing.assert_array_equal(
    ids, [[CLS, MASK, MASK, 5, 5, MASK, CLS], [CLS, MASK, CLS, 0, 0, 0, 0]]
  )
  np.testing.assert_array_equal(counts, [2, 1])


def test_as_many_other_words_are_hidden_at_random():
  texts = batch("aa bb cc dd . ee", "aa bb")
  ids = leaks.hidden_at_random(texts, np.array([2, 5]), {"aa"}, MASK, seed=0)
  assert (ids == MASK).sum(axis=1).tolist() == [2, 1]  # one other word is all that there is
  assert ids[0, 1] == 5 and ids[0, 5] == 5  # neither the word that stays nor the full stop
  np.testing.assert_array_equal(
    ids, leaks.hidden_at_random(texts, np.array([2, 5]), {"aa"}, MASK, 0)
  )
  assert not np.array_equal(texts.ids, ids)


def test_people_are_left_out_of_pages():
  mail = (
    "Return-Path: <fork-admin@xent.com>\nDelivered-To: zzzz@localhost\nFrom: Jo Doe <jo@a.org>\n"
    "Received: from relay.net [64.161.22.236]\n\njo.doe@a.org wrote: hello"
  )
  shown = leaks.discreet(mail)
  assert len(shown) == len(mail)
  assert "fork-admin@xent.com" in shown and "zzzz@localhost" in shown and "relay.net" in shown
  for private in ("Jo", "Doe", "jo.doe", "a.org", "64.161"):
    assert private not in shown
  assert "wrote: hello" in shown and "From: " in shown
  names = leaks.names_in([mail])
  assert {"jo", "doe", "jmason"} <= names  # of the last, the corpus has a host
  assert not {"hello", "relay", "fork-admin", "zzzz", "org", "64", "localhost"} & names
  assert "fork" in leaks.names_in(["To: fork@xent.com"])
  assert "fork" not in leaks.names_in(["To: fork@xent.com", mail])


def test_probabilities_are_those_of_the_loss():
  logits = np.array([[0.0, np.log(3.0)]])
  np.testing.assert_allclose(measures.probabilities_of(logits, bcos=False), [[0.25, 0.75]])
  # Sigmoids 1/2 and 3/4.
  np.testing.assert_allclose(measures.probabilities_of(logits, bcos=True), [[0.4, 0.6]])
  low = measures.probabilities_of(np.array([[-2000.0, -2001.0]]), bcos=True)
  np.testing.assert_allclose(low, [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]])


def test_predictions_are_summed_up_by_hand():
  found = measures.Verdicts(np.array([[0.75, 0.25], [1.0, 0.0]]), np.array([0, 1]))
  assert found.accuracy == 0.5
  assert found.accuracy_error == pytest.approx(0.125**0.5)
  assert found.brier == pytest.approx((1.0625, 0.9375))


def test_what_is_read_may_be_header_alone():
  read = batch("aaaa bbbb", "aa\n\nbb")
  assert header_share(read) == 0.5


# Its mails.


def _lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_prepared_mails_are_split_once(tmp_path, monkeypatch):
  monkeypatch.setenv("BCOS_JAX_DATA_DIR", str(tmp_path / "data"))
  monkeypatch.setattr(mails, "HELD_OUT", 2)
  rows = [
    {"text": f"t{i}\u2028x", "mail": f"From: a\n\nt{i}", "label": "spam" if i % 2 else "ham"}
    for i in range(6)
  ]
  for split in ("train", "test"):
    _lines(tmp_path / f"data/spam_assassin/{split}.jsonl", rows)
  folder = mails.written(tmp_path / "mails", made=False, seed=0)
  parts = {split: mails.read(folder, split) for split in ("train", "validation", "test")}
  assert {split: len(part) for split, part in parts.items()} == {
    "train": 4,
    "validation": 2,
    "test": 6,
  }
  assert not set(parts["train"].bare) & set(parts["validation"].bare)
  np.testing.assert_array_equal(parts["test"].labels, [0, 1, 0, 1, 0, 1])
  assert parts["test"].some(2).texts("mail") == (rows[0]["mail"], rows[5]["mail"])
  assert parts["test"].texts("text")[0] == "t0\u2028x"


@pytest.mark.parametrize(
  ("line", "said"), [({"text": "a"}, "damaged"), ({"text": "a", "mail": "b", "label": "x"}, "'x'")]
)
def test_damaged_mails_are_refused(tmp_path, monkeypatch, line, said):
  monkeypatch.setenv("BCOS_JAX_DATA_DIR", str(tmp_path))
  with pytest.raises(InputError, match=r"No mails at .*train\.jsonl"):
    mails.written(tmp_path / "mails", made=False, seed=0)
  _lines(tmp_path / "spam_assassin/train.jsonl", [line])
  with pytest.raises(InputError, match=said):
    mails.written(tmp_path / "mails", made=False, seed=0)


def test_the_study_needs_an_encoder(tmp_path):
  with pytest.raises(InputError, match="--init is empty"):
    MailLab(workdir=tmp_path)
  with pytest.raises(InputError, match="--network=resnet18"):
    MailLab(workdir=tmp_path, network="resnet18")
  with pytest.raises(InputError, match="'digits'"):
    studies.run("mail", workdir=tmp_path, dataset="digits")
  with pytest.raises(InputError, match="--init=a for texts"):
    studies.run("texts", workdir=tmp_path, init="a")


def test_what_is_no_conventional_encoder_is_refused(tmp_path):
  def saved(name, architecture, ops, **fields):
    model = bcos_jax.create(architecture, ops=ops, **fields)
    if not fields:
      inputs = jax.numpy.zeros((1, 32, 32, 6 if isinstance(ops, BcosOps) else 3))
    else:
      inputs = jax.numpy.zeros((1, 8), jax.numpy.int32)
    return str(bcos_jax.save(tmp_path / name, model, model.init(jax.random.key(0), inputs)))

  sizes = {"width": 16, "mlp_dim": 16, "depth": 1, "num_heads": 2, "vocab_size": 20}
  good = saved("good", "bert_tiny", StandardOps(), **sizes)
  lab = MailLab(workdir=tmp_path, init=good)
  assert studies._kind(lab, "seed0") == f"spam_assassin-{tmp_path.name}-good-seed0"
  assert f"--init={good}" in studies._command("mail", [lab])
  with pytest.raises(InputError, match="B-cos network already"):
    MailLab(workdir=tmp_path, init=saved("bcos", "bert_tiny", BcosOps.lm(), **sizes))
  with pytest.raises(InputError, match="expected an encoder of texts"):
    MailLab(workdir=tmp_path, init=saved("pictures", "resnet_tiny", StandardOps()))


@pytest.mark.slow
def test_the_study_runs_without_mails_and_encoder(tmp_path):
  """On made mails, whose header tells the label, it finds the relays and loses without them."""
  found = studies.run("mail", workdir=tmp_path, short=True, progress=False, say=lambda line: None)
  folder = tmp_path / "findings" / "spam_assassin-seed0-short" / "mail"
  assert {path.name for path in folder.iterdir()} == {
    *("study.md", "report.html", "table.csv", "explanations.csv", "words.csv", "hiding.csv"),
    *("mail-words.png", "mail-faithful.png"),
  }
  assert len(found.table.rows) == 5
  text = (folder / "study.md").read_text(encoding="utf-8")
  assert "`bcos-jax study mail --dataset=spam_assassin --short`" in text
  assert all(caption in text for caption, _ in found.more.values())
