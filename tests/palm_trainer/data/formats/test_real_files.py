"""Every format on public data sets: number of rows and documented defects."""

from collections import Counter

import pytest

from palm_trainer.data.formats.checks import BLANK_EDGE, CONTROL_IN_TEXT
from palm_trainer.data.formats.conll import BLANK_TOKEN
from palm_trainer.data.formats.csv import BROKEN_LINE
from palm_trainer.data.formats.joint import INNER_BLANKS, OUTER_BLANKS
from palm_trainer.data.formats.squad import ABSENT, MOVED, NO_START, NO_TEXT
from palm_trainer.data.formats.text_files import BYTE_ORDER_MARK, CRLF
from palm_trainer.data.formats.tsv import LONE_QUOTE

PAIRS = {"columns": ("label", "_", "_", "text_a", "text_b"), "header": True}
TEXT_FIRST = {"columns": ("text", "label")}
CAIS = {"joiner": "", "scheme": "bioes", "intent_suffix": ".intent"}
ERNIE = {"joiner": "", "columns": ("_", "text_a", "label")}
ID_UNNAMED = "'id', which `columns` does not name (passed over)"
PLAUSIBLE = "'plausible_answers' of SQuAD's question (passed over)"
REPEATED = "answer that equals another of its question (kept once)"


def unnamed(rows: int, *columns: int) -> dict[str, int]:
    """Defects of columns that are named '_'."""
    return {f"column {column}, named '_' (passed over)": rows for column in columns}


def article(titles: int, articles: int = 0, paragraphs: int = 0) -> dict[str, int]:
    """Defects of the fields of SQuAD that hold no example."""
    found = {"'title' of SQuAD's article (passed over)": titles}
    if articles:
        found["'id' of SQuAD's article (passed over)"] = articles
    if paragraphs:
        found["'id' of SQuAD's paragraph (passed over)"] = paragraphs
    return found


