"""Training texts: reviews, package lists, files, batches by length, masked tokens."""

import gzip
import itertools
import json
import lzma
import re
import sys

import numpy as np
import pytest

from bcos_jax.errors import InputError
from bcos_jax.train.data.text import (
  debian,
  masking,
  pipeline,
  review_dataset,
  reviews,
  sources,
  splits,
  vocabularies,
)

from ..common import suggestion


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return vocabularies.save_words(tmp_path_factory.mktemp("words"), reviews.vocabulary())


@pytest.fixture(scope="module")
def examples(tokenizer):
  made = [reviews.review(i % 2, (7, i)) for i in range(240)]
  labels = np.array([r.label for r in made], np.int32)
  dataset = sources.TextDataset("made", [r.text for r in made], labels, reviews.LABELS)
  return pipeline.TextExamples(dataset, tokenizer, length=128)


# Reviews.


def judged(review):
  """Returns the side of each judgement, found without the grammar; checks what is marked."""
  sides, sentence = [], []
  for word, mark in zip(review.words, review.rationale, strict=True):
    sentence.append((word, mark))
    if word == ".":
      plain = [w for w, _ in sentence]
      feelings = [i for i, w in enumerate(plain) if any(w in group for group in FEELINGS)]
      if feelings and not set(plain) & set(reviews.OTHERS):
        (place,) = feelings
        side = int(plain[place] in FEELINGS[1])
        negated = bool(set(plain) & set(reviews.NEGATIONS))
        sides.append(side ^ negated)
        reason = [w for w in plain if w in reviews.NEGATIONS or w == plain[place]]
        assert [w for w, m in sentence if m] == (reason if sides[-1] == review.label else [])
      else:
        assert not any(m for _, m in sentence)
      sentence = []
  return sides


FEELINGS = [
  {*reviews.ADJECTIVES[side], *reviews.VERBS[side]} for side in range(len(reviews.LABELS))
]


def test_the_label_is_what_most_judgements_say():
  opposed = 0
  for i in range(400):
    made = reviews.review(i % 2, (0, i))
    sides = judged(made)
    right = sides.count(made.label)
    assert right > len(sides) - right >= 0
    opposed += right < len(sides)
  assert 40 < opposed < 160


def test_reviews_depend_on_their_seed_alone():
  assert reviews.review(1, 5) == reviews.review(1, 5) != reviews.review(1, 6)
  assert review_dataset.written("test", 3) == review_dataset.written("test", 3)
  assert review_dataset.written("test", 3) != review_dataset.written("train", 3)
  texts = list(itertools.islice(reviews.stream(1), 6))
  assert list(itertools.islice(reviews.stream(1, start=4), 2)) == texts[4:]
  words = {word for i in range(500) for word in reviews.review(i % 2, i).words}
  assert words == set(reviews.vocabulary())


def test_spurious_words_mislead_where_the_split_is_shifted():
  def agreement(split):
    found = []
    for i in range(600):
      made = review_dataset.written(split, i)
      for side, group in enumerate(reviews.SPURIOUS):
        if set(made.words) & set(group):
          found.append(side == made.label)
    assert 300 < len(found) < 520
    return np.mean(found)

  assert abs(agreement("train") - 0.8) < 0.08
  assert abs(agreement("shifted") - 0.2) < 0.08
  assert abs(agreement("unlabelled") - 0.5) < 0.1


def test_spans_and_styles():
  made = reviews.review(0, 11)
  words = [made.text[begin:end] for begin, end in made.spans]
  assert words == [w for w, m in zip(made.words, made.rationale, strict=True) if m]
  plain = [reviews.review(1, i, reviews.STYLES["plain"]) for i in range(100)]
  assert not any(set(r.words) & {*reviews.NEGATIONS, *FEELINGS[0]} for r in plain)
  with pytest.raises(InputError, match="label=2"):
    reviews.review(2, 0)
  with pytest.raises(InputError, match="negated=2"):
    reviews.Style(negated=2)


