import time

import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.conll import BLANK_TOKEN, DOCUMENT, EMPTY_NODE, FREE_COMMENT, NO_SENTENCE
from palm_trainer.data.formats.conll_words import NOT_SPELLED, SEVERAL_SPANS, UNUSED_MULTI_WORD
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.palm_tsv import TRAILING
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import DataError


def spans(example, field="slots"):
    return [(example.text[s.start : s.end], s.label) for s in example.fields[field]]


def test_conll_reads_tokens_tags_and_intents(file, parse):
    content = "# id = 7\n# intent: fly\nto\tO\nnew\tB-city\nyork\tI-city\n\t\n\n#\tO\nlol\tO\n"
    path = file("a.conll", content)
    (first, second), defects = parse("conll", path)
    assert (first.text, first.fields["intent"], spans(first)) == ("to new york", "fly", [("new york", "city")])
    assert first.words == ((0, 2), (3, 6), (7, 11))
    assert first.source == f"{path}:3"
    assert (second.text, second.fields) == ("# lol", {"slots": ()})
    assert defects == {"comment '# id' (passed over)": 1}


def test_conll_2003_uses_first_and_last_column(file, parse):
    content = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nis VBZ I-VP O\n: : O O\n# # O O\n"
    (example,), defects = parse("conll", file("a.conll", content), scheme="iob1")
    assert (example.text, spans(example)) == ("EU is : #", [("EU", "ORG")])
    cells = "cell of column {}, neither token nor tag (passed over)"
    assert defects == {DOCUMENT: 1, cells.format(2): 4, cells.format(3): 4}


def test_conll_blank_token_keeps_its_tag(file, parse):
    content = "放 O\na B-song\n  I-song\nb E-song\n\n  O\nx S-song\n"
    (first, second), defects = parse("conll", file("a", content), joiner="", scheme="bioes")
    assert (first.text, spans(first)) == ("放a b", [("a b", "song")])
    assert first.words == ((0, 1), (1, 2), (2, 3), (3, 4))
    assert (second.text, spans(second)) == (" x", [("x", "song")])
    assert defects == {BLANK_TOKEN: 2}


def test_conll_intent_suffix_reads_side_file(file, parse):
    path = file("ch.train", "a O\n\nb O\n")
    side = file("ch.train.intent", "x#y\nz\n")
    examples, _ = parse("conll", path, intent_suffix=".intent", label_separator="#")
    assert [e.fields["intent"] for e in examples] == [("x", "y"), ("z",)]
    side.write_text("x\n")
    with pytest.raises(DataError, match=r"ch\.train\.intent:2: 1 intents, but 2 sentences in ch\.train"):
        parse("conll", path, intent_suffix=".intent")
    side.unlink()
    with pytest.raises(DataError, match=r"ch\.train\.intent: no such file"):
        parse("conll", path, intent_suffix=".intent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nword\n", "a:2: 'word' is not a token and a tag"),
        ("\tO\n", "a:1: '\tO' is not a token and a tag"),
        ("a O\nb Q-x\n", "a:2: tag 'Q-x' is none of O, B-TYPE, I-TYPE"),
        ("  O\n", "a:1: a sentence of blanks; remove it"),
    ],
)
def test_conll_invalid_lines_are_refused(file, parse, content, message):
    with pytest.raises(DataError, match=message):
        parse("conll", file("a", content))


def test_palm_reads_words_and_tags(file, parse):
    path = file("a.tsv", "text_a\tlabel\tintent\nto\x02new\x02york\x02\tO\x02B-city\x02I-city\x02\tfly\n")
    (example,), defects = parse("palm", path)
    assert (example.text, spans(example, "label")) == ("to new york", [("new york", "city")])
    assert example.fields["intent"] == "fly"
    assert example.words == ((0, 2), (3, 6), (7, 11))
    assert defects == {TRAILING: 1}


def test_palm_without_header_reads_named_columns(file, parse):
    path = file("a.tsv", "0\t北\x02京\tB-LOC\x02I-LOC\n")
    (example,), _ = parse("palm", path, columns=("_", "text_a", "label"), joiner="")
    assert (example.text, example.fields) == ("北京", {"label": (LabelledSpan(0, 2, "LOC"),)})
    (example,), _ = parse("palm", file("b.tsv", "0\t北\x02京\n"), columns=("_", "text_a"), joiner="")
    assert example.fields == {}


