"""Every public data set, whole: `init` writes a configuration, `plan` accepts it and tells rows, labels and each known defect."""

import re

import pytest

from palm_trainer.cli.train import app, command

UNSEEN = "row with {} that train does not have"
TWICE, OTHERWISE = "text that occurred before (kept)", "text that occurred before with other labels (kept)"
LEAKED, RELABELLED = "text that occurs in train too", "text that occurs in train with other labels"
BLANKS, DOUBLED = (
    "white space before or after an utterance (removed)",
    "doubled white space between words (made one space)",
)
QUOTE, BROKEN = "row with a quotation mark that has no partner", "row with a line break inside quotes (kept)"
BOM, CRLF = "byte order mark before the first line (removed)", "line ended by CRLF"
BLANK = "blank as a token (kept)"
MOVED, ABSENT = "answer that is not at its answer_start (moved", "answer that does not stand in its passage (left out)"
MLM = {"mlm": "masked_lm"}
JOINT = {"intent": "classify", "slots": "sequence_label"}
SEVERAL = {"intent": "multi_label", "slots": "sequence_label"}
RASA = "rasa_nlu_training_data"

# data -> rows by split, tasks, {(split, beginning of the fault): (count, where the first is)}
SETS = {
    "atis": (
        (4478, 500, 893),
        JOINT,
        {
            ("train", TWICE): (288, "seq.in:325"),
            ("train", OTHERWISE): (1, "seq.in:3754"),
            ("dev", LEAKED): (48, "seq.in:9"),
            ("test", LEAKED): (10, "seq.in:231"),
            ("dev", UNSEEN.format("intent") + " (atis_airfare#atis_flight_time)"): (1, "seq.in:418"),
            ("test", UNSEEN.format("intent") + " (atis_airfare#atis_flight, atis_day_name, "): (5, "seq.in:35"),
            ("test", UNSEEN.format("slots") + " (booking_class, compartment, flight, stop"): (4, "seq.in:175"),
        },
    ),
    "snips": (
        (13084, 700, 700),
        JOINT,
        {
            ("train", BLANKS): (2473, "seq.in:2"),
            ("train", DOUBLED): (1039, "seq.in:11"),
            ("dev", BLANKS): (235, "seq.in:1"),
            ("dev", DOUBLED): (67, "seq.in:8"),
            ("test", BLANKS): (124, "seq.in:2"),
            ("test", DOUBLED): (54, "seq.in:4"),
            ("train", TWICE): (224, "seq.in:547"),
            ("train", OTHERWISE): (1, "seq.in:13054"),
            ("test", LEAKED): (25, "seq.in:24"),
        },
    ),
    "mixatis": (
        (13162, 759, 828),
        SEVERAL,
        {
            ("dev", LEAKED): (8, "seq.in:10"),
            ("test", UNSEEN.format("intent") + " (atis_day_name)"): (None, "seq.in:"),
            ("test", UNSEEN.format("slots")): (5, "seq.in:11"),
        },
    ),
    "mixsnips": ((2198, None, 2199), SEVERAL, {}),
    "clinc150": (
        (15100, 3100, 5500),
        {"intent": "classify"},
        {
            ("dev", RELABELLED): (2, "data_full.json#val: row 1012"),
            ("dev", LEAKED): (1, "data_full.json#val: row 2370"),
            ("test", RELABELLED): (2, "data_full.json#test: row 600"),
        },
    ),
    "banking77": (
        (10003, None, 3080),
        {"category": "classify"},
        {
            ("train", CRLF): (10004, "train.csv:1"),
            ("train", BROKEN): (10, "train.csv:1292"),
            ("test", BROKEN): (3, "test.csv:561"),
        },
    ),
    "rasa_financial_demo": (
        (578, None, None),
        JOINT,
        {
            ("train", OTHERWISE): (1, "nlu.yml:423"),
        },
    ),
    RASA: ((1164, None, None), {"intent": "classify"}, {("train", OTHERWISE): (13, "banking/nlu.yml:495")}),
    **{
        f"{RASA}/{name}/nlu.yml": ((rows, None, None), {"intent": "classify"}, {})
        for name, rows in (("banking", 471), ("mood", 248), ("weather", 206))
    },
    "cais": (
        (7995, 994, 1012),
        {"slots": "sequence_label", "intent": "classify"},
        {
            ("train", BLANK): (97, "ch.train:671"),
            ("dev", BLANK): (16, "ch.valid:314"),
            ("test", BLANK): (6, "ch.test:170"),
            ("train", "row whose intent is 'PlayMusic', 87% of all"): (6964, "ch.train:1"),
            ("test", UNSEEN.format("intent") + " (GetDate)"): (1, "ch.test:1028"),
        },
    ),
    "chnsenticorp": (
        (9600, 1200, 1200),
        {"label": "classify"},
        {
            ("train", TWICE): (1324, "train.tsv:95"),
            ("train", OTHERWISE): (27, "train.tsv:1607"),
            ("dev", TWICE): (21, "dev.tsv:339"),
            ("test", TWICE): (21, "test.tsv:252"),
            ("train", QUOTE): (9, "train.tsv:944"),
            ("test", LEAKED): (325, "test.tsv:3"),
        },
    ),
    "msra_ner/msra_test_bio.txt": (
        (3442, None, None),
        {"slots": "sequence_label"},
        {("train", TWICE): (5, "msra_test_bio.txt:40800")},
    ),
    "msra_ner/ernie_sample": ((800, 500, 500), {"label": "sequence_label"}, {}),
    "lcqmc_curc": ((8802, None, 12499), {"label": "match"}, {}),
    "mrpc": (
        (4076, None, 1725),
        {"label": "match"},
        {
            ("train", BOM): (1, "msr_paraphrase_train.txt:1"),
            ("train", QUOTE): (227, "msr_paraphrase_train.txt:11"),
            ("test", QUOTE): (98, "msr_paraphrase_test.txt:34"),
        },
    ),
    "sst2": (
        (6920, 872, 1821),
        {"label": "classify"},
        {("train", TWICE): (9, "train.tsv:1118"), ("test", LEAKED): (2, "test.tsv:153")},
    ),
    "cmrc2018/squad-style": (
        (1000, 3219, None),
        {"answer": "mrc"},
        {
            ("train", MOVED): (5, "cmrc2018_trial.json#TRIAL_210_QUERY_0"),
            ("train", "question or passage without text"): (2, "cmrc2018_trial.json#TRIAL_776_QUERY_4"),
            ("dev", MOVED): (7, "cmrc2018_dev.json#"),
            ("dev", ABSENT): (193, "cmrc2018_dev.json#"),
            ("dev", "answer_start below 0"): (193, "cmrc2018_dev.json#"),
        },
    ),
    "xquad/xquad.*.json": ((1190, None, None), {"answer": "mrc"}, {}),
    "squad_tiny/squad_tiny.json": ((208, None, None), {"answer": "mrc"}, {}),
    "squad_tiny/squad_tiny.tsv": ((96, None, None), {"answer": "mrc"}, {}),
    "wnut17": (
        (3394, 1009, 1287),
        {"slots": "sequence_label"},
        {("train", TWICE): (90, "wnut17train.conll:2985"), ("train", OTHERWISE): (13, "wnut17train.conll:2297")},
    ),
    "mlm_text/all_wiki_sents.txt": ((14750, None, None), MLM, {}),
    "mlm_text/news_zh_1.txt": ((None, None, None), MLM, {}),
    "palm_toy/test2/cls4mrqa": ((61, 61, None), {"label": "classify"}, {("dev", LEAKED): (61, "dev.tsv:2")}),
    "palm_toy/test2/match4mrqa": ((100, None, None), {"label": "match"}, {("train", QUOTE): (10, "train.tsv:11")}),
    "palm_toy/test2/mlm4mrqa": ((120, None, None), MLM, {("train", QUOTE): (8, "train.tsv:")}),
    "palm_toy/test2/mrqa": ((99, 28, None), {"answer": "mrc"}, {("dev", LEAKED): (28, "dev.json#")}),
    "palm_toy/test3/cls4mrqa": ((61, 61, None), {"label": "classify"}, {}),
}
FAULT = re.compile(r"  \S+ (\w+): (\d+) x (.*), first at (.*)")


@pytest.mark.parametrize("name", SETS)
def test_plan_of_what_init_writes(name, palm_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows, tasks, faults = SETS[name]
    sources = sorted(palm_data.glob(name))
    assert sources, f"{name} is not in the data folder"
    for source in sources:
        config = tmp_path / f"{source.name}.toml"
        assert command(app, ["init", str(source), "--output", str(config)]) == 0, capsys.readouterr().err
        config.write_text(config.read_text().replace("dev_share = 0.1\n", ""))  # the table counts rows of files
        assert command(app, ["plan", str(config), "--data-only"]) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        for split, count in zip(("train", "dev", "test"), rows, strict=True):
            assert count is None or re.search(rf"│ \S+ +│ {split} +│ +{count} │", printed), printed
        for task, kind in tasks.items():
            assert re.search(rf"│ {task} +│ {kind} +│", printed), printed
        told = [FAULT.fullmatch(line).groups() for line in printed.splitlines() if FAULT.fullmatch(line)]
        for (split, kind), (count, place) in faults.items():
            found = [(int(n), where) for s, n, what, where in told if s == split and what.startswith(kind)]
            assert found, f"{split}: {kind}\n{printed}"
            assert count in (None, found[0][0]), printed
            assert place in found[0][1], printed
