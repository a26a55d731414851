"""Heat maps of texts: content, escaping, words from tokens, most influential words."""

import html.parser
import re

import numpy as np
import pytest

from bcos_jax import render
from bcos_jax.errors import InputError
from bcos_jax.render import TextHeat
from bcos_jax.render.text import picture
from bcos_jax.text import tokens
from bcos_jax.text.influential_words import influential_words, words_by_class
from bcos_jax.text.tokenizer import read_tokenizer
from bcos_jax.text.words import Word
from bcos_jax.text.words import merged as words_of
from bcos_jax.train.data.text import vocabularies

EVIL = "<script>alert('1')</script> & \x1b[31m \\{$50_%}^~ \u202eright"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  texts = ["unbelievable believing unbelief belief able", "don't be late, be able"] * 20
  return vocabularies.train_pieces(tmp_path_factory.mktemp("pieces"), texts, 34)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  return vocabularies.save_words(tmp_path_factory.mktemp("words"), ["a", "lovely", "film", "."])


# Tokens and words.


def test_rows_masks_and_spans(words):
  batch = tokens.tokenize(words, ["a lovely film.", "Unseen  film"])
  assert batch.ids.tolist() == [[2, 5, 6, 7, 8, 3], [2, 1, 7, 3, 0, 0]]
  assert batch.mask.sum(1).tolist() == [6, 4] and not batch.dropped.any()
  assert batch.special[1].tolist() == [True, False, False, True, True, True]
  assert batch.spans[1, 1:3].tolist() == [[0, 6], [8, 12]] and not batch.spans[1, 3:].any()
  assert tokens.word_numbers(batch).tolist() == [[-1, 0, 1, 2, 3, -1], [-1, 0, 1, -1, -1, -1]]
  assert batch.tokens[1] == ("[CLS]", "[UNK]", "film", "[SEP]")
  assert tokens.tokenize(words, ["a", "a film"], pad=9).ids.tolist() == [[2, 5, 3, 9], [2, 5, 7, 3]]


def test_pieces_belong_to_words(source):
  batch = tokens.tokenize(source, ["unbelievable, don't be", "belief"])
  numbers = tokens.word_numbers(batch)
  assert (np.bincount(numbers[0][numbers[0] >= 0]) > 1).any()
  scores = np.random.default_rng(0).standard_normal(batch.ids.shape[1])
  merged = [word for word in words_of(batch, 0, scores) if word.span]
  assert [word.text for word in merged] == ["unbelievable", ",", "don't", "be"]
  for i, word in enumerate(merged):
    np.testing.assert_allclose(word.contribution, scores[numbers[0] == i].sum())


def test_saved_tokenizers_are_read(tmp_path, words):
  vocabularies.save_words(tmp_path / "decoder", ["a", "b"], kind="decoder", lower=False)
  read = read_tokenizer(tmp_path / "decoder")
  assert (read.eos_token_id, read.pad_token_id, read.mask_token) == (2, 0, None)
  assert tokens.tokenize(read, ["b a A"]).ids.tolist() == [[4, 3, 1]]
  assert words.mask_token_id == 4 and len(words) == 9


def test_marked_characters_mark_tokens(source):
  batch = tokens.tokenize(source, ["not unbelievable at all", "able"])
  numbers = tokens.word_numbers(batch)
  marked = tokens.marked_tokens(batch, [np.array([[4, 16]]), np.zeros((0, 2))])
  assert not marked[1].any() and np.array_equal(marked[0], numbers[0] == 1)


def test_long_texts_are_cut_only_if_asked(words):
  texts = ["a film", "a lovely lovely film"]
  with pytest.raises(InputError, match=r"Text 1 .* has 6 tokens, expected at most 4.*truncate"):
    tokens.tokenize(words, texts, length=4)
  cut = tokens.tokenize(words, texts, length=4, truncate=True)
  assert cut.dropped.tolist() == [0, 2] and cut.ids.tolist() == [[2, 5, 7, 3], [2, 5, 6, 3]]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda s: tokens.tokenize(s, []), "expected a list"),
    (lambda s: tokens.tokenize(s, "a film"), "expected a list"),
    (lambda s: tokens.tokenize(s, ["a", " \n"]), "Text 1 .* is empty"),
    (lambda s: tokens.tokenize(s, ["a"], length=0), "length is 0"),
    (lambda s: tokens.tokenize(s, ["a", "[SEP]"]), "Text 1 .* special tokens only"),
    (lambda s: tokens.tokenize(object(), ["a"]), "tokenizer.json"),
    (lambda s: tokens.marked_tokens(tokens.tokenize(s, ["a"]), []), "0 sets of spans for 1"),
    (lambda s: tokens.marked_tokens(tokens.tokenize(s, ["a"]), [[[0, 2]]]), "Span .0, 2."),
    (lambda s: vocabularies.save_words("x", ["a", "a"]), "expected distinct"),
    (lambda s: vocabularies.save_words("x", []), "0 words"),
    (lambda s: vocabularies.save_words("x", ["a"], kind="both"), "Unknown kind"),
    (lambda s: vocabularies.train_pieces("x", ["a"], 5), "size=5"),
  ],
)
def test_texts_and_tokenizers_that_cannot_be_used(words, call, message):
  with pytest.raises(InputError, match=message) as caught:
    call(words)
  assert caught.value.fix