def test_palm_label_with_a_blank_is_one_tag(file, parse):
    (example,), _ = parse("palm", file("a.tsv", "text_a\tlabel\nOslo\tB-home city\n"))
    assert example.fields == {"label": (LabelledSpan(0, 4, "home city"),)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a\x02b\tO", ":2: 2 words, but 1 tags; give each word one tag"),
        ("a b\tO O", ":2: tags are joined by blanks; format 'palm' joins words and tags by 0x02"),
        ("a\x02\x02b\tO\x02O\x02O", ":2: word 2 is empty"),
        ("a\x02b\tO\x02X", ":2:2: tag 'X' is none of"),
        ("a", ":2: 1 fields, but 2 columns"),
    ],
)
def test_palm_invalid_rows_are_refused(file, parse, row, message):
    with pytest.raises(DataError, match=message):
        parse("palm", file("a.tsv", f"text_a\tlabel\n{row}\n"))


MIXED = "list O\nboston B-city\natis_flight#atis_fare\n\nhi O\natis_flight\n"
"""The layout of MixATIS' dev.txt and test.txt: the intents of a sentence in a line after its tokens."""


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_conll_intent_line_reads_last_line(file, parse, end):
    path = file("dev.txt", MIXED.rstrip("\n") + end)
    assert detect_format(path) == Detection("conll", FormatOptions(intent_line=True))
    examples, defects = parse("conll", path, intent_line=True, label_separator="#")
    assert [(e.text, e.fields["intent"]) for e in examples] == [
        ("list boston", ("atis_flight", "atis_fare")),
        ("hi", ("atis_flight",)),
    ]
    assert defects == {}


def test_conll_missing_intent_line_is_explained(file, parse):
    with pytest.raises(
        DataError, match=r"dev\.txt:3: .* \(if it is the intent of the sentence above, set `intent_line = true`\)"
    ):
        parse("conll", file("dev.txt", MIXED))
    with pytest.raises(DataError, match=r"a:2: 'b O' should be the sentence's intent alone \(`intent_line`\); add it"):
        parse("conll", file("a", "a O\nb O\n\n"), intent_line=True)


NUMBERED = """\
# text-en: wake me at six
# intent = alarm/set
1\twake\talarm/set\tO
2\tme\talarm/set\tO
3\tat\talarm/set\tB-time
4\tsix\talarm/set\tI-time

# a free comment
1-2\tdon't\t_\tO
1\tdo\t_\tO
2\tn't\t_\tO

"""


def test_conll_numbered_words_are_read_from_the_second_column(file, parse):
    path = file("a.conll", NUMBERED)
    assert detect_format(path) == Detection("conll", FormatOptions(token_column=2))
    for options in ({}, {"token_column": 2}):
        (first, second), defects = parse("conll", path, **options)
        assert (first.text, first.fields["intent"]) == ("wake me at six", "alarm/set")
        assert first.fields["slots"] == (LabelledSpan(8, 14, "time"),)
        assert second.text == "do n't"
        assert defects == {"comment '# text-en' (passed over)": 1, FREE_COMMENT: 1, UNUSED_MULTI_WORD: 1}


def test_conll_columns_can_be_named(file, parse):
    path = file("a.conll", "x a B-y z\nx b I-y z\n\n")
    [example], _ = parse("conll", path, token_column=2, tag_column=3)
    assert (example.text, spans(example)) == ("a b", [("a b", "y")])
    with pytest.raises(DataError, match=r"a\.conll:1: a row must have token_column 2 .* tag_column 5, got 4 columns"):
        parse("conll", path, token_column=2, tag_column=5)


def test_conll_numbers_as_words_stay_words(file, parse):
    (first, second), _ = parse("conll", file("a.conll", "1 B-n\n2 I-n\n\n7 N B-n\n9 N O\n"))
    assert (first.text, second.text) == ("1 2", "7 9")


def test_conll_two_intents_of_a_sentence_are_refused(file, parse):
    with pytest.raises(DataError, match=r"a:2: a sentence has one intent, got 'x' and 'y'"):
        parse("conll", file("a", "# intent: x\n# intent: y\na O\n"))


