"""Tables as public data sets and spreadsheets have them: the text is found, spans in cells are read, and markup is no text."""

import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.cell_spans import find_notation
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.text_files import Defects
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
    examples, told = read(write(tmp_path / "a.csv", rows, ","))
    assert examples[0].fields == {"intent": "flight"}
    assert told == {"column 1, named '_' (passed over)": 5}


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
    _, told = read(write(tmp_path / "a.csv", rows, ","))
    assert [count for kind, count in told.items() if "looks annotated" in kind] == [2]


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
    assert {split: [path.name for path in paths] for split, paths in splits.items()} == {
        "train": ["engtrain.bio"],
        "test": ["engtest.bio"],
    }
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
