"""Tests of the app without a browser: uploads, displayed content, refusals of the command."""

import base64
import io
import json
import pathlib
import shutil
import socket

import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, cli, errors, render
from bcos_jax.app import Limits, Settings, examples, networks, pictures, server, shown, texts
from bcos_jax.app.shown import CLASSES, NETWORKS, ONE, Question
from bcos_jax.errors import InputError
from bcos_jax.render import kinds

from ..common import CLASSES as COUNT
from ..common import SIDE, filled, photos, tiny

LABELS = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("networks")
  made = {}
  for name, ops, labels in (
    ("bcos", BcosOps.v2(), LABELS),
    ("plain", StandardOps(), LABELS[::-1]),
    ("other", BcosOps(), ("x", "y", "cat", "z", "w")),
  ):
    model = tiny("resnet_tiny", ops)
    made[name] = bcos_jax.save(root / name / "bundle", model, filled(model), labels=labels)
  return made


@pytest.fixture(scope="module")
def loaded(folders):
  return {name: networks.load_networks([folder])[0] for name, folder in folders.items()}


@pytest.fixture(scope="module")
def image(loaded):
  return loaded["bcos"].preprocess(picture())


def picture(width=40, height=30):
  pixels = np.uint8(255 * photos(1, 40)[0])
  return Image.fromarray(pixels).resize((width, height))


def sent(data, kind="image/png"):
  return f"data:{kind};base64," + base64.b64encode(data).decode()


def encoded(image, kind="PNG", **options):
  buffer = io.BytesIO()
  image.save(buffer, format=kind, **options)
  return buffer.getvalue()


# What is let in.


@pytest.mark.parametrize("kind", pictures.KINDS)
def test_every_kind_of_picture_is_read(kind):
  read = pictures.read_upload(sent(encoded(picture(), kind)), Limits())
  assert read.size == (40, 30) and read.mode == "RGB"


def test_what_the_browser_keeps_is_what_the_network_is_given(loaded, image):
  preprocess = loaded["bcos"].preprocess
  back = pictures.from_uri(pictures.to_uri(image), preprocess)
  assert back.dtype == image.dtype and np.array_equal(back, image)
  grey = bcos_jax.Preprocess((8, 8), resize=0, colors=1)
  assert np.array_equal(pictures.from_uri(pictures.to_uri(grey(picture())), grey), grey(picture()))


def refused(data, limits=None):
  with pytest.raises(InputError) as caught:
    pictures.read_upload(data, limits or Limits())
  assert caught.value.fix
  return caught.value.cause


def test_what_is_no_picture_is_refused():
  whole = encoded(picture())
  for unreadable in (
    b"just text",
    whole[: len(whole) // 2],
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    encoded(picture(), "PPM"),  # not among the accepted formats
  ):
    assert "readable" in refused(sent(unreadable))
  assert "incomplete" in refused("data:image/png;base64,%%%")
  refused("")


def test_large_files_are_refused_before_they_are_unpacked():
  assert "larger than 0.001 MB" in refused(sent(encoded(picture())), Limits(megabytes=0.001))


def test_pictures_of_many_pixels_are_refused_before_they_are_unpacked(monkeypatch):
  bomb = encoded(Image.new("1", (9000, 8000)))
  assert len(bomb) < 20_000
  monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("unpacked"))
  assert "9000 × 8000" in refused(sent(bomb))


def test_strips_are_refused_because_scaling_blows_them_up():
  assert "one side" in refused(sent(encoded(Image.new("L", (2, 5000)))))


def test_the_browser_cannot_send_back_another_size(loaded):
  other = pictures.to_uri(np.zeros((SIDE, SIDE + 1, 3)))
  with pytest.raises(InputError, match="expected 16 × 16"):
    pictures.from_uri(other, loaded["bcos"].preprocess)


@pytest.mark.parametrize("limits", [{"megabytes": 0}, {"megapixels": -1}, {"megabytes": 1e9}])
def test_limits_are_checked(limits):
  with pytest.raises(InputError, match="--max_"):
    Limits(**limits)


# What is shown.


