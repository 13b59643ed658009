"""Labels of span types hold name, role and group without ambiguity."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palm_serve.bundle.span_types import SpanType, parse_span_label, span_label

# Pieces of labels are likelier to collide than arbitrary characters.
PIECES = st.lists(
    st.sampled_from([" (role ", ", group ", " (group ", ")", "(", ",", "\\", " ()", "city", " ", "\n", "是"]),
    max_size=6,
)
TEXTS = st.one_of(st.text(max_size=12), PIECES.map("".join))


@given(name=TEXTS, role=TEXTS, group=TEXTS)
@example(name="city (role from)", role="", group="")
@example(name="city ()", role="", group="")
@example(name="city (role a\\", role="b", group="")
@example(name="", role="\\", group=", group x")
def test_labels_of_any_texts_round_trip(name: str, role: str, group: str) -> None:
    label = span_label(name, role, group)
    assert parse_span_label(label) == SpanType(name=name, role=role, group=group)


@pytest.mark.parametrize(
    ("texts", "label"),
    [
        (("city",), "city"),
        (("fromloc.city_name (old)",), "fromloc.city_name (old)"),
        (("city", "from"), "city (role from)"),
        (("city", "", "1"), "city (group 1)"),
        (("city", "from", "1"), "city (role from, group 1)"),
        (("city", "a, b (c)"), "city (role a\\, b \\(c\\))"),
        (("city (role from)",), "city (role from) ()"),
    ],
)
def test_labels_are_readable(texts: tuple[str, ...], label: str) -> None:
    assert span_label(*texts) == label
