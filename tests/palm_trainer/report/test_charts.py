"""Charts are well-formed, escaped, and inside their frame."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.report.charts import (
    HEIGHT,
    WIDTH,
    Line,
    draw_histogram,
    draw_line_chart,
    draw_reliability_chart,
    round_ticks,
)
from palm_trainer.report.reliability import group_into_bins

VALUES = st.floats(1e-6, 1e4)


def parse_inside(svg):
    """Parse a chart and check that all its elements are inside the frame."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert -1 <= float(element.get(name, 0)) <= WIDTH + 1, ElementTree.tostring(element)
        for name in ("y", "y1", "y2", "cy"):
            assert -1 <= float(element.get(name, 0)) <= HEIGHT + 1, ElementTree.tostring(element)
    for x, y in re.findall(r"([-\d.]+),([-\d.]+)", " ".join(e.get("points", "") for e in root.iter())):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT
    return root


@given(st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=30), st.booleans())
def test_line_chart_has_a_dot_for_each_point(points, log):
    root = parse_inside(
        draw_line_chart([Line(points, "s1", dots=True)], label="l", x_name="x", y_name="y", log=log, best=points[-1][0])
    )
    assert len(root.findall("circle")) == len(points)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=60), st.one_of(st.none(), st.integers(3, 8192)))
def test_histogram_counts_every_value(values, limit):
    root = parse_inside(draw_histogram(values, label="l", x_name="tokens", limit=limit))
    titles = [rect.findtext("title") for rect in root.findall("rect")]
    assert sum(int(title.rpartition(" ")[2]) for title in titles) == len(values)
    assert len(titles) <= 40


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_reliability_chart_is_inside_its_frame(points):
    parse_inside(draw_reliability_chart(group_into_bins(points), label="l"))


def test_line_chart_escapes_its_texts():
    svg = draw_line_chart(
        [Line([(1, 2)], "s1", dots=True, titles=["<script>"])], label='"><script>', x_name="<i>", y_name="&"
    )
    assert "<script>" not in svg
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == '"><script>'


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (37, 92, [40, 60, 80]), (0, 2800, [0, 1000, 2000])],
)
def test_round_ticks_are_multiples_of_1_2_or_5(low, high, expected):
    assert round_ticks(low, high) == pytest.approx(expected)


def test_reliability_chart_marks_over_and_underconfidence():
    overconfident = draw_reliability_chart(group_into_bins([(0.95, True), (0.95, False)]), label="l")
    underconfident = draw_reliability_chart(group_into_bins([(0.55, True), (0.55, True)]), label="l")
    assert ('class="gap"' in overconfident, 'class="spare"' in overconfident) == (True, False)
    assert ('class="gap"' in underconfident, 'class="spare"' in underconfident) == (False, True)