def test_the_classes_are_those_of_the_package(loaded, image):
  network = loaded["bcos"]
  top = shown.top_classes(network, image)
  ex = bcos_jax.explain(network.bundle.model, network.bundle.variables, image[None])
  assert top == render.view(ex, 0, LABELS, network.options).classes
  assert [p for _, _, p in top] == sorted((p for _, _, p in top), reverse=True)


def test_one_class_adds_up(loaded, image):
  network = loaded["bcos"]
  (card,) = shown.answer([network], [image], Question(ONE, 2))
  ex = bcos_jax.explain(network.bundle.model, network.bundle.variables, image[None], 2)
  np.testing.assert_allclose(card.values, ex.contributions[0], rtol=1e-4, atol=1e-6)
  assert card.title.startswith("cat") and "logit bias" in card.sum
  assert [caption for caption, _ in card.panels] == [
    "Picture", "What the network sees in it", "Contributions on the picture"
  ]  # fmt: skip


def test_the_difference_of_two_classes_is_exact(loaded, image):
  network = loaded["bcos"]
  first, second, between = shown.answer([network], [image], Question(CLASSES, 1, 3))
  np.testing.assert_array_equal(between.values, first.values - second.values)
  assert between.words == ("for dog", "for bee") and "rather than" in between.title
  assert first.cutoff == second.cutoff == between.cutoff

  ex = network.explain(image, [1, 3])
  whole = ex.rather_than((0,), (1,))
  logits = np.asarray(ex.logits[0])
  np.testing.assert_allclose(whole.value, [logits[1] - logits[3]], rtol=1e-6)
  parts = whole.contributions.sum() + sum(part[0] for part in whole.residuals.values())
  np.testing.assert_allclose(parts, whole.value[0], rtol=1e-5)
  assert float(whole.completeness_error[0]) < 1e-5
  back = shown.answer([network], [image], Question(CLASSES, 3, 1))[2]
  np.testing.assert_array_equal(back.values, -between.values)


def test_a_conventional_network_beside_another_says_what_it_shows(loaded, image):
  pair = [loaded["bcos"], loaded["plain"]]
  first, second = shown.answer(pair, [image, image], Question(NETWORKS, 1))
  assert "bee" in first.title and "bee" in second.title  # by name: the orders differ
  assert "post hoc" in second.caption and "need not add up" in second.note
  assert second.kind.startswith("post hoc") and first.kind == kinds.EXACT
  assert second.unit == "attribution" and first.unit == "contribution"
  maps = pair[1].input_x_gradient(image, 3)
  np.testing.assert_array_equal(second.values, maps)


def test_a_conventional_network_alone_is_explained_as_by_the_package(loaded, image):
  (card,) = shown.answer([loaded["plain"]], [image], Question(ONE, 0))
  assert "conventional" in card.note and "bias" in card.sum
  assert card.kind.startswith("post hoc: not exact for this network") and "biases" in card.kind
  assert "What the network sees in it" not in dict(card.panels)


def test_classes_of_two_networks_are_matched_by_name(loaded, image):
  first, second = loaded["bcos"], loaded["other"]
  assert shown.same_class(first, second, 2) == 2 and shown.same_class(first, second, 0) is None
  assert shown.same_class(first, loaded["plain"], 0) == COUNT - 1
  cards = shown.answer([first, second], [image, image], Question(NETWORKS, 0))
  assert "no class ant" in cards[1].note


def test_questions_without_an_answer(loaded, image):
  one = [loaded["bcos"]]
  for question, word in (
    (Question(CLASSES, 1, 1), "same"),
    (Question(CLASSES, 1, None), "same"),
    (Question(NETWORKS, 1), "one network"),
    (Question(ONE, COUNT), "does not exist"),
    (Question(ONE, -1), "does not exist"),
    (Question("else", 0), "Unknown view"),
  ):
    for function in (shown.answer, shown.draw):
      with pytest.raises(InputError, match=word):
        function(one, [image], question)


