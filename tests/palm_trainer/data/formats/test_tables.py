"""Formats tsv and csv."""

import pytest

from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.csv import BROKEN_LINE
from palm_trainer.data.formats.text_files import BYTE_ORDER_MARK, CRLF
from palm_trainer.data.formats.tsv import LONE_QUOTE
from palm_trainer.errors import DataError


def test_tsv_reads_palm_columns(file, parse):
    path = file("a.tsv", b'\xef\xbb\xbflabel\ttext_a\ttext_b\n1\tsaid "no\ta \'b"\n0\tx\ty\r\n')
    examples, defects = parse("tsv", path)
    assert [(e.text, e.pair, e.fields) for e in examples] == [
        ('said "no', "a 'b\"", {"label": "1"}),
        ("x", "y", {"label": "0"}),
    ]
    assert examples[1].source == f"{path}:3"
    assert defects == {BYTE_ORDER_MARK: 1, CRLF: 1, LONE_QUOTE: 1}


def test_tsv_columns_option_replaces_header(file, parse):
    path = file("a.tsv", "id\tx\tscore\n7\tgood\t1\n")
    columns = ("_", "text", "label")
    assert len(parse("tsv", path, columns=columns)[0]) == 2
    (example,), _ = parse("tsv", path, columns=columns, header=True)
    assert (example.text, example.fields) == ("good", {"label": "1"})


def test_tsv_delimiter_and_separator_options(file, parse):
    path = file("a.txt", "text|label\nx|a, b\ny|\n")
    examples, _ = parse("tsv", path, delimiter="|", label_separator=",")
    assert [e.fields["label"] for e in examples] == [("a", "b"), ()]


def test_tsv_empty_class_is_unlabelled(file, parse):
    examples, defects = parse("tsv", file("a.tsv", "text\tlabel\nx\t\ny\tb\n"))
    assert [e.fields for e in examples] == [{}, {"label": "b"}]
    assert defects == {NO_CLASS: 1}


def test_tsv_unicode_separators_stay_in_text(file, parse):
    (example,), _ = parse("tsv", file("a.tsv", "text\tlabel\na\u2028b\x0cc\x85d\t1\n"))
    assert example.text == "a\u2028b\x0cc\x85d"


def test_csv_quoted_line_breaks_stay_in_field(file, parse):
    path = file("a.csv", b'\xef\xbb\xbftext,category\r\n"one, ""two""\nthree\r\n",c\r\nx,d\r\n')
    examples, defects = parse("csv", path)
    assert [(e.text, e.fields) for e in examples] == [
        ('one, "two"\nthree\r\n', {"category": "c"}),
        ("x", {"category": "d"}),
    ]
    assert [e.source for e in examples] == [f"{path}:2", f"{path}:5"]
    assert defects == {BYTE_ORDER_MARK: 1, CRLF: 4, BROKEN_LINE: 1}


@pytest.mark.parametrize("name", ["tsv", "csv"])
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\tlabel\na\tb\tc\n", {}, r":2: 3 fields, but 2 columns \(text, label\); correct the row"),
        ("text\tlabel\na\n", {}, ":2: 1 fields, but 2 columns"),
        ("text\tlabel\n \tx\n", {}, ":2: column 'text' is empty"),
        ("text\tlabel\n", {}, "no row after the header"),
        ("good\t1\n", {}, r":1: no text column in the header \(good, 1\); name one text or text_a or sentence"),
        ("sentence\ttext_a\n", {}, ":1: columns sentence and text_a could both be the text; say which with `columns`"),
        ("text\tx\tx\n", {}, ":1: column 'x' is empty or doubled in the header"),
        ("a\tb\n", {"columns": ("label", "text", "x", "x")}, "column 'x' is empty or doubled in `columns`"),
        ("a\tb\n", {"columns": ("label", "other")}, "no text column in `columns`"),
        ("", {}, "an empty file"),
        (" \n", {}, "an empty file"),
        (b"text\n\xff\n", {}, r":2:1: byte 0xff is not UTF-8"),
    ],
)
def test_tsv_invalid_rows_are_refused(file, parse, name, content, options, message):
    with pytest.raises(DataError, match=message):
        parse(name, file("a.txt", content), **({"delimiter": "\t"} | options))


def test_csv_invalid_quotes_are_refused(file, parse):
    with pytest.raises(DataError, match=r":3: unexpected end of data; double the quotes inside quoted fields"):
        parse("csv", file("a.csv", 'text,label\na,b\n"open,c\nd,e\n'))
    with pytest.raises(DataError, match=r":2: .*; double the quotes inside quoted fields"):
        parse("csv", file("a.csv", 'text,label\n"a"b,c\n'))


def test_tsv_missing_file_is_refused(tmp_path, parse):
    with pytest.raises(DataError, match="no such file; check its path"):
        parse("tsv", tmp_path / "absent.tsv")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        parse("tsv", tmp_path)