# The most influential words.


def said(*pairs):
  return [Word(word, (0, 1), value, (0,)) for word, value in pairs]


def test_influential_words():
  texts = [
    [*said(("Good", 2.0), ("film", 0.0)), Word("[SEP]", None, 99.0, (3,))],
    said(("good", 1.0), ("bad", -1.0), ("film", 0.5)),
    said(("bad", -3.0), ("film", -0.5)),
    said(("once", 9.0)),
  ]
  found = influential_words(texts, least=2)
  assert [(w.word, w.mean, w.count, w.texts) for w in found] == [
    ("good", 1.5, 2, 2), ("film", 0.0, 3, 3), ("bad", -2.0, 2, 2)
  ]  # fmt: skip
  assert found[0].spread == 0.5
  assert [w.word for w in influential_words(texts, least=2, order="against", top=1)] == ["bad"]
  assert influential_words(texts, least=1, order="both")[0].word == "once"
  assert len(influential_words(texts, least=1, lower=False)) == 5
  with pytest.raises(InputError, match=r"'a'.*text 0.*nan"):
    influential_words([said(("a", np.nan))])
  with pytest.raises(InputError, match="Unknown order"):
    influential_words(texts, order="up")


# Heat-maps.


def heat(text="A lovely,\nlovely film"):
  spans = [None, (0, 1), (2, 8), (8, 9), (10, 16), (17, 21), None]
  scores = (9, 1, -2, 0.5, 1, 0, 4)
  words = [
    Word("[CLS]" if span is None else text[slice(*span)], span, float(score), (i,))
    for i, (span, score) in enumerate(zip(spans, scores, strict=True))
  ]
  return render.text_heat(text, words, title="for x", value=13.5)


def test_a_heat_map_keeps_the_text():
  made = heat()
  assert "".join(made.pieces) == "A lovely,\nlovely film"
  assert made.scores == (1, None, -2, 0.5, None, 1, None, 0)
  assert made.parts == {"special tokens": 13} and made.cutoff == 2


def test_html_shows_words_and_escapes_everything(tmp_path):
  evil = TextHeat(pieces=(EVIL,), scores=(1.0,), title=EVIL, note=EVIL, parts={EVIL: 1.0})
  rows = influential_words([said((EVIL, 1.0))] * 3)
  render.text_report(
    tmp_path / "a" / "t.html", EVIL, [heat(), evil], intro=EVIL, influential={EVIL: rows}
  )
  text = (tmp_path / "a" / "t.html").read_text(encoding="utf-8")
  assert "<script" not in text and "\x1b" not in text and "\u202e" not in text
  tags = []
  parser = html.parser.HTMLParser()
  parser.handle_starttag = lambda tag, attributes: tags.append(tag)
  parser.feed(text)
  assert set(tags) <= set(
    "html head meta title style body header h1 h2 main article section p span i div table thead"
    " tbody tr th td".split()
  )
  assert re.search(r'background:#0000ff;color:#ffffff" title="−2">lovely<', text)
  assert 'background:#ff7f7f;color:#000000" title="+1">lovely' in text.replace("ff8080", "ff7f7f")
  assert "words +0.5, special tokens +13; together +13.5; output +13.5" in text


def test_the_terminal_gets_colours_or_numbers():
  shown = render.text_terminal(heat())
  assert "\x1b[48;2;0;0;255;38;2;255;255;255mlovely\x1b[0m" in shown
  assert "−2 opposes" in shown and "supports +2" in shown
  plain = render.text_terminal(heat(), colors=False)
  assert "A [+1] lovely [−2], [+0.5] lovely [+1] film" in plain and "\x1b" not in plain
  evil = TextHeat(pieces=(EVIL,), scores=(0.0,), title=EVIL)
  assert "\x1b[31m" not in render.text_terminal(evil)


def test_latex_is_escaped():
  made = render.text_latex([TextHeat(pieces=(EVIL, " "), scores=(1.0, None), title="a_b")])
  assert r"\textbackslash{}\{\$50\_\%\}\textasciicircum{}\textasciitilde{}" in made
  assert r"\colorbox[rgb]{1.000,0.000,0.000}" in made and r"\textbf{a\_b}" in made
  assert made.count("{") - made.count(r"\{") == made.count("}") - made.count(r"\}")


