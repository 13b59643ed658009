import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.joint import INNER_BLANKS, OUTER_BLANKS, parse
from palm_trainer.data.formats.tags import NO_BEGIN
from palm_trainer.data.formats.text_files import CRLF, Defects, FormatOptions
from palm_trainer.errors import DataError


def joint(folder, words, tags, labels):
    folder.mkdir(exist_ok=True)
    for name, lines in (("seq.in", words), ("seq.out", tags), ("label", labels)):
        (folder / name).write_bytes("".join(line + "\n" for line in lines).encode())
    return folder


def test_joint_reads_words_tags_and_intent(tmp_path, parse):
    path = joint(tmp_path, ["fly to new york"], ["O O B-city I-city"], ["flight"])
    (example,), defects = parse("joint", path)
    assert example.text == "fly to new york"
    assert example.fields == {"intent": "flight", "slots": (LabelledSpan(7, 15, "city"),)}
    assert example.words == ((0, 3), (4, 6), (7, 10), (11, 15))
    assert example.source == f"{path / 'seq.in'}:1"
    assert defects == {}


def test_joint_doubled_blanks_are_counted(tmp_path, parse):
    words = [" play  it ", "play it\r", "play\tit"]
    path = joint(tmp_path, words, ["O B-song ", "O B-song\r", "O B-song"], ["a", "b ", "c"])
    examples, defects = parse("joint", path)
    assert [example.text for example in examples] == ["play it"] * 3
    assert [example.fields["intent"] for example in examples] == ["a", "b", "c"]
    assert defects == {CRLF: 2, OUTER_BLANKS: 1, INNER_BLANKS: 2}


def test_joint_inside_tag_without_begin_opens_span(tmp_path, parse):
    path = joint(tmp_path, ["a b c d e"], ["I-x I-x I-y B-y I-x"], ["i"])
    (example,), defects = parse("joint", path)
    spans = [(span.start, span.end, span.label) for span in example.fields["slots"]]
    assert spans == [(0, 3, "x"), (4, 5, "y"), (6, 7, "y"), (8, 9, "x")]
    assert defects == {NO_BEGIN: 3}


def test_joint_label_separator_gives_several_intents(tmp_path, parse):
    path = joint(tmp_path, ["a"], ["O"], ["x#y#x"])
    assert parse("joint", path, label_separator="#")[0][0].fields["intent"] == ("x", "y")
    assert parse("joint", path)[0][0].fields["intent"] == "x#y#x"


@pytest.mark.parametrize(
    ("words", "tags", "labels", "message"),
    [
        (["a", "b"], ["O"], ["i", "i"], r"seq\.out:2: no such line \(lines: seq\.in 2, seq\.out 1, label 2\)"),
        (["a b"], ["O"], ["i"], r"seq\.in:1: 2 words, but 1 tags in seq\.out:1; give each word one tag"),
        (["a", ""], ["O", "O"], ["i", "i"], r"seq\.in:2: an empty line; remove it from all"),
        (["a", "b"], ["O", "O"], ["i", " "], r"label:2: an empty line"),
        (["a b"], ["O B-"], ["i"], r"seq\.out:1:2: tag 'B-' is none of O, B-TYPE, I-TYPE \(scheme 'bio'\)"),
        (["a b"], ["city O"], ["i"], r"seq\.out:1:1: tag 'city' is none of"),
        (["a"], ["BI-x"], ["i"], r"tag 'BI-x' is none of"),
        ([], [], [], r"seq\.in: an empty file"),
    ],
)
def test_joint_invalid_lines_are_refused(tmp_path, parse, words, tags, labels, message):
    with pytest.raises(DataError, match=message):
        parse("joint", joint(tmp_path, words, tags, labels))


def test_joint_missing_files_are_refused(tmp_path, parse, file):
    with pytest.raises(DataError, match=r"no such directory; format 'joint' reads a directory with seq\.in"):
        parse("joint", tmp_path / "absent")
    with pytest.raises(DataError, match=r"a file; format 'joint' reads a directory"):
        parse("joint", file("x.tsv", "a"))
    joint(tmp_path, ["a"], ["O"], ["i"])
    (tmp_path / "label").unlink()
    with pytest.raises(DataError, match=r"label: no such file"):
        parse("joint", tmp_path)


def test_joint_invalid_utf8_is_located(tmp_path, parse):
    joint(tmp_path, ["a"], ["O"], ["i"])
    (tmp_path / "seq.in").write_bytes("a\né caf".encode() + b"\xe9\n")
    with pytest.raises(DataError, match=r"seq\.in:2:6: byte 0xe9 is not UTF-8; convert the file"):
        parse("joint", tmp_path)


WORD = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(st.lists(st.tuples(WORD, st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])), min_size=1))
def test_joint_every_tagged_word_is_in_one_span(tmp_path_factory, pairs):
    folder = tmp_path_factory.getbasetemp() / "joint"
    joint(folder, ["  ".join(word for word, _ in pairs)], [" ".join(tag for _, tag in pairs)], ["i"])
    (example,) = parse(folder, FormatOptions(), Defects())
    assert example.text == " ".join(word for word, _ in pairs)
    for (start, end), (word, tag) in zip(example.words, pairs, strict=True):
        assert example.text[start:end] == word
        over = [span.label for span in example.fields["slots"] if span.start <= start and end <= span.end]
        assert over == ([] if tag == "O" else [tag[2:]])