def test_conll_comment_of_blanks_is_read_in_linear_time(file, parse):
    start = time.process_time()
    parse("conll", file("a", "# a:" + " " * 1_000_000 + "\nb O\n"))
    assert time.process_time() - start < 2


GERMAN = """\
# text = im Haus am See
1-2\tim\t_\t_
1\tin\tADP\tB-place
2\tdem\tDET\tI-place
3\tHaus\tNOUN\tI-place
4-5\tam\t_\t_
4\tan\tADP\tO
5\tdem\tDET\tB-x
5.1\tleer\t_\t_
6\tSee\tNOUN\tB-y

"""


def test_conll_text_comment_is_used_where_multi_word_tokens_spell_it(file, parse):
    (example,), defects = parse("conll", file("a.conllu", GERMAN))
    assert example.text == "im Haus am See"
    assert spans(example) == [("im Haus", "place"), ("am", "x"), ("See", "y")]
    assert example.words == ((0, 2), (3, 7), (8, 10), (11, 14))
    assert defects == {EMPTY_NODE: 1, "cell of column 3, neither token nor tag (passed over)": 6}


@pytest.mark.parametrize(
    ("tags", "scheme", "expected", "lost"),
    [
        (("B-x", "B-y"), "bio", [("im", "x")], 1),
        (("B-x", "B-x"), "bio", [("im", "x")], 1),
        (("B-x", "E-x"), "bioes", [("im", "x")], 0),
        (("B-x", "L-x"), "bilou", [("im", "x")], 0),
        (("O", "S-x"), "bioes", [("im", "x")], 0),
        (("O", "O"), "bio", [], 0),
    ],
)
def test_conll_multi_word_token_has_the_span_of_its_words(file, parse, tags, scheme, expected, lost):
    first, second = tags
    path = file("a", f"# text = im See\n1-2\tim\t_\tO\n1\tin\t_\t{first}\n2\tdem\t_\t{second}\n3\tSee\t_\tO\n")
    (example,), defects = parse("conll", path, scheme=scheme)
    assert (example.text, spans(example)) == ("im See", expected)
    assert defects == ({SEVERAL_SPANS: 1} if lost else {})


def test_conll_text_comment_that_the_tokens_do_not_spell_is_told(file, parse):
    content = "# text: Don't  go!\ndo\tO\ngo\tB-x\n\n# text: don't go\ndo\tO\nn't\tO\ngo\tB-x\n"
    path = file("a", content)
    (first, second), defects = parse("conll", path)
    assert (first.text, second.text, spans(second)) == ("do go", "don't go", [("go", "x")])
    assert second.words == ((0, 2), (2, 5), (6, 8))
    assert defects == {NOT_SPELLED: 1}


def test_conll_intents_of_two_origins_that_differ_are_refused(file, parse):
    path = file("a", "# intent: x\na O\n\n")
    file("a.intent", "y\n")
    with pytest.raises(DataError, match=r"a\.intent:1: a sentence has one intent, got 'x' and 'y'"):
        parse("conll", path, intent_suffix=".intent")
    with pytest.raises(DataError, match=r"b:3: a sentence has one intent, got 'x' and 'y'"):
        parse("conll", file("b", "# intent: x\na O\ny\n\n"), intent_line=True)
    file("a.intent", "x\n")
    (example,), defects = parse("conll", path, intent_suffix=".intent")
    assert (example.fields["intent"], defects) == ("x", {})


def test_conll_comment_without_a_sentence_is_told(file, parse):
    _, defects = parse("conll", file("a", "a O\n\n# intent: x\n"))
    assert defects == {NO_SENTENCE: 1}


def test_conll_multi_word_token_without_its_words_is_told(file, parse):
    (example,), defects = parse("conll", file("a", "# text: im\n1\tin\t_\tO\n2-3\tim\t_\tO\n"))
    assert (example.text, defects) == ("in", {NOT_SPELLED: 1, UNUSED_MULTI_WORD: 1})


def test_conll_numbers_with_gaps_are_no_words(file, parse):
    """As where rows were left out of a numbered file."""
    rows = "3 wake O\n4 me O\n5 six B-time\n\n7 go O\n9 six B-time\n\n"
    examples, _ = parse("conll", file("gaps.conll", rows))
    assert [example.text for example in examples] == ["wake me six", "go six"]