def test_one_scale_and_nothing_at_all():
  assert "background:#ffe6e6" in render.text_html(heat(), cutoff=10.0)  # 1 of 10
  empty = TextHeat(pieces=("a",), scores=(0.0,))
  assert "background:#ffffff" in render.text_html(empty)
  with pytest.raises(InputError, match="one finite number"):
    TextHeat(pieces=("a",), scores=(np.nan,))


# Several texts in one report.


def fills(text):
  return re.findall(r'<span style="background:(#\w+)[^>]*>(\w+)<', text)


def test_texts_of_one_report_share_a_scale(tmp_path):
  weak = TextHeat(pieces=("mild",), scores=(0.06,))
  strong = TextHeat(pieces=("strong",), scores=(3.9,))
  render.text_report(tmp_path / "one.html", "x", [weak, strong])
  found = {word: fill for fill, word in fills((tmp_path / "one.html").read_text())}
  assert found == {"mild": "#fffbfb", "strong": "#ff0000"}
  render.text_report(tmp_path / "own.html", "x", [weak, strong], own_scales=True)
  assert {fill for fill, _ in fills((tmp_path / "own.html").read_text())} == {"#ff0000"}
  both = render.text_latex([weak, strong]), render.text_latex([weak, strong], own_scales=True)
  assert [text.count(r"{1.000,0.000,0.000}{\strut\textcolor") for text in both] == [3, 4]


def test_unknown_words_are_marked(words):
  batch = tokens.tokenize(words, ["a zyx film"])
  found = words_of(batch, 0, np.array([0.0, 1.0, -2.0, 0.5, 0.0]))
  assert [word.unknown for word in found] == [False, False, True, False, False]
  made = render.text_heat("a zyx film", found, kind="exact")
  assert [piece for piece, _, unknown in made.marked if unknown] == ["zyx"]
  page = render.text_html(made)
  assert re.search(r'underline[^>]*title="−2, not in the vocabulary">zyx<', page)
  assert page.count("not in the vocabulary") == 1
  assert "zyx [−2, unknown] film" in render.text_terminal(made, colors=False)
  assert "\x1b[4;48;2;0;0;255" in render.text_terminal(made)
  assert r"\underline{zyx}" in render.text_latex([made])
  for text in (render.text_terminal(made), render.text_latex([made])):
    assert "underlined: not in the vocabulary" in text and "exact" in text
  with pytest.raises(InputError, match="2 marks"):
    TextHeat(pieces=("a",), scores=(0.0,), unknown=(True, False))


def test_too_few_texts_are_said_to_be_so(tmp_path):
  texts = [said(("good", 1.0), (".", 5.0)), said(("bad", -1.0), (".", 6.0)), said((".", 1.0))]
  assert influential_words(texts, least=2) == []
  tables = words_by_class(texts, ["x", "x", "y"])
  render.text_report(tmp_path / "t.html", "x", [heat()], influential=tables)
  page = (tmp_path / "t.html").read_text()
  assert "too few texts" in page and "<table" not in page
  more = words_by_class([*texts, said(("good", 2.0))], ["x", "x", "y", "x"])
  render.text_report(tmp_path / "t.html", "x", [heat()], influential=more)
  page = (tmp_path / "t.html").read_text()
  assert "too few" not in page and page.count("<table") == 1 and "<td>good</td>" in page


# Figures.


def test_pieces_stand_in_a_grid_of_letters():
  """Lines break between words; a word longer than a line is cut; white space is one space."""
  heat = render.TextHeat(
    pieces=("good", "\n ", "film", " ", "a" * 25), scores=(1.0, None, -1.0, None, 0.5)
  )
  assert picture.placed(heat, 20) == [
    (0, 0, "good", 1.0),
    (0, 5, "film", -1.0),
    (1, 0, "a" * 20, 0.5),
    (2, 0, "a" * 5, 0.5),
  ]
  apart = render.TextHeat(pieces=("x" * 18, ", ", "yes"), scores=(1.0, None, 1.0))
  assert picture.placed(apart, 20)[1:] == [(0, 18, ",", None), (1, 0, "yes", 1.0)]


def test_a_figure_has_every_word_title_and_sum():
  heat = render.TextHeat(pieces=("good", " ", "$film$"), scores=(1.0, None, -0.5), title="T")
  figure = render.text_figure([heat, heat], columns=30)
  shown = [text.get_text() for ax in figure.axes for text in ax.texts]
  assert shown.count("good") == shown.count("$film$") == shown.count("T") == 2
  assert "words +0.5" in shown and "full colour: 1;" in shown[-1]
  with pytest.raises(InputError, match="0 texts in 100 columns"):
    render.text_figure([])
