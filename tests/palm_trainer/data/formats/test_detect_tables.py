"""Tables as public data sets and spreadsheets have them: the text is found, spans in cells are read, and markup is no text."""

import json

import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.cell_spans import find_notation
from palm_trainer.data.formats.columns import LIKE_A_HEADER
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.split_names import names_splits
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.data.suggest_config import suggest
from palm_trainer.errors import DataError

CITIES = ("rome", "paris", "oslo", "new york", "lima", "cairo", "quito", "sofia")
INTENTS = ("flight", "weather")


def utterance(number):
    """Text, intent, and start and end of the city."""
    city = CITIES[number % len(CITIES)]
    intent = INTENTS[number % 2]
    start = f"{intent} number {number} to "
    return f"{start}{city}", intent, len(start), len(start) + len(city)


def tags(number):
    text, _, start, _ = utterance(number)
    before = len(text[:start].split())
    return " ".join(["O"] * before + ["B-city"] + ["I-city"] * (len(text.split()) - before - 1))


def write(path, rows, delimiter="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    """Examples of a file in the detected format, and what is told of them."""
    detection = detect_format(path)
    defects = Defects()
    examples = list(FORMATS[detection.format](path, detection.options, defects))
    return examples, {defect.kind: defect.count for defect in defects}


def expected_spans(number):
    text, _, start, end = utterance(number)
    assert text[start:end] in CITIES
    return (LabelledSpan(start, end, "city"),)


def multi_atis(number):
    text, intent, _, _ = utterance(number)
    return [str(number), text, tags(number), intent]


def mtod(number):
    text, intent, start, end = utterance(number)
    return [intent, f"{start}:{end}:city", text, "en_XX", '{"tokens": ["a", "b"], "tokenizer": "multilingual"}']


def three_columns(number):
    text, intent, _, _ = utterance(number)
    return [text, tags(number), intent]


@pytest.mark.parametrize(
    ("name", "header", "row", "intent", "slots"),
    [
        ("train_EN.tsv", ["id", "utterance", "slot_labels", "intent"], multi_atis, "intent", "slot_labels"),
        ("train.tsv", ["nr", "said", "marks", "what"], multi_atis, "label", "slots"),
        ("train.tsv", None, mtod, "label", "slots"),
        ("train.tsv", None, three_columns, "label", "slots"),
    ],
)
@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_spans_in_cells_are_read(tmp_path, name, header, row, intent, slots, delimiter):
    rows = [row(number) for number in range(40)]
    if delimiter == ";":
        name = name.replace(".tsv", ".csv")
        rows = [
            [f'"{cell}"'.replace('{"', '{""').replace('"}', '""}') if "{" not in cell else "x" for cell in cells]
            for cells in rows
        ]
    path = write(tmp_path / name, ([header] if header else []) + rows, delimiter)
    examples, _ = read(path)
    assert len(examples) == 40
    for number, example in enumerate(examples):
        text, label, _, _ = utterance(number)
        assert example.text == text
        assert example.pair is None
        assert example.fields[intent] == label
        assert example.fields[slots] == expected_spans(number)


def test_several_named_classes_are_kept(tmp_path):
    rows = [["query", "intent", "domain"]]
    for number in range(40):
        text, intent, _, _ = utterance(number)
        rows.append([text, intent, f"{intent}s"])
    examples, _ = read(write(tmp_path / "a.tsv", rows))
    assert examples[1].fields == {"intent": "weather", "domain": "weathers"}


@pytest.mark.parametrize(
    "markup",
    [
        lambda number: f"[IN:FLIGHT {utterance(number)[0]} [SL:CITY rome ] ]",
        lambda number: f'{{"tokens": {number}}}',
        lambda number: f"{tags(number)} {utterance(number)[1]}",
    ],
)
def test_markup_that_no_reader_takes_is_refused_where_nothing_else_is_there(tmp_path, markup):
    rows = [[utterance(number)[0], markup(number)] for number in range(40)]
    path = write(tmp_path / "train.tsv", rows)
    with pytest.raises(DataError, match=r"train\.tsv: a table of texts and of JSON, trees or tags in column 2"):
        detect_format(path)
    with pytest.raises(DataError, match=r"no data file of a known format \(.*train\.tsv: a table of texts"):
        find_splits(tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [["Text", "Intent"], ["TEXT", "Label"], ["utterance", "intent"]])
def test_headers_in_any_case_and_delimiters_of_spreadsheets(tmp_path, header, delimiter):
    rows = [list(utterance(number)[:2]) for number in range(10)]
    examples, _ = read(write(tmp_path / "a.csv", [header, *rows], delimiter))
    assert [(example.text, example.fields[header[1]]) for example in examples] == list(map(tuple, rows))


def test_rows_numbered_by_pandas(tmp_path):
    rows = [["", "text", "intent"]]
    for number in range(5):
        rows.append([str(number), *utterance(number)[:2]])
    examples, counts = read(write(tmp_path / "a.csv", rows, ","))
    assert examples[0].fields == {"intent": "flight"}
    assert counts == {"column 1, named '_' (passed over)": 5}


def test_times_are_no_offsets():
    assert find_notation(["10:30:45", "11:00:00"], ["a", "b"]) is None
    assert find_notation(["", ""], ["a", "b"]) is None
    assert find_notation(["O O", "O"], ["a b", "c"]) is None
    assert find_notation(["O B-x", ""], ["a b", "c"]) is None


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("O O B-city", "O"), "must have a tag for each of the 2 words of the text, got 1"),
        (("O O B-city", "O X-city"), "tag 'X-city' is none of O"),
        (("2:5:city", "0:99:city"), "99"),
        (("2:5:city", "none"), "must hold spans as START:END:LABEL"),
    ],
)
def test_cells_that_do_not_fit_are_refused(tmp_path, cells, message):
    first, second = cells
    rows = [["text", "slots"], *([["to go there", first]] * 100), ["go there", second]]
    path = write(tmp_path / "a.tsv", rows)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert f"{path}:102" in str(caught.value)


def test_annotated_texts_are_told(tmp_path):
    rows = [
        ["text", "intent"],
        ["wake me at [time : noon]", "alarm"],
        ["wake me at [noon](time)", "alarm"],
        ["[sic] a (b)", "x"],
    ]
    _, counts = read(write(tmp_path / "a.csv", rows, ","))
    assert [count for kind, count in counts.items() if "looks annotated" in kind] == [2]


def test_tags_before_words(tmp_path):
    lines = []
    for number in range(20):
        text, _, _, _ = utterance(number)
        for word, tag in zip(text.split(), tags(number).split(), strict=True):
            lines.append(f"{tag}\t{word}")
        lines.append("")
    for name in ("engtrain.bio", "engtest.bio"):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    splits, _ = find_splits(tmp_path)
    assert splits == {"train": [tmp_path / "engtrain.bio"], "test": [tmp_path / "engtest.bio"]}
    examples, _ = read(tmp_path / "engtrain.bio")
    assert [(example.text, example.fields["slots"]) for example in examples] == [
        (utterance(number)[0], expected_spans(number)) for number in range(20)
    ]


def test_names_that_only_end_like_a_split_are_no_split(tmp_path):
    for name in ("latest.csv", "contest.csv"):
        write(tmp_path / name, [["text", "intent"], ["a", "b"]], ",")
    with pytest.raises(DataError, match="several data files"):
        find_splits(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "{intent} +++$+++ {text}",
        '<s intent="{intent}">{text}</s>',
        "(1 (0 {text}) (1 x))",
        "{text} @{intent}",
        "{text};{intent}",
        "1 {text}",
    ],
)
def test_labels_in_notations_of_plain_lines_are_refused(tmp_path, line):
    lines = []
    for number in range(20):
        text, intent, _, _ = utterance(number)
        lines.append(line.format(text=text, intent=intent))
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match="no labels found, but 20 of 20 lines hold"):
        detect_format(tmp_path / "a.txt")


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_tables_in_files_of_text_are_recognised(tmp_path, delimiter):
    rows = [list(utterance(number)[:2]) for number in range(10)]
    examples, _ = read(write(tmp_path / "a.txt", [["text", "intent"], *rows], delimiter))
    assert [(example.text, example.fields["intent"]) for example in examples] == list(map(tuple, rows))


def test_plain_sentences_are_text(tmp_path):
    (tmp_path / "a.txt").write_text("Well, text and more.\nSo it is; yes, it is.\n1 day, 2 nights\n", encoding="utf-8")
    assert detect_format(tmp_path / "a.txt").format == "text"


def test_short_chinese_pairs_are_pairs(tmp_path):
    rows = [[f"爱打篮球的男生{number}", f"喜欢什么样的女生{number}", str(number % 2)] for number in range(30)]
    examples, _ = read(write(tmp_path / "a.tsv", rows))
    assert examples[0].pair is not None


@pytest.mark.parametrize("line", ["{intent}/o number/n {number}/m", "{upper}:find what is it {number}"])
def test_tagged_words_and_labels_before_texts_are_refused(tmp_path, line):
    lines = [
        line.format(intent=INTENTS[number % 2], upper=INTENTS[number % 2].upper(), number=number)
        for number in range(20)
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match="no labels found, but 20 of 20 lines hold"):
        detect_format(tmp_path / "a.txt")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_line_of_excel_before_the_header(tmp_path, mark):
    path = tmp_path / "a.csv"
    path.write_text(mark + "sep=;\r\ntext;intent\r\nhello;greet\r\nbye;leave\r\n", encoding="utf-8", newline="")
    examples, counts = read(path)
    assert [(example.text, example.fields, example.source) for example in examples] == [
        ("hello", {"intent": "greet"}, f"{path}:3"),
        ("bye", {"intent": "leave"}, f"{path}:4"),
    ]
    assert counts["line 'sep=' before the header (read as the delimiter)"] == 1


def test_a_header_that_is_read_as_a_row_is_told(tmp_path):
    path = write(tmp_path / "a.csv", [["utterance", "intent"], ["hello", "greet"]], ",")
    defects = Defects()
    options = FormatOptions(columns=("text", "intent"))
    assert len(list(FORMATS["csv"](path, options, defects))) == 2
    assert [(defect.kind, defect.first) for defect in defects] == [(LIKE_A_HEADER, f"{path}:1")]


def test_a_pair_keeps_the_order_of_the_file(tmp_path):
    rows = []
    for number in range(30):
        rows.append([f"short sentence {number}", f"a sentence that is longer than the first {number}", str(number % 2)])
    examples, _ = read(write(tmp_path / "a.tsv", rows))
    assert (examples[0].text, examples[0].pair) == ("short sentence 0", "a sentence that is longer than the first 0")


def test_classes_of_few_rows_are_classes(tmp_path):
    rows = [[f"my card number {number} was declined", f"class_{number % 40}"] for number in range(120)]
    examples, _ = read(write(tmp_path / "a.tsv", rows))
    assert examples[41].fields == {"label": "class_1"}


def test_a_column_of_splits_is_refused(tmp_path):
    rows = [["text", "intent", "split"]]
    for number in range(30):
        rows.append([f"text {number}", INTENTS[number % 2], ("train", "dev", "test")[number % 3]])
    path = write(tmp_path / "a.csv", rows, ",")
    with pytest.raises(DataError, match=r"'split' must hold classes, got the names of splits \(dev, test, train\)"):
        suggest(path)


def json_rows(count):
    rows = [["text", "intent", "slots"]]
    for number in range(count):
        text, intent, start, end = utterance(number)
        spans = json.dumps([{"start": start, "end": end, "label": "city"}]) if number else "[]"
        rows.append([text, intent, '"' + spans.replace('"', '""') + '"'])
    return rows


def test_spans_in_json_are_read(tmp_path):
    examples, counts = read(write(tmp_path / "a.csv", json_rows(30), ","))
    assert examples[0].fields == {"intent": "flight", "slots": ()}
    assert examples[7].fields["slots"] == expected_spans(7)
    assert counts == {}


@pytest.mark.parametrize("cell", ["abc", '"""abc"""', '"[""a""]"', '"[{""start"": 1}]"', "{"])
def test_cells_that_are_no_spans_in_json_are_refused(tmp_path, cell):
    path = write(tmp_path / "a.csv", [*json_rows(100), ["bye", "flight", cell]], ",")
    with pytest.raises(DataError) as caught:
        read(path)
    assert f"{path}:102" in str(caught.value)


def test_other_json_in_cells_is_no_span(tmp_path):
    rows = [["text", "note"], ["a", '"[{""id"": 1}]"'], ["b", '"[{""id"": 2}]"']]
    examples, _ = read(write(tmp_path / "a.csv", rows, ","))
    assert examples[0].fields == {"note": '[{"id": 1}]'}


def test_rows_below_data_are_no_squad(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"data": [{"text": "a", "intent": "b"}]}', encoding="utf-8")
    with pytest.raises(DataError, match="holds rows, not articles of SQuAD; write the list of its rows alone"):
        detect_format(path)


def test_a_question_that_is_the_same_in_many_rows_is_no_text(tmp_path):
    """HWU64's table: `question` is what workers were asked, `answer` what they would say."""
    rows = [["userid", "scenario", "intent", "answer", "question"]]
    for number in range(40):
        text, intent, _, _ = utterance(number)
        rows.append([str(number % 5), f"{intent}s", intent, text, f"What would you say? {number % 3}"])
    examples, _ = read(write(tmp_path / "a.csv", rows, ";"))
    assert (examples[1].text, examples[1].pair) == (utterance(1)[0], None)
    assert examples[1].fields["intent"] == "weather"


def test_splits_beside_other_values_are_classes():
    assert names_splits(["train", "dev"])
    assert not names_splits(["train", "bus"])
    assert not names_splits(["train", "train"])
    assert not names_splits(["train", "dev", ("test",)])