def test_the_builder_writes_what_is_made(tmp_path, monkeypatch):
  monkeypatch.setattr(review_dataset, "COUNTS", dict.fromkeys(review_dataset.SEEDS, 8))
  test = sources.open_texts("reviews", "test", str(tmp_path))
  made = [review_dataset.written("test", i) for i in range(8)]
  order = [[r.text for r in made].index(text) for text in test.texts]
  assert sorted(order) == list(range(8)) and test.label_names == reviews.LABELS
  assert test.labels.tolist() == [made[i].label for i in order]
  for spans, i in zip(test.spans, order, strict=True):
    assert spans.tolist() == made[i].spans.tolist()
  unlabelled = sources.open_texts("reviews", "unlabelled[:4]", str(tmp_path))
  assert len(unlabelled) == 4 and unlabelled.labels is None and unlabelled.label_names == ()
  for name, split, text, message in (
    ("reviews", "tset", "text", suggestion("test")),
    ("reviews/hard", "test", "text", "Unknown variant"),
    ("reviws", "test", "text", suggestion("reviews")),
    ("reviews", "test", "words", "expected a text 'words'"),
  ):
    with pytest.raises(InputError, match=message):
      sources.open_texts(name, split, str(tmp_path), text=text)


# Files.

ROWS = [{"text": 'so "good", really', "label": "pos"}, {"text": "bad\nindeed", "label": "neg"}]


def test_tables_and_lines_read_alike(tmp_path):
  table = '\ufefftext,label\n"so ""good"", really",pos\n"bad\nindeed",neg\n'
  lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
  (tmp_path / "a.csv").write_text(table, encoding="utf-8")
  (tmp_path / "a.jsonl").write_text(lines + "\n")
  (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
  (tmp_path / "a.tsv").write_text("label\ttext\npos\tso good\nneg\tbad\n")
  for name in ("a.csv", "a.jsonl", "a.jsonl.gz"):
    read = sources.read_texts(tmp_path / name)
    assert read.texts == [row["text"] for row in ROWS]
    assert read.labels.tolist() == [1, 0] and read.label_names == ("neg", "pos")
  assert sources.read_texts(tmp_path / "a.tsv").texts == ["so good", "bad"]
  names = ("pos", "neg", "meh")
  read = sources.read_texts(tmp_path / "a.csv", label_names=names)
  assert read.labels.tolist() == [0, 1] and read.label_names == names
  assert sources.read_texts(tmp_path / "a.csv", label=None).labels is None


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.csv", "text,label\ngood,pos\n,neg\n", "Line 3 .* has an empty text"),
    ("a.csv", "review,label\ngood,pos\n", "Line 2 .* has no 'text'; it has .'label', 'review'"),
    ("a.csv", 'text,label\ngood,pos\n"bad', "Cannot read .*unexpected end"),
    ("a.csv", "text,label\ngood,very,pos\n", "Line 2 .* has 3 columns, expected 2"),
    ("a.csv", "text,label\ngood,pos\nfine,pos\n", "the label 'pos' only"),
    ("a.csv", "text,label\n", "holds no texts"),
    ("a.csv", "", "holds no texts"),
    (
      "a.jsonl",
      '{"text": "good", "label": "pos"}\n{"text": "ba',
      "Line 2 .* is not valid JSON.*truncated",
    ),
    ("a.jsonl", '["good"]\n', "Line 1 .* is a list, expected an object"),
    ("a.jsonl", '{"text": "good"}\n', "has no 'label'"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "good"}' * 99, mtime=0)[:-20], "Cannot read"),
    ("a.csv", b"text,label\n\xff\xfe,pos\n", "Cannot read .*UTF-8"),
    ("a.txt", "good", "Unknown ending"),
  ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
  content = content.encode() if isinstance(content, str) else content
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=message) as caught:
    sources.read_texts(tmp_path / name)
  assert caught.value.fix


def test_labels_that_training_does_not_have(tmp_path):
  (tmp_path / "a.csv").write_text("text,label\ngood,positiv\nbad,neg\n")
  with pytest.raises(InputError, match=r"label in line 2 .* 'positiv'.* " + suggestion("positive")):
    sources.read_texts(tmp_path / "a.csv", label_names=["neg", "positive"])
  with pytest.raises(InputError, match="No such file"):
    sources.read_texts(tmp_path / "b.csv")


