import pytest

from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", '{"data": []}', ("squad", {})),
        ("a.json", '{"train": [["a", "b"]]}', ("clinc", {})),
        ("a.json", '[{"id": 1, "text": "a", "x": "", "label": 0}]', ("json", {"columns": ("text", "label")})),
        ("a.yml", "nlu: []", ("rasa", {})),
        ("a.jsonl", '{"text": "a"}\n', ("jsonl", {})),
        ("a.txt", '{"text": "a"}\n', ("jsonl", {})),
        ("a.csv", "text,label\na,b\n", ("csv", {})),
        ("a.tsv", "text_a\tlabel\na\x02b\tO\x02B-x\n", ("palm", {})),
        (
            "a.tsv",
            "1\t北\x02京\tB-x\x02E-x\n",
            ("palm", {"columns": ("_", "text_a", "label"), "joiner": "", "scheme": "bioes"}),
        ),
        ("a.conll", "New B-city\nYork L-city\nOslo U-city\n\nhi O\n", ("conll", {"scheme": "bilou"})),
        ("a.tsv", "1\t北\x02京\n", ("palm", {"columns": ("_", "text_a"), "joiner": ""})),
        ("a.conll", "to O\nrome B-x\n\nhi O\n", ("conll", {})),
        ("a", "# intent: i\nto\tI-x\nrome\tI-x\n\nhi\tO\n", ("conll", {"scheme": "iob1"})),
        ("a", "北 B-x\n  M-x\n京 E-x\n\n北 O\n京 O\n", ("conll", {"scheme": "bmes", "joiner": ""})),
        ("a.txt", "label\ttext_a\n1\tx\n", ("tsv", {})),
        ("a.txt", "x is good\t1\ny is bad\t0\nz\t1\nv\t0\nw\t1\n", ("tsv", {"columns": ("text_a", "label")})),
        ("a.tsv", "text\n", ("tsv", {})),
        ("a.txt", "one line\nA B\n", ("text", {})),
    ],
)
def test_detect_format_finds_format_and_options(file, name, content, expected):
    found = detect_format(file(name, content))
    assert (found.format, found.options) == (expected[0], FormatOptions(**expected[1]))


def test_detect_format_finds_intent_side_file(file):
    path = file("ch.train", "a O\n\nb O\n")
    file("ch.train.intent", "x\ny\n")
    assert detect_format(path).options.intent_suffix == ".intent"


def test_detect_format_unknown_content_is_refused(file, tmp_path):
    with pytest.raises(DataError, match="JSON of no known format"):
        detect_format(file("a.json", "3"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="a directory of no known format"):
        detect_format(tmp_path / "folder")
    with pytest.raises(DataError, match="no such file"):
        detect_format(tmp_path / "absent")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("atis/train", "joint"),
        ("chnsenticorp/dev.tsv", "tsv"),
        ("sst2/dev.tsv", "tsv"),
        ("mrpc/msr_paraphrase_test.txt", "tsv"),
        ("palm_toy/test2/match4mrqa/train.tsv", "tsv"),
        ("palm_toy/test2/mlm4mrqa/train.tsv", "tsv"),
        ("banking77/test.csv", "csv"),
        ("lcqmc_curc/dev.json", "json"),
        ("clinc150/data_full.json", "clinc"),
        ("clinc150/data_full.json#test", "clinc"),
        ("rasa_financial_demo/nlu.yml", "rasa"),
        ("rasa_nlu_training_data", "rasa"),
        ("cais/test/ch.test", "conll"),
        ("msra_ner/msra_test_bio.txt", "conll"),
        ("wnut17/wnut17train.conll", "conll"),
        ("wnut17/emerging.test.annotated", "conll"),
        ("msra_ner/ernie_sample/test/test.tsv", "palm"),
        ("msra_ner/ernie_sample/predict/predict.tsv", "palm"),
        ("xquad/xquad.zh.json", "squad"),
        ("mlm_text/news_zh_1.txt", "text"),
    ],
)
def test_detect_format_recognises_real_files(data, path, name):
    found = detect_format(data / path)
    assert found.format == name
    if path != "clinc150/data_full.json":
        examples = list(FORMATS[name](data / path, found.options, Defects()))
        assert len(examples) > 60
        pairs = path.startswith(("mrpc", "lcqmc", "xquad", "palm_toy/test2/match"))
        assert all((example.pair is not None) == pairs for example in examples)
        assert path.startswith(("mlm", "palm_toy/test2/mlm", "msra_ner/ernie_sample/predict")) or all(
            e.fields for e in examples
        )


@pytest.mark.parametrize(
    "line",
    [
        "add:O sabrina:B-artist to:O it:O <=> AddToPlaylist",
        "fly|O to|O rome|B-city",
        "to_O rome_B-city",
        "to/O rome/S-city",
        "fly to rome <=> flight",
        "fly to rome ||| flight",
        "__label__flight fly to rome",
        "fly to [rome](city)",
        'fly to [rome]{"entity": "city"}',
        "fly to <city>rome</city>",
        "[IN:FLY to [SL:CITY rome ] ]",
    ],
)
def test_detect_format_unknown_notation_is_refused(file, line):
    with pytest.raises(
        DataError, match=r"no labels found, but 3 of 3 lines .* If these lines hold labels, this format is not"
    ):
        detect_format(file("a.txt", f"{line}\n" * 3))


def test_detect_format_text_with_few_signs_is_text(file):
    lines = ["see [1](http://x) there", "a:b c", "x < y", "time: 10:30", "read https://a.b/O now", "x"]
    assert detect_format(file("a.txt", "\n".join(lines))).format == "text"


def test_detect_format_json_file_of_lines_is_jsonl(file, parse):
    path = file("a.json", '{"text": "a"}\n{"text": "b"}\n')
    assert detect_format(path).format == "jsonl"
    assert len(parse("jsonl", path)[0]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "go O\nOslo B-city\nnow\nplease O\n\n",
        "go O\nto O\nhttp O x\nOslo B-city\n\n",
        "go\tO\nOslo\tB-\nin O\nMay B-d\n",
    ],
    ids=["one cell", "three cells", "tag without a type"],
)
@pytest.mark.parametrize("suffix", [".txt", ".conll"])
def test_tagged_words_with_one_bad_row_are_no_plain_text(tmp_path, content, suffix):
    """All tags of the file would be lost."""
    path = tmp_path / f"words{suffix}"
    path.write_text(content, encoding="utf-8")

    def read() -> None:
        detection = detect_format(path)
        list(FORMATS[detection.format](path, detection.options, Defects()))

    with pytest.raises(DataError, match=r"words\.\w+:\d+: "):
        read()
