"""Invalid inputs: every format reports one message with the place and a fix."""

import os

import pytest

from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.suggest_config import suggest
from palm_trainer.errors import DataError

CHINESE = "标签\t文本\n好\t今天天气怎么样\n坏\t明天呢\n"
FILES = sorted(set(FORMATS) - {"joint", "datasets"})  # the others are directories
TEXTS = sorted(set(FILES) - {"parquet", "clinc", "lex", "spacy"})


def at(path, name):
    """The path as a format takes it."""
    return path.with_name(path.name + "#train") if name == "clinc" else path


def put(folder, name, content):
    """A file of this content, or for joint a directory of three."""
    path = folder / ("d" if name == "joint" else "f.txt")
    for file in [path / part for part in ("seq.in", "seq.out", "label")] if name == "joint" else [path]:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_missing_file_is_refused(name, tmp_path, parse):
    with pytest.raises(DataError, match=r"absent.*(no such|reads a directory)"):
        parse(name, at(tmp_path / "absent", name))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_empty_directory_is_refused(name, tmp_path, parse):
    (tmp_path / "folder").mkdir()
    wanted = (
        r"folder.*(Is a directory|no such file|no \*\.parquet file|no state\.json|no \.yml or \.yaml file|no file )"
    )
    with pytest.raises(DataError, match=wanted):
        parse(name, at(tmp_path / "folder", name))


@pytest.mark.parametrize("name", [*TEXTS, "joint", "clinc"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file; a data file holds at least one example"),
        (b"\xef\xbb\xbf \r\n", "an empty file"),
        (
            CHINESE.encode("gbk"),
            r":1:1: byte 0xb1 is not UTF-8 \(GBK or GB18030, it seems\); convert the file to UTF-8",
        ),
        ("text\n".encode("utf-16"), r":1:1: byte 0xff is not UTF-8 \(UTF-16, by its first bytes\)"),
        (
            b"text\tlabel\nok\t1\nPK\x03\x04\x00\x14",
            r":3:5: a zero byte, as in a binary file; give a text file",
        ),
        (b"fine\na\xe9b\n", r":2:2: byte 0xe9 is not UTF-8; convert the file to UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", r":3:1: a zero byte, as in a binary file"),
    ],
)
def test_every_format_invalid_bytes_are_located(name, content, message, tmp_path, parse):
    with pytest.raises(DataError, match=message):
        parse(name, at(put(tmp_path, name, content), name))


@pytest.mark.parametrize("name", ["json", "squad", "clinc", "luis", "clu", "dialogflow_es", "alexa", "snips", "wit"])
def test_json_formats_truncated_file_is_located(name, file, parse):
    path = file("a.json", '[{"text": "a"},\n {"text": "b"')
    with pytest.raises(DataError, match=r"a\.json:2:\d+: not JSON: .*; correct it"):
        parse(name, at(path, name))


def test_every_format_huge_line_is_read(file, parse):
    text = "word " * 100_000
    [example], _ = parse("tsv", file("a.tsv", f"text\tlabel\n{text}\tx\n"))
    assert example.text == text
    [example], _ = parse("text", file("a.txt", text))
    assert len(example.text) == len(text)


def test_csv_unclosed_quote_is_refused(file, parse):
    path = file("a.csv", 'text,label\nfine,x\n"never closed,y\n' + "more,z\n" * 50_000)
    with pytest.raises(DataError, match=r"a\.csv:3: unexpected end of data; double the quotes inside quoted fields"):
        parse("csv", path)


@pytest.mark.parametrize("content", [b"", CHINESE.encode("gbk"), b"\x00\x01"])
def test_detect_format_invalid_bytes_are_located(file, content):
    with pytest.raises(DataError, match=r"an empty file|is not UTF-8|a zero byte"):
        detect_format(file("a.tsv", content))


def test_csv_field_of_200000_characters_is_read(file, parse):
    [example], _ = parse("csv", file("a.csv", f"text,intent\n{'x' * 200_000},a\n"))
    assert (len(example.text), example.fields) == (200_000, {"intent": "a"})