def test_labels_are_renumbered_by_their_names():
  data = sources.from_rows("mine", [(1, {"text": "a", "label": "y"}), *NUMBERED])
  assert data.label_names == ("x", "y") and data.labels.tolist() == [1, 0, 1]
  other = sources.renumbered(data, ("z", "y", "x"))
  assert other.label_names == ("z", "y", "x") and other.labels.tolist() == [1, 2, 1]
  assert sources.renumbered(data, ("LABEL_0", "LABEL_1")) is data
  with pytest.raises(InputError, match=r"x, y.*x, z"):
    sources.renumbered(data, ("x", "z"))


NUMBERED = [(2, {"text": "b", "label": "x"}), (3, {"text": "c", "label": "y"})]


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ({"text": ["b", "c"], "label": "x"}, "Line 4 .* has a list as 'text'"),
    ({"text": "b", "label": True}, "Line 4 .* has the label True"),
    ({"text": "b", "label": ["x"]}, "Line 4 .* has the label"),
    ({"text": "b", "label": "x", "spans": [0, 1, 1]}, "Line 4 .* has the spans .0, 1, 1"),
    ({"text": "b", "label": "x", "spans": [[0, 1.5]]}, "Line 4 .* has the spans"),
  ],
)
def test_values_that_are_no_texts_labels_or_spans(record, message):
  with pytest.raises(InputError, match=message):
    sources.from_rows("mine", [*NUMBERED, (4, record)])


def test_whole_numbers_are_one_class_however_they_are_written():
  rows = [(i, {"text": "b", "label": label}) for i, label in enumerate((0, 1, 1.0, "1"))]
  assert sources.from_rows("mine", rows).label_names == ("0", "1")


def test_quotes_are_text_in_tables_cut_by_tabs(tmp_path):
  (tmp_path / "a.tsv").write_text('text\tlabel\n"great film\t1\nbad\t0\nwhat "\t1\n')
  assert sources.read_texts(tmp_path / "a.tsv").texts == ['"great film', "bad", 'what "']


def test_a_path_that_is_not_there_is_no_data_set():
  with pytest.raises(InputError, match=r"no file or folder './mine/data'"):
    splits.open_text_split("./mine/data")


def test_what_cannot_be_held_out():
  data = sources.TextDataset("mine", ["a", "b"], np.array([0, 1], np.int32), ("x", "y"))
  with pytest.raises(InputError, match="expected some of both"):
    sources.hold_out(data, 0.2)


def test_a_long_text_does_not_blow_up_the_others():
  """Texts are padded to the longest of those that are tokenized together, which are few then."""
  texts = ["a"] * 10 + ["b" * pipeline.MOST_CHARACTERS] + ["c"] * 1500
  cuts = list(pipeline.chunks(texts))
  assert cuts == [(0, 10), (10, 11), (11, 1011), (1011, 1511)]