def test_the_figure_is_the_one_of_the_package(loaded, image, tmp_path):
  network = loaded["bcos"]
  ex = network.explain(image, [2])
  render.figure(ex, 0, LABELS, tmp_path / "same.png", options=network.options)
  expected = np.asarray(Image.open(tmp_path / "same.png"))
  drawn = np.asarray(Image.open(io.BytesIO(shown.draw([network], [image], Question(ONE, 2)))))
  np.testing.assert_array_equal(drawn, expected)


def test_comparisons_are_drawn_too(loaded, image):
  pair = [loaded["bcos"], loaded["plain"]]
  for asked, question in (
    (pair, Question(CLASSES, 0, 4)),
    (pair, Question(NETWORKS, 0)),
    (pair[::-1], Question(NETWORKS, 0)),
  ):
    drawn = Image.open(io.BytesIO(shown.draw(asked, [image, image], question)))
    assert min(drawn.size) > 200


def test_names_of_files_are_safe(loaded):
  name = shown.file_name([loaded["bcos"]], Question(CLASSES, 0, 1))
  assert name == "explanation-ant-or-bee.png"


def test_shares_add_up_to_one():
  values = np.array([[3.0, -1.0], [0.0, 0.0]])
  np.testing.assert_allclose(shown.share(values), values / 4)
  assert not shown.share(np.zeros((2, 2))).any()


def test_networks_are_told_apart_by_name(folders):
  both = networks.load_networks([folders["bcos"], folders["plain"]])
  assert [network.name for network in both] == ["bcos", "plain"]
  assert [network.conventional for network in both] == [False, True]
  with pytest.raises(InputError, match="one or two"):
    networks.load_networks([folders["bcos"]] * 3)


def test_examples_are_those_of_a_folder_or_of_the_bundle(folders, tmp_path):
  assert examples.examples(None, bcos_jax.load(folders["bcos"]).examples, Limits()) == ()
  own = tmp_path / "bundle"
  shutil.copytree(folders["bcos"], own)
  (own / "examples").mkdir()
  picture().save(own / "examples" / "china.png")
  assert bcos_jax.io.bundles.is_bundle(own) and bcos_jax.load(own).labels == LABELS
  own = bcos_jax.load(own).examples
  assert [name for name, _ in examples.examples(None, own, Limits())] == ["china"]
  assert examples.examples("", own, Limits()) == ()
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "notes.md").write_text("x")
  with pytest.raises(InputError, match="has no pictures"):
    examples.examples(folder, own, Limits())
  for name in ("b.jpg", "a.png"):
    picture().save(folder / name)
  found = examples.examples(folder, own, Limits())
  assert [name for name, _ in found] == ["a", "b"] and found[0][1].mode == "RGB"
  (folder / "c.png").write_bytes(b"nothing")
  with pytest.raises(InputError, match=r"c\.png.*not a readable picture"):
    examples.examples(folder, own, Limits())
  with pytest.raises(InputError, match="not a folder"):
    examples.examples(tmp_path / "none", own, Limits())


# The command.


