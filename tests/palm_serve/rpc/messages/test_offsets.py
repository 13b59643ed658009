"""Offsets select the same range in every unit, for texts of all Unicode planes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.rpc.messages.offsets import CODE_POINT, UTF8_BYTE, UTF16, Offsets

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aé北😀🇨🇳e\u0301\U0010fffd")), max_size=40)


def cut(text: str, unit: int, start: int, end: int) -> str:
    """Slice a text as a client does, in its own unit."""
    if unit == UTF16:
        return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")
    if unit == UTF8_BYTE:
        return text.encode()[start:end].decode()
    return text[start:end]


@pytest.mark.parametrize("unit", [0, CODE_POINT, UTF16, UTF8_BYTE])
@given(data=st.data())
def test_offsets_select_equal_slices_in_all_units(unit: int, data: st.DataObject) -> None:
    text = data.draw(TEXTS)
    ranges = data.draw(st.lists(st.tuples(*[st.integers(0, len(text))] * 2).map(sorted), max_size=6))
    offsets = Offsets(text, unit)  # one object for all ranges, in any order
    for start, end in ranges:
        assert cut(text, unit, offsets(start), offsets(end)) == text[start:end]


def test_offsets_of_emoji_differ_by_unit() -> None:
    text = "😀北a"
    assert [Offsets(text, unit)(3) for unit in (CODE_POINT, UTF16, UTF8_BYTE)] == [3, 4, 8]