def test_data_sets_of_hugging_face_need_their_package(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(InputError, match="'datasets'") as error:
    sources.read_hugging_face(tmp_path)
  assert "bcos_jax[datasets]" in error.value.fix


def test_equal_texts_are_held_out_together():
  texts = [f"text {i % 30}" for i in range(90)]
  labels = np.array([i % 3 for i in range(90)], np.int32)
  dataset = sources.TextDataset("d", texts, labels, ("a", "b", "c"))
  rest, held = sources.hold_out(dataset, 0.2)
  assert len(held) == 18 and len(rest) == 72 and not set(rest.texts) & set(held.texts)
  assert np.bincount(held.labels).tolist() == [6, 6, 6]
  with pytest.raises(InputError, match="held_out=1"):
    sources.hold_out(dataset, 1)


# Package lists.


def packages_file(count=12):
  paragraphs = []
  for i in range(count):
    section = ("net", "contrib/games", "debug")[i % 3]
    text = f"thing {i} for {section}\n It is number {i}.\n .\n Really: it is."
    source = f"Source: base{i // 2} (1.0)\n"
    paragraphs.append(f"Package: p{i}\n{source}Section: {section}\nDescription: {text}\n")
  return "\n".join(paragraphs)


@pytest.mark.parametrize("pack", [None, "gz", "xz"])
def test_package_lists_become_texts(tmp_path, capsys, pack):
  content = packages_file(60).encode()
  path = tmp_path / "Packages"
  if pack:
    path = tmp_path / f"Packages.{pack}"
    content = {"gz": gzip.compress, "xz": lzma.compress}[pack](content)
  path.write_bytes(content)
  out = tmp_path / "out"
  assert debian.main([str(path), "--out", str(out), "--least", "5", "--held-out", "0.3"]) == 0
  said = capsys.readouterr().out
  assert "games 20, net 20" in said.replace("net 20, games 20", "games 20, net 20")
  assert "left out: 20 with a section that is left out" in said
  train = sources.read_texts(out / "train.jsonl")
  test = sources.read_texts(out / "test.jsonl", label_names=train.label_names)
  assert len(train) + len(test) == 40 and train.label_names == ("games", "net")
  assert "thing 0 for net It is number 0. Really: it is." in [*train.texts, *test.texts]
  sides = {p.source: debian.is_held_out(p, 0.3) for p in debian.read_packages(path)}
  for text in test.texts:
    assert sides[f"base{int(text.split()[1]) // 2}"]


def test_descriptions_come_from_translations(tmp_path):
  (tmp_path / "Packages").write_text(
    "Package: a\nSection: net\nDescription: short\nDescription-md5: 1\n\n"
    "Package: b\nSection: net\nDescription: short b\nDescription-md5: 2\n\nPackage: c\n"
  )
  (tmp_path / "Translation-en").write_text(
    "Package: a\nDescription-md5: 1\nDescription-en: short\n and long\n"
  )
  read = debian.read_packages(tmp_path / "Packages", tmp_path / "Translation-en")
  assert [(p.name, p.source, p.text) for p in read] == [
    ("a", "a", "short and long"), ("b", "b", "short b")
  ]  # fmt: skip


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("Packages", b"<html>\n", "Line 1 .*expected 'Field: value'"),
    ("Packages", b"Package: a\n", "no package with a section"),
    ("Packages.xz", lzma.compress(packages_file().encode())[:-30], "truncated"),
    ("Packages.gz", b"no", "Cannot read"),
    ("Packages", packages_file(4).encode(), "fewer than 2 have 100"),
    ("Packages.lz4", b"", r"\.lz4.*apt-helper"),
    (None, b"", "No package list"),
  ],
)
def test_package_lists_that_cannot_be_used(tmp_path, capsys, name, content, message):
  if name:
    (tmp_path / name).write_bytes(content)
  out = str(tmp_path / "out")
  assert debian.main([str(tmp_path / (name or "none")), "--out", out]) == 1
  error = capsys.readouterr().err.replace("\n", " ")
  assert re.search(message, error), error


# Batches.


def take(count, ds):
  iterator = iter(ds)
  batches = [next(iterator) for _ in range(count)]
  iterator.close()
  return batches