@pytest.mark.parametrize("delimiter", ["ab", '"', "\n"])
def test_csv_delimiter_that_is_none_is_refused(file, parse, delimiter):
    with pytest.raises(DataError, match="`delimiter` must be one character, not a quote or a line end, got"):
        parse("csv", file("a.csv", "text,x\na,b\n"), delimiter=delimiter)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("json", '[{"text": "a", "x": "\\ud83d"}]'),
        ("clinc", '{"train": [["a \\ud83d", "x"]]}'),
        ("squad", '{"data": [{"paragraphs": [{"context": "\\ud83d", "qas": [{"id": "1", "question": "a"}]}]}]}'),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(file, parse, name, content):
    path = at(file("a.json", content), name)
    with pytest.raises(DataError, match=r"a\.json.*: U\+D83D is half of a surrogate pair"):
        parse(name, path)


@pytest.mark.parametrize("content", ["[" * 1_000_000, '{"a":' * 200_000, "[" + "9" * 5000 + "]"])
@pytest.mark.parametrize("name", ["json", "squad", "clinc", "luis", "clu", "dialogflow_es", "alexa", "snips", "wit"])
def test_json_that_is_too_deep_or_long_is_one_message(file, parse, name, content):
    with pytest.raises(DataError, match=r"a\.json.*(nested too deeply|too many digits)"):
        parse(name, at(file("a.json", content), name))
    with pytest.raises(DataError, match=r"a\.json.*(nested too deeply|too many digits)"):
        detect_format(file("a.json", content))


def test_json_key_that_stands_twice_is_refused_with_its_line(file, parse):
    path = file("a.json", '{"train": [["a", "x"]],\n"train": [["b", "y"]]}')
    with pytest.raises(DataError, match=r"a\.json:1: key 'train' stands twice in an object"):
        parse("clinc", at(path, "clinc"))
    path = file("b.json", '[{"text": "a"},\n{"text": "b",\n"x": "1", "x": "2"}]')
    with pytest.raises(DataError, match=r"b\.json:2: key 'x' stands twice in an object"):
        parse("json", path)


@pytest.mark.parametrize("split", ["5", '"ab"', "{}", "null"])
def test_clinc_split_that_is_no_list_is_refused(file, parse, split):
    with pytest.raises(DataError, match=r"split 'train' must be a list of \[text, intent\], got"):
        parse("clinc", at(file("a.json", f'{{"train": {split}}}'), "clinc"))


def test_pipe_is_refused(tmp_path):
    """Opening it would wait for a writer without a word."""
    path = tmp_path / "rows.jsonl"
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"rows\.jsonl: must be a regular file, got a pipe"):
        detect_format(path)


FOLDERS = {
    "rasa": ("nlu.json", "notes.md", "domain.yml"),
    "a split": ("train.jsonl", "dev.jsonl"),
    "one json": ("rows.json",),
    "datasets": ("state.json", "data.arrow"),
    "a project": ("agent.json", "intents/fly.json"),
    "joint": ("seq.in", "seq.out", "label"),
    "parquet": ("rows.parquet",),
}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/nowhere/at/all")], ids=["pipe", "link"])
@pytest.mark.parametrize("names", FOLDERS.values(), ids=FOLDERS.keys())
def test_folder_of_pipes_or_dangling_links_is_refused(tmp_path, names, make):
    """None is waited for, and none ends in a traceback."""
    folder = tmp_path / "folder"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)
    with pytest.raises(DataError, match="folder"):
        suggest(folder)


def test_pipe_beside_data_is_passed_over(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "x": "1"}\n{"text": "b", "x": "2"}\n')
    os.mkfifo(tmp_path / "train.md")
    os.mkfifo(tmp_path / "log.json")
    splits, _ = find_splits(tmp_path)
    assert splits == {"train": [tmp_path / "rows.jsonl"]}