def failing(capsys, *arguments):
  assert cli.main(["app", *map(str, arguments)]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 2 and lines[1].strip().startswith("fix:")
  return lines


@pytest.fixture
def installed(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setitem(errors.EXTRAS, "app", ())


def test_a_missing_extra(monkeypatch, folders, capsys):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setitem(errors.EXTRAS, "app", ("dash", "no_such_package"))
  cause, fix = failing(capsys, folders["bcos"])
  assert "no_such_package" in cause and "pip install" in fix and "[app]" in fix


def test_a_port_in_use(installed, folders, capsys):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    cause, fix = failing(capsys, folders["bcos"], f"--port={port}")
  assert "in use" in cause and str(port) in cause and f"--port={port + 1}" in fix


def test_other_bad_arguments(installed, folders, tmp_path, capsys):
  assert "0 to 65,535" in failing(capsys, folders["bcos"], "--port=70000")[0]
  assert "--max_upload_mb" in failing(capsys, folders["bcos"], "--max_upload_mb=0")[0]
  assert "not a bundle" in failing(capsys, tmp_path, "--port=0")[0]


def test_listening_to_others_is_warned_of(installed, tmp_path, capsys):
  assert cli.main(["app", str(tmp_path), "--port=0", "--host=0.0.0.0"]) == 2
  assert "warning" in capsys.readouterr().out
  assert cli.main(["app", str(tmp_path), "--port=0"]) == 2
  assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("host", "own"),
  [("127.0.0.1", 1), ("localhost", 1), ("::1", 1), ("127.9.9.9", 1), ("0.0.0.0", 0), ("a.b", 0)],
)
def test_what_is_loopback(host, own):
  assert server.is_loopback(host) == bool(own)


# With the framework, without a browser.


@pytest.fixture(scope="module")
def client(loaded):
  pytest.importorskip("dash", reason="the page's framework is installed by `make test-app` only")
  from bcos_jax.app.page import make_page

  page = make_page([loaded["bcos"]], Limits(), ())
  server.guard(page.server, Settings(), page.csp_hashes())
  return page.server.test_client()


def test_the_page_reaches_nothing_outside(client):
  answer = client.get("/", base_url="http://127.0.0.1:7860")
  assert answer.status_code == 200 and 'lang="en"' in answer.text
  assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
  assert "unsafe-eval" not in answer.headers["Content-Security-Policy"]
  assert "http://" not in answer.text and "https://" not in answer.text


def test_foreign_names_of_this_machine_are_refused(client):
  assert client.get("/", base_url="http://rebound.example").status_code == 403
  assert client.get("/", base_url="http://localhost:1").status_code == 200
  assert client.get("/", base_url="http://[::1]:7860").status_code == 200


def test_requests_are_bounded(client):
  body = b"x" * (Limits().bytes * 2)
  answer = client.post(
    "/_dash-update-component",
    data=body,
    content_type="application/json",
    base_url="http://127.0.0.1",
  )
  assert answer.status_code == 413


def test_malformed_requests_of_the_page_are_refused(client):
  for body in ("{}", "[]", "nonsense", '{"output": "x", "inputs": []}', '{"output":1,"inputs":2}'):
    answer = client.post(
      "/_dash-update-component",
      data=body,
      content_type="application/json",
      base_url="http://127.0.0.1",
    )
    assert answer.status_code == 400, body


# For programs.


def asked(client, body, **options):
  data = body if isinstance(body, (str, bytes)) else json.dumps(body)
  options = {"content_type": "application/json", "base_url": "http://127.0.0.1", **options}
  return client.post("/api/explain", data=data, **options)


def test_a_program_gets_what_the_page_shows(client, loaded):
  network, file = loaded["bcos"], encoded(picture())
  image = network.preprocess(picture())
  for target, number in ((None, None), ("dog", 3), (3, 3)):
    found = asked(client, {"image": base64.b64encode(file).decode(), "target": target}).get_json()
    number = shown.top_classes(network, image)[0][0] if number is None else number
    ex = network.explain(image, [number])
    assert found["target"]["name"] == LABELS[number] and found["kind"] == kinds.EXACT
    np.testing.assert_allclose(found["contributions"], ex.contributions[0], rtol=1e-5)
    assert found["value"] == pytest.approx(float(ex.value[0]))
    assert sum(found["terms"].values()) == pytest.approx(found["value"])
    assert found["completeness_error"] < 1e-5 and len(found["classes"]) == 5
  short = asked(client, {"image": sent(file), "contributions": False}).get_json()
  assert "contributions" not in short and short["network"] == network.name


@pytest.mark.parametrize(
  ("body", "word"),
  [
    ({}, "'image'"),
    ([], "'image'"),
    ("nonsense", "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
    ({"image": 3}, "not text"),
    ({"image": "%%%"}, "incomplete"),
    ({"image": ""}, "not a readable picture"),
    ({"image": sent(b"x")}, "not a readable picture"),
    ({"image": sent(b"x" * 11_000_000)}, "larger than 10 MB"),
    ({"image": sent(encoded(Image.new("1", (9000, 8000))))}, "9000 × 8000"),
    ({"image": sent(encoded(picture())), "target": "dgo"}, "dgo"),
    ({"image": sent(encoded(picture())), "target": 99}, "does not exist"),
    ({"image": sent(encoded(picture())), "target": -1}, "does not exist"),
    ({"image": sent(encoded(picture())), "target": True}, "not a class"),
    ({"image": sent(encoded(picture())), "traget": 1}, "traget"),
    ({"image": sent(encoded(picture())), "contributions": 1}, "true or false"),
  ],
)
def test_bad_requests_get_one_line(client, body, word):
  answer = asked(client, body)
  said = answer.get_json()
  assert answer.status_code == 400 and word in said["error"] and said["fix"]
  assert "\n" not in said["error"] + said["fix"]


def test_other_limits_hold_for_programs_too(client):
  assert asked(client, "{}", content_type="text/plain").status_code == 400
  assert asked(client, "{}", base_url="http://rebound.example").status_code == 403
  large = asked(client, b"x" * (Limits().bytes * 2))
  assert large.status_code == 413 and "larger" in large.get_json()["error"]
  assert client.get("/api/explain", base_url="http://127.0.0.1").status_code == 405


# Text networks.

BERT = pathlib.Path(__file__).parents[1] / "fixtures" / "old" / "bundles" / "bert" / "bundle"


@pytest.fixture(scope="module")
def reader():
  return networks.load_networks([BERT])[0]


def test_a_text_is_explained(reader):
  found = texts.answer(reader, "a film")
  ex = reader.reader.explain(["a film"])
  assert found.target == ex.target[0] and found.heat.kind
  assert "".join(found.heat.pieces) == "a film"
  words = [word.contribution for word in ex.words(0)]
  np.testing.assert_allclose([w["contribution"] for w in found.numbers["words"]], words, rtol=1e-4)
  assert sum(p for *_, p in found.classes) == pytest.approx(1, abs=1e-6)
  for text in ("", "  ", 3, "x" * 30_000):
    with pytest.raises(InputError):
      texts.answer(reader, text)
  with pytest.raises(InputError, match="does not exist"):
    texts.answer(reader, "a film", 99)
  assert "were" not in found.heat.note
  assert "cut off" in texts.answer(reader, "a film " * 500).heat.note


def test_two_networks_of_texts_are_not_compared(folders):
  with pytest.raises(InputError, match="reads texts"):
    networks.load_networks([folders["bcos"], BERT])


def test_example_texts(tmp_path):
  (tmp_path / "one.txt").write_text("good film\n")
  (tmp_path / "p.png").write_text("")
  assert examples.text_examples(tmp_path, (), 100) == (("one", "good film"),)
  assert examples.text_examples(None, (), 100) == ()


def test_programs_explain_texts(reader):
  pytest.importorskip("dash", reason="the page's framework is installed by `make test-app` only")
  from bcos_jax.app.text_page import make_text_page, text_card

  page = make_text_page(reader, [("one", "good film")])
  server.guard(page.server, Settings(), page.csp_hashes())
  client = page.server.test_client()
  found = asked(client, {"text": "a film"}).get_json()
  assert [word["word"] for word in found["words"] if word["span"]] == ["a", "film"]
  assert asked(client, {"image": "x"}).status_code == 400
  assert asked(client, {"text": "a", "target": "no such label"}).status_code == 400
  assert client.get("/", base_url="http://127.0.0.1").status_code == 200
  assert "a film" in "".join(
    getattr(part, "children", part)
    for part in text_card(texts.answer(reader, "a film")).children[1].children
  )


@pytest.mark.parametrize(
  "body",
  (
    *(b"{}", b"[]", b"3", b"null", b"", b"{", b"\xff", b'{"output": 3, "inputs": []}'),
    *(b'{"output": "nothing.there", "inputs": []}', b'{"output": "a.b", "inputs": [3]}'),
  ),
)
def test_requests_that_no_page_makes(client, body):
  answer = client.post(
    "/_dash-update-component",
    data=body,
    content_type="application/json",
    base_url="http://127.0.0.1",
  )
  assert answer.status_code == 400


def test_the_command_shows_its_example(capsys):
  with pytest.raises(SystemExit):
    cli.main(["app", "--help"])
  assert "Example: bcos-jax app" in capsys.readouterr().out