@pytest.mark.parametrize(
    ("name", "path", "options", "rows", "defects"),
    [
        ("joint", "atis/train", {}, 4478, {}),
        ("joint", "atis/dev", {}, 500, {}),
        ("joint", "atis/test", {}, 893, {}),
        ("joint", "snips/train", {}, 13084, {OUTER_BLANKS: 2473, INNER_BLANKS: 1039, CONTROL_IN_TEXT: 1}),
        ("joint", "snips/dev", {}, 700, {OUTER_BLANKS: 235, INNER_BLANKS: 67}),
        ("joint", "snips/test", {}, 700, {OUTER_BLANKS: 124, INNER_BLANKS: 54}),
        ("joint", "mixatis/train", {"label_separator": "#"}, 13162, {}),
        ("joint", "mixsnips/test", {"label_separator": "#"}, 2199, {}),
        ("tsv", "chnsenticorp/train.tsv", {}, 9600, {LONE_QUOTE: 9}),
        (
            "tsv",
            "mrpc/msr_paraphrase_train.txt",
            PAIRS,
            4076,
            {BYTE_ORDER_MARK: 1, LONE_QUOTE: 227, CONTROL_IN_TEXT: 1, **unnamed(4076, 2, 3)},
        ),
        (
            "tsv",
            "mrpc/msr_paraphrase_test.txt",
            PAIRS,
            1725,
            {BYTE_ORDER_MARK: 1, LONE_QUOTE: 98, **unnamed(1725, 2, 3)},
        ),
        ("tsv", "sst2/train.tsv", TEXT_FIRST, 6920, {}),
        ("tsv", "sst2/test.tsv", TEXT_FIRST, 1821, {}),
        ("tsv", "palm_toy/test2/cls4mrqa/train.tsv", {}, 61, {LONE_QUOTE: 7}),
        ("tsv", "palm_toy/test2/match4mrqa/train.tsv", {}, 100, {LONE_QUOTE: 10}),
        ("tsv", "palm_toy/test2/mlm4mrqa/train.tsv", {}, 120, {LONE_QUOTE: 8}),
        ("csv", "banking77/train.csv", {}, 10003, {CRLF: 10004, BROKEN_LINE: 10}),
        ("csv", "banking77/test.csv", {}, 3080, {CRLF: 3081, BROKEN_LINE: 3}),
        ("json", "lcqmc_curc/dev.json", {"columns": ("text_a", "text_b", "label")}, 8802, {ID_UNNAMED: 8802}),
        ("clinc", "clinc150/data_full.json#train", {}, 15000, {}),
        ("clinc", "clinc150/data_full.json#oos_test", {}, 1000, {}),
        ("rasa", "rasa_financial_demo/nlu.yml", {}, 578, {}),
        ("rasa", "rasa_nlu_training_data", {}, 1164, {}),
        ("rasa", "rasa_nlu_training_data/banking/nlu.yml", {}, 471, {}),
        ("conll", "cais/train/ch.train", CAIS, 7995, {BLANK_TOKEN: 97}),
        ("conll", "cais/valid/ch.valid", CAIS, 994, {BLANK_TOKEN: 16}),
        ("conll", "cais/test/ch.test", CAIS, 1012, {BLANK_TOKEN: 6}),
        ("conll", "msra_ner/msra_test_bio.txt", {"joiner": ""}, 3442, {}),
        ("conll", "wnut17/wnut17train.conll", {}, 3394, {}),
        ("conll", "wnut17/emerging.dev.conll", {}, 1009, {CONTROL_IN_TEXT: 1}),
        ("conll", "wnut17/emerging.test.annotated", {}, 1287, {}),
        ("palm", "msra_ner/ernie_sample/train/train.tsv", ERNIE, 800, unnamed(800, 1)),
        ("palm", "msra_ner/ernie_sample/test/test.tsv", ERNIE, 500, unnamed(500, 1)),
        (
            "squad",
            "cmrc2018/squad-style/cmrc2018_dev.json",
            {},
            3219,
            {ABSENT: 193, MOVED: 7, NO_START: 193, BLANK_EDGE: 10, **article(846, 848, 848), REPEATED: 5453},
        ),
        (
            "squad",
            "cmrc2018/squad-style/cmrc2018_trial.json",
            {},
            1000,
            {MOVED: 5, NO_TEXT: 2, BLANK_EDGE: 3, **article(256, 256, 256)},
        ),
        ("squad", "xquad/xquad.zh.json", {}, 1190, {CONTROL_IN_TEXT: 33, **article(48)}),
        ("squad", "squad_tiny/squad_tiny.json", {}, 208, {**article(1), PLAUSIBLE: 112, REPEATED: 150}),
        ("squad", "palm_toy/test2/mrqa/train.json", {}, 99, {}),
        ("text", "mlm_text/all_wiki_sents.txt", {}, 14750, {}),
    ],
)
def test_real_files_have_expected_rows_and_defects(data, parse, name, path, options, rows, defects):
    examples, found = parse(name, data / path, **options)
    assert len(examples) == rows
    assert found == defects
    for example in examples:
        for start, end in example.words or ():
            assert 0 <= start < end <= len(example.text)


def test_real_files_have_valid_spans(data, parse):
    def types(name, path, field="slots", **options):
        examples, _ = parse(name, data / path, **options)
        return Counter(span.label for example in examples for span in example.fields[field])

    assert types("conll", "msra_ner/msra_test_bio.txt", joiner="") == {"LOC": 2886, "ORG": 1331, "PER": 1973}
    assert types("rasa", "rasa_financial_demo/nlu.yml").total() == 247 + 11
    assert len(types("conll", "wnut17/wnut17train.conll")) == 6
    tags = parse("joint", data / "atis/train")[0]
    assert len({example.fields["intent"] for example in tags}) == 21


def test_cais_blanks_are_characters(data, parse):
    counts = []
    for split in ("train", "valid", "test"):
        examples, _ = parse("conll", data / f"cais/{split}/ch.{split}", **CAIS)
        counts.append(sum(example.text[start:end] == " " for example in examples for start, end in example.words))
    assert counts == [97, 16, 6]
    intents = [
        {e.fields["intent"] for e in parse("conll", data / f"cais/{s}/ch.{s}", **CAIS)[0]} for s in ("train", "test")
    ]
    assert len(intents[0]) == 13
    assert intents[1] - intents[0] == {"GetDate"}


def test_squad_2_impossible_questions_have_no_answer(data, parse):
    examples, _ = parse("squad", data / "squad_tiny/squad_tiny.json")
    assert sum(example.fields["answer"] == () for example in examples) == 112
