"""Plots of measurements, checked by their visible content."""

import matplotlib
import numpy as np
import pytest

from bcos_jax import render
from bcos_jax.errors import InputError


def texts(figure) -> list[str]:
  return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_curves_of_one_name_are_alike_and_named_once():
  figure = render.curves(
    [
      render.Panel(curves={"a": ([0, 1], [0.0, 1.0]), "b": ([0, 1], [1.0, 0.5])}, y="left"),
      render.Panel(curves={"b": ([0, 2], [3.0, 4.0], [0.5, 0.5])}, y="right", levels={"known": 2}),
    ],
    title="Both",
  )
  left, right = figure.axes
  (a, b), (again, *_) = left.lines, right.lines
  np.testing.assert_array_equal(a.get_ydata(), [0, 1])
  np.testing.assert_array_equal(again.get_ydata(), [3, 4])
  assert (b.get_color(), b.get_marker()) == (again.get_color(), again.get_marker())
  # Told apart without colour.
  assert a.get_marker() != b.get_marker() and a.get_linestyle() != b.get_linestyle()
  band = right.collections[0].get_paths()[0].get_extents()
  assert (band.y0, band.y1) == (2.5, 4.5)
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
  assert {"left", "right", "known", "Both"} <= set(texts(figure))


def test_lengths_that_grow_by_factors_have_a_tick_each():
  curves = {"a": ([0, 10, 100], [0.1, 0.5, 0.8]), "b": ([30], [0.7])}
  (ax,) = render.curves([render.Panel(curves=curves, factors=True)]).axes
  assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "10", "30", "100"]
  left, ten, thirty, hundred = ax.transData.transform([(x, 0) for x in (0, 10, 30, 100)])[:, 0]
  assert left < ten < thirty < hundred
  assert 0.3 < (thirty - ten) / (hundred - ten) < 0.6  # log 3 of log 10


def test_bars_are_in_order_with_their_numbers():
  figure = render.bars(
    {"small": 0.25, "large": 0.75}, errors={"large": 0.1}, marked=["large"], levels={"blind": 0.11}
  )
  (axes,) = figure.axes
  low, high = axes.patches
  assert (low.get_width(), high.get_width()) == (0.25, 0.75) and low.get_y() < high.get_y()
  assert low.get_facecolor() != high.get_facecolor()
  assert {"  0.250", "  0.750", "small", "large", "blind"} <= set(texts(figure))


def test_on_a_logarithmic_axis_nothing_stands_on_a_foot():
  figure = render.bars({"a": 3e-7, "b": 1e-6}, log=True)
  (axes,) = figure.axes
  assert axes.get_xscale() == "log" and not axes.patches
  assert sorted(line.get_xdata()[0] for line in axes.lines) == [3e-7, 1e-6]
  assert "  3.0e-07" in texts(figure)


def test_a_comparison_shows_every_map_on_its_own_scale():
  pictures = np.random.RandomState(0).rand(2, 8, 8, 1).astype(np.float32)
  maps = {name: np.random.RandomState(i).randn(2, 8, 8) for i, name in enumerate("abcd")}
  figure = render.comparison(pictures, maps, ["one", "two"], columns=3)
  panels = [axes for axes in figure.axes if axes.images]
  assert len(panels) == 2 * (1 + len(maps))
  for i, name in ((0, "one"), (5, "two")):
    assert panels[i].get_title() == name
    np.testing.assert_allclose(panels[i].images[0].get_array()[..., 1], pictures[i // 5, ..., 0])
  shown = panels[6].images[0]
  np.testing.assert_allclose(shown.get_array(), maps["a"][1], rtol=1e-6)
  low, high = shown.get_clim()
  assert high == -low == pytest.approx(np.percentile(np.abs(maps["a"][1]), 99.5), rel=1e-5)
  assert "supports the class" in texts(figure)
  assert figure._supxlabel.get_text() == "post hoc: no map adds up to the output"
  both = render.comparison(pictures, maps, ["one", "two"], columns=3, exact=["a"])
  said = both._supxlabel.get_text().replace("\n", " ")
  assert said.startswith("exact for a: contributions and named constants add up")
  assert said.endswith("other maps are post hoc and need not")


@pytest.mark.parametrize(
  ("draw", "part"),
  [
    (lambda: render.curves([]), "nothing to plot"),
    (lambda: render.curves([render.Panel(curves={})]), "nothing to plot"),
    (
      lambda: render.curves([render.Panel(curves={str(i): ([0], [0]) for i in range(13)})]),
      "13 curves",
    ),
    (lambda: render.bars({}), "finite"),
    (lambda: render.bars({"a": float("nan")}), "nan"),
    (lambda: render.comparison(np.zeros((1, 4, 4, 2)), {"a": np.zeros((1, 4, 4))}, ["x"]), "4, 2"),
    (lambda: render.comparison(np.zeros((1, 4, 4, 3)), {"a": np.zeros((1, 4, 5))}, ["x"]), "'a'"),
    (lambda: render.comparison(np.zeros((1, 4, 4, 3)), {"a": np.zeros((1, 4, 4))}, []), "0 names"),
    (lambda: render.comparison(np.zeros((1, 4, 4, 3)), {}, ["x"]), "0 methods"),
    (
      lambda: render.comparison(np.zeros((1, 4, 4, 3)), {"a": np.full((1, 4, 4), np.nan)}, ["x"]),
      "not finite",
    ),
  ],
)
def test_what_cannot_be_drawn_is_refused(draw, part):
  with pytest.raises(InputError, match=part):
    draw()