def same(ours, theirs):
  for a, b in zip(ours, theirs, strict=True):
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_batches_hold_every_text_once_an_epoch(examples):
  order = pipeline.Order(examples.lengths, 16, seed=3)
  rows = np.concatenate([order(step) for step in range(2 * 240 // 16 + 20)])
  assert len(rows) == 50 * 16
  assert (np.abs(np.bincount(rows, minlength=240) - 800 / 240) < 1).all()
  spread = [np.ptp(examples.lengths[order(step)]) for step in range(50)]
  assert np.mean(spread) < np.ptp(examples.lengths) / 8


def test_batches_are_padded_and_resume(examples):
  batches = take(6, pipeline.text_batches(examples, batch_size=8, seed=1))
  for batch in batches:
    length = batch["ids"].shape[1]
    assert length in (16, 32, 64, examples.longest) and batch["mask"].sum(1).max() > length / 2
    assert (batch["ids"][~batch["mask"]] == 0).all() and batch["label"].shape == (8,)
  same(batches[4:], take(2, pipeline.text_batches(examples, batch_size=8, seed=1, start_step=4)))
  other = pipeline.Order(examples.lengths, 8, seed=2)
  assert sorted(other(0)) != sorted(pipeline.Order(examples.lengths, 8, seed=1)(0))


def test_processes_share_batches(examples, tokenizer):
  hide = hiding(tokenizer)
  arguments = {"batch_size": 8, "seed": 1, "change": hide}
  whole = take(3, pipeline.text_batches(examples, **arguments))
  parts = [
    take(3, pipeline.text_batches(examples, **arguments, process_index=i, process_count=2))
    for i in range(2)
  ]
  for batch, *halves in zip(whole, *parts, strict=True):
    for name, values in batch.items():
      for i, half in enumerate(halves):
        np.testing.assert_array_equal(values[i::2], half[name])
  with pytest.raises(InputError, match="size 9"):
    pipeline.text_batches(examples, batch_size=9, seed=1, process_count=2)


def test_evaluation_sees_each_text_once(examples):
  ds = pipeline.eval_text_batches(examples, batch_size=32)
  batches = list(ds)
  assert len(batches) == 8
  index = np.concatenate([b["index"][b["counts"] > 0] for b in batches])
  assert sorted(index) == list(range(240))
  for batch in batches:
    assert np.array_equal(batch["label"], examples.dataset.labels[batch["index"]])
    for ids, mask, row in zip(batch["ids"], batch["mask"], batch["index"], strict=True):
      assert np.array_equal(ids[mask], examples[row])


def hiding(tokenizer, **fields):
  return masking.HideTokens(
    mask_id=tokenizer.mask_token_id,
    special_ids=(0, 1, 2, 3),
    vocabulary=len(tokenizer),
    **fields,
  )


def test_hidden_tokens(examples, tokenizer):
  batch = examples.batch(np.arange(240))
  found = hiding(tokenizer)(batch, np.random.default_rng(0))
  chosen = found["weights"] > 0
  special = np.isin(batch["ids"], (0, 1, 2, 3))
  assert not chosen[special].any() and np.array_equal(found["labels"], batch["ids"])
  assert abs(chosen[~special].mean() - 0.15) < 0.015
  assert np.array_equal(found["ids"][~chosen], batch["ids"][~chosen])
  masked = (found["ids"] == tokenizer.mask_token_id)[chosen].mean()
  kept = (found["ids"] == batch["ids"])[chosen].mean()
  assert abs(masked - 0.8) < 0.04 and abs(kept - 0.1) < 0.03
  assert not np.isin(found["ids"][chosen], (0, 1, 2, 3)).any()
  again = hiding(tokenizer)(batch, np.random.default_rng(1))
  assert (again["ids"] != found["ids"]).any()
  for fields, message in (({"share": 1.0}, "share=1.0"), ({"vocabulary": 4}, "are special")):
    with pytest.raises(InputError, match=message):
      masking.HideTokens(**{"mask_id": 4, "special_ids": (0, 1, 2, 3), "vocabulary": 9, **fields})


def test_next_tokens():
  ids = np.array([[5, 6, 7, 0], [5, 6, 7, 8]])
  found = masking.next_tokens({"ids": ids, "mask": ids > 0}, None)
  assert found["weights"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
  assert found["labels"][0, :2].tolist() == [6, 7] and found["labels"][1, :3].tolist() == [6, 7, 8]


def test_packing_wastes_nothing(examples):
  packed = masking.pack([np.array([5, 6]), np.array([7]), np.array([8, 9])], 3, 1)
  assert packed.tolist() == [[5, 6, 1], [7, 1, 8]]
  with pytest.raises(InputError, match="expected at least 30"):
    masking.pack([np.array([5, 6])], 30, 1)
  arguments = {"length": 32, "end": 3, "batch_size": 4, "seed": 0}
  batches = take(5, pipeline.packed_batches(examples, **arguments))
  assert all(b["ids"].shape == (4, 32) and b["mask"].all() for b in batches)
  np.testing.assert_array_equal(batches[0]["labels"][:, :-1], batches[0]["ids"][:, 1:])
  same(batches[3:], take(2, pipeline.packed_batches(examples, **arguments, start_step=3)))
  rows = (examples.lengths.sum() + 240) // 32
  late = pipeline.packed_batches(examples, **arguments, start_step=int(rows) // 4)
  assert take(1, late)[0]["ids"].shape == (4, 32)  # across the end of an epoch


def test_long_texts_say_where_they_are(tokenizer):
  dataset = sources.TextDataset("d", ["a", "the plot was dull ."], None, ())
  with pytest.raises(InputError, match=r"d, texts from 0 on: Text 1 .* has 7 tokens"):
    pipeline.TextExamples(dataset, tokenizer, length=5)
  cut = pipeline.TextExamples(dataset, tokenizer, length=5, truncate=True)
  assert cut.truncated == 1 and cut.longest == 5 and "label" not in cut.batch(np.arange(2))
