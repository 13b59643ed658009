import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.tags import NO_BEGIN, NO_END, SCHEMES, spans_from_tags, tags_from_spans
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError


def read(tags: str, scheme: str):
    words = tags.split()
    defects = Defects()
    ranges = [(i, i + 1) for i in range(len(words))]
    spans = spans_from_tags(words, ranges, scheme, [f"f:{i}" for i in range(len(words))], defects)
    return [(s.start, s.end, s.label) for s in spans], {d.kind: d.count for d in defects}


@pytest.mark.parametrize(
    ("scheme", "tags", "spans"),
    [
        ("bio", "B-a I-a B-a O B-b", [(0, 2, "a"), (2, 3, "a"), (4, 5, "b")]),
        ("iob1", "I-a I-a B-a O I-b I-a", [(0, 2, "a"), (2, 3, "a"), (4, 5, "b"), (5, 6, "a")]),
        ("bioes", "B-a I-a E-a S-a O S-b B-b E-b", [(0, 3, "a"), (3, 4, "a"), (5, 6, "b"), (6, 8, "b")]),
        ("bilou", "B-a I-a L-a U-a O U-b B-b L-b", [(0, 3, "a"), (3, 4, "a"), (5, 6, "b"), (6, 8, "b")]),
        ("bmes", "B-a M-a E-a S-a O S-b-c", [(0, 3, "a"), (3, 4, "a"), (5, 6, "b-c")]),
    ],
)
def test_spans_from_tags_reads_every_scheme(scheme, tags, spans):
    assert read(tags, scheme) == (spans, {})


@pytest.mark.parametrize(
    ("scheme", "tags", "spans", "defects"),
    [
        ("bio", "O I-a I-b", [(1, 2, "a"), (2, 3, "b")], {NO_BEGIN: 2}),
        ("bioes", "B-a O", [(0, 1, "a")], {NO_END: 1}),
        ("bioes", "B-a I-a", [(0, 2, "a")], {NO_END: 1}),
        ("bioes", "B-a S-a", [(0, 1, "a"), (1, 2, "a")], {NO_END: 1}),
        ("bioes", "E-a I-a E-a", [(0, 1, "a"), (1, 3, "a")], {NO_BEGIN: 2}),
        ("bmes", "B-a E-b", [(0, 1, "a"), (1, 2, "b")], {NO_BEGIN: 1, NO_END: 1}),
    ],
)
def test_spans_from_tags_broken_spans_are_repaired(scheme, tags, spans, defects):
    assert read(tags, scheme) == (spans, defects)


@pytest.mark.parametrize(
    ("scheme", "tag"), [("bio", "E-a"), ("bmes", "I-a"), ("bio", "-a"), ("bio", "B"), ("bio", "o")]
)
def test_spans_from_tags_unknown_tag_is_refused(scheme, tag):
    with pytest.raises(DataError, match=f"f:0: tag '{tag}' is none of O, .* correct it or set `scheme`"):
        read(tag, scheme)


def _written(tags: list[str], scheme: str) -> list[str]:
    """BIO tags in another scheme."""
    after = [*tags[1:], "O"]
    before = ["O", *tags[:-1]]
    names = {kind: prefix for prefix, kind in SCHEMES[scheme].items()}
    found = []
    for tag, previous, following in zip(tags, before, after, strict=True):
        label = tag[2:]
        begins, ends = tag[0] == "B", following != f"I-{label}"
        if tag == "O":
            found.append(tag)
        elif scheme == "iob1":
            found.append(("B-" if begins and previous[2:] == label else "I-") + label)
        elif "end" in names:
            kind = ("single" if ends else "begin") if begins else ("end" if ends else "inside")
            found.append(f"{names[kind]}-{label}")
        else:
            found.append(tag)
    return found


@given(
    scheme=st.sampled_from(sorted(SCHEMES)),
    lengths=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "a", "b"])), min_size=1),
)
def test_spans_from_tags_schemes_agree_with_bio(scheme, lengths):
    tags = [("O" if not t else f"B-{t}" if i == 0 else f"I-{t}") for n, t in lengths for i in range(n)]
    expected = read(" ".join(tags), "bio")
    assert expected[1] == {}
    assert read(" ".join(_written(tags, scheme)), scheme) == expected
    ranges = [(i, i + 1) for i in range(len(tags))]
    assert tags_from_spans([LabelledSpan(*span) for span in expected[0]], ranges) == tags


def test_tags_from_spans_split_words_are_taken_whole():
    ranges = [(0, 4), (5, 9)]
    assert tags_from_spans([LabelledSpan(1, 4, "a")], ranges) == ["B-a", "O"]
    assert tags_from_spans([LabelledSpan(0, 4, "a"), LabelledSpan(3, 9, "b")], ranges) == ["B-a", "B-b"]
    assert tags_from_spans([LabelledSpan(4, 5, "a")], ranges) == ["O", "O"]
