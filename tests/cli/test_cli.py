"""The command line: output, exit codes, and error lines with cause and fix."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps, cli
from bcos_jax.variables import num_parameters

GREY = Encoding((0.3,), (0.4,), "negated")


@pytest.fixture(autouse=True)
def _no_lasting_cache(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(encoding=GREY), image_size=16)
  x = model.ops.encoding(np.zeros((1, 16, 16, 1), np.float32))
  variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), x)
  folder = tmp_path_factory.mktemp("bundle") / "tiny"
  return bcos_jax.save(folder, model, variables, labels=list("0123456789"))


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / "a picture.png"
  Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3)).save(path)
  return path


def failing(capsys, *arguments, code=2):
  """Runs a command that must fail; returns its cause and fix."""
  assert cli.main([str(a) for a in arguments]) == code
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 2 and "Traceback" not in lines[0]
  return lines


def test_explain_writes_figures_and_a_report(bundle, picture, tmp_path, capsys):
  output = tmp_path / "out"
  assert (
    cli.main(["explain", str(bundle), str(picture), str(picture), "--output", str(output)]) == 0
  )
  printed = capsys.readouterr().out
  assert sorted(p.name for p in output.iterdir()) == [
    "a picture-2.npz",
    "a picture-2.png",
    "a picture.npz",
    "a picture.png",
    "explanations.csv",
    "explanations.journal",
    "explanations.json",
    "report.html",
  ]
  assert printed.count("%") == 10  # the five most probable classes of each
  assert printed.count("30 x 40 pixels, stretched to 16 x 16") == 2
  for path in output.iterdir():
    assert str(path) in printed or path.suffix in (".npz", ".journal")


def test_explain_takes_folders_and_overwrites_no_input(
  bundle, picture, tmp_path, capsys, monkeypatch
):
  output = tmp_path / "out"
  assert cli.main(["explain", str(bundle), str(picture.parent), "--output", str(output)]) == 0
  assert (output / "a picture.png").is_file()
  before = picture.read_bytes()
  monkeypatch.chdir(picture.parent)
  cause, fix = failing(capsys, "explain", bundle, picture.name, "--output=.")
  assert "would overwrite the input 'a picture.png'" in cause and "another folder" in fix
  assert "--output='' is empty" in failing(capsys, "explain", bundle, picture.name, "--output=")[0]
  assert picture.read_bytes() == before
  cause, _ = failing(capsys, "explain", bundle, picture, "--frame=2", "--output", output)
  assert "one frame" in cause
  cause, fix = failing(capsys, "explain", "nobody/nothing", picture)
  assert "no folder 'nobody/nothing' here" in cause and "--download" in fix


def test_explain_takes_a_class_by_name_or_number(bundle, picture, tmp_path, capsys):
  for target in ("7", "3"):
    assert (
      cli.main(
        [
          "explain",
          str(bundle),
          str(picture),
          "--target",
          target,
          "--output",
          str(tmp_path / target),
        ]
      )
      == 0
    )
    page = (tmp_path / target / "report.html").read_text(encoding="utf-8")
    assert f">{target}<" in page or f" {target} " in page
  cause, _ = failing(capsys, "explain", bundle, picture, "--target", "12", "--output", tmp_path)
  assert "12" in cause and "0 to 9" in cause


def test_a_missing_picture(bundle, tmp_path, capsys):
  cause, fix = failing(capsys, "explain", bundle, tmp_path / "no.png", "--output", tmp_path / "o")
  assert "no.png" in cause and fix.strip().startswith("fix:")


def test_a_folder_that_is_no_bundle(picture, tmp_path, capsys):
  cause, _ = failing(capsys, "explain", tmp_path, picture, "--output", tmp_path / "o")
  assert "not a bundle" in cause and str(tmp_path) in cause


def test_an_output_that_cannot_be_written_is_told_before_any_work(
  bundle, picture, tmp_path, capsys
):
  (tmp_path / "file").write_text("x")
  cause, _ = failing(capsys, "explain", bundle, picture, "--output", tmp_path / "file" / "o")
  assert "Cannot write" in cause


def test_a_damaged_bundle(bundle, picture, tmp_path, capsys):
  broken = tmp_path / "broken"
  broken.mkdir()
  (broken / "config.json").write_bytes((bundle / "config.json").read_bytes())
  weights = (bundle / "model.safetensors").read_bytes()
  (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
  cause, _ = failing(capsys, "explain", broken, picture, "--output", tmp_path / "o")
  assert "model.safetensors" in cause


def test_models_lists_sizes_and_names_the_nearest(capsys):
  assert cli.main(["models", "resnet20", "--parameters"]) == 0
  printed = capsys.readouterr().out
  model = bcos_jax.create("resnet20", ops=StandardOps())
  count = num_parameters(model)
  assert f"{count / 1e6:.3f} M" in printed
  failing(capsys, "models", "resnet_tiny")  # networks for tests are not listed
  assert cli.main(["models", "resnet18", "--parameters"]) == 0
  printed = capsys.readouterr().out
  assert "bcos_v2, bcosification, huggingface, timm" in printed
  row = next(line for line in printed.splitlines() if line.startswith("  resnet18 "))
  for part in ("224", "11.690 M", "68.7", "71.5"):
    assert part in row
  _, fix = failing(capsys, "models", "resnett50")
  assert "resnet50" in fix


def test_models_answer_at_once_and_fit_a_terminal(capsys, monkeypatch):
  def traces(model):
    raise AssertionError(f"{model} was traced")

  monkeypatch.setattr("bcos_jax.cli.catalogue.num_parameters", traces)
  assert cli.main(["models"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  listed = {line.split()[0] for line in lines if line.startswith("  ")}
  assert set(bcos_jax.names()) <= listed
  assert all(paper in "\n".join(lines) for paper in ("2306.10898", "2411.00715"))


def test_train_prints_its_config_and_refuses_misspellings(tmp_path, capsys):
  assert (
    cli.main(["train", "--config=digits:scratch", "--print_config", "--config.optimizer.lr=0.5"])
    == 0
  )
  assert "0.5" in capsys.readouterr().out
  _, fix = failing(
    capsys, "train", "--config=digits", "--config.optimiser.lr=1", "--workdir", tmp_path
  )
  assert "optimizer" in fix
  cause, _ = failing(capsys, "train", "--config=digits")
  assert "--workdir" in cause


def test_train_then_evaluate_then_fine_tune(tmp_path, capsys):
  common = [
    "--config.model.name=resnet_tiny",
    "--config.data.image_size=16",
    "--config.steps=3",
    "--config.data.batch_size=16",
    "--config.mesh.data=1",
  ]
  assert cli.main(["train", "--config=digits", "--workdir", str(tmp_path / "a"), *common]) == 0
  saved = tmp_path / "a" / "bundle"
  capsys.readouterr()
  assert cli.main(["evaluate", str(saved), "--dataset=digits"]) == 0
  accuracy = json.loads((saved / "config.json").read_text())["provenance"]["metrics"]["accuracy"]
  assert f"accuracy {accuracy:.2%} on 355 images" in capsys.readouterr().out
  assert (
    cli.main(
      [
        "train",
        "--config=digits:bcosify",
        "--workdir",
        str(tmp_path / "b"),
        f"--config.init={saved}",
        *common,
      ]
    )
    == 0
  )
  assert isinstance(bcos_jax.load(tmp_path / "b" / "bundle").model.ops, BcosOps)


@pytest.mark.parametrize(
  "option",
  [
    "--batch_size=0",
    "--grid=1",
    "--grid=-2",
    "--smooth=4",
    "--smooth=-1",
    "--num_grids=0",
    "--num_images=0",
    "--block=-1",
  ],
)
def test_evaluate_checks_its_options_before_any_work(option, tmp_path, capsys):
  cause, _ = failing(capsys, "evaluate", tmp_path / "nowhere", "--dataset=digits", option)
  assert option in cause and "nowhere" not in cause


def test_evaluate_measures_explanations(bundle, tmp_path, capsys):
  names = "deletion,insertion,comprehensiveness,sufficiency,completeness"
  sizes = ["--num_images=6", "--block=8", "--batch_size=4"]
  report = tmp_path / "report.html"
  arguments = ["evaluate", str(bundle), "--dataset=digits", f"--metrics={names}", *sizes]
  assert cli.main([*arguments, f"--report={report}"]) == 0
  lines = capsys.readouterr().out.splitlines()
  page = report.read_text(encoding="utf-8")
  assert page.count('<figure class="plot">') == 2  # Deletion and insertion are curves.
  assert all(f"<td>{name}</td>" in page for name in names.split(",")) and "Wrong: " in page
  assert not any(line.startswith("accuracy") for line in lines)
  for name in names.split(","):
    numbers = {line.split()[1]: float(line.split()[2]) for line in lines if line.startswith(name)}
    assert numbers["num_scored"] == numbers["num_images"] == 6
    assert {"mean", "random", "oracle", "standard_error"} <= set(numbers)
    if name == "completeness":
      assert numbers["mean"] < 1e-4 < numbers["random"]


def test_evaluate_refuses_metrics_that_cannot_be(bundle, capsys):
  arguments = ["evaluate", bundle, "--dataset=digits"]
  cause, fix = failing(capsys, *arguments, "--metrics=deletions")
  assert "deletions" in cause and "'deletion'" in fix
  cause, fix = failing(capsys, *arguments, "--metrics=energy_pointing")
  assert "digits:test has no masks" in cause and "shape_scenes" in fix


@pytest.mark.parametrize(
  ("options", "bound"),
  [
    (["--metrics=deletion", "--block=32"], "at most 8"),
    (["--metrics=accuracy,insertion", "--block=100"], "at most 8"),
    (["--metrics=grid_pointing", "--smooth=99999"], "at most 31"),
  ],
)
def test_evaluate_says_the_bounds_of_pictures(options, bound, bundle, capsys):
  """Before accuracy is measured."""
  assert bound in " ".join(failing(capsys, "evaluate", bundle, "--dataset=digits", *options))


def test_evaluate_plays_without_holding_all_pictures(bundle, tmp_path, capsys, monkeypatch):
  """Pictures are read by index; a network that knows nothing has no confident ones."""
  from bcos_jax.train.data import pipeline

  monkeypatch.setattr(pipeline, "to_arrays", None)
  cause, _ = failing(capsys, "evaluate", bundle, "--dataset=digits", "--grid=2", "--smooth=3")
  assert "of 355 images" in cause


@pytest.mark.parametrize(
  "command, advice",
  [
    (["quickstart"], "starts over"),
    (["train", "--config=digits", "--workdir=x"], "continue from the last checkpoint"),
  ],
)
def test_ctrl_c_says_truthfully_how_to_go_on(command, advice, capsys, monkeypatch):
  def interrupt(*arguments, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr("bcos_jax.studies.quickstart.quickstart", interrupt)
  monkeypatch.setattr("bcos_jax.train.main.main", interrupt)
  _, fix = failing(capsys, *command, code=130)
  assert advice in fix


def test_evaluate_names_the_nearest_dataset(bundle, capsys):
  cause, fix = failing(capsys, "evaluate", bundle, "--dataset=digit")
  assert "digit" in cause and "digits" in fix


@pytest.mark.parametrize(
  ("arguments", "named"),
  [(["explian"], "explain"), (["models", "vit", "--nonsense"], "--nonsense")],
)
def test_bad_usage_exits_with_2(arguments, named, capsys):
  assert named in " ".join(failing(capsys, *arguments))


@pytest.mark.parametrize("command", ["quickstart", "models", "train", "evaluate", "explain"])
def test_help_shows_an_example(command, capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main([command, "--help"])
  assert stop.value.code == 0
  assert f"bcos-jax {command}" in capsys.readouterr().out.split("Example:")[1]


def test_debug_shows_where_it_happened(tmp_path):
  with pytest.raises(bcos_jax.InputError):
    cli.main(["explain", str(tmp_path), "x.png", "--debug", "--output", str(tmp_path / "o")])
