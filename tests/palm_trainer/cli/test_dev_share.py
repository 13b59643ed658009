"""`dev_share` from the configuration to the run directory, a run without dev, and `palm-train convert --split`."""

import json

from palm_trainer.runs.dev_rows import DEV_ROWS


def with_share(config):
    """The configuration with `dev_share` instead of dev."""
    text = config.read_text()
    assert "\ndev = " not in text
    config.write_text(text.replace('train = "travel/train"', 'train = "travel/train"\ndev_share = 0.25'))
    return config


def test_run_with_dev_share_is_evaluated_on_rows_set_apart(palm, tiny_toml, tmp_path):
    config = with_share(tiny_toml(splits=()))
    code, out, err = palm("plan", config, "--data-only")
    assert (code, err) == (0, "")
    assert "row that dev_share = 0.25 sets apart as dev, drawn with seed 13" in out
    code, out, err = palm("run", config, "--set", "train.epochs=2")
    assert (code, err) == (0, "")
    assert "epoch 2  dev intent " in out
    assert "row that dev_share = 0.25 sets apart as dev" in out
    assert "no dev data" not in out
    run = tmp_path / "run"
    record = json.loads((run / DEV_ROWS).read_text())["travel"]
    assert (record["dev_share"], record["seed"]) == (0.25, 13)
    rows = len((tmp_path / "travel/train/seq.in").read_text().splitlines())
    assert 0.15 * rows < len(record["rows"]) < 0.35 * rows
    code, out, err = palm("evaluate", run, "--split", "dev", "--json", tmp_path / "m.json")
    assert (code, err) == (0, "")
    scores = json.loads((tmp_path / "m.json").read_text())["dev"]["intent"]
    assert scores["accuracy"] == json.loads((run / "metrics.json").read_text())["dev"]["intent"]["accuracy"]


def test_evaluate_of_changed_training_files_is_refused(palm, tiny_toml, tmp_path):
    config = with_share(tiny_toml(splits=()))
    assert palm("run", config, "--set", "train.epochs=1")[0] == 0
    file = tmp_path / "travel/train/seq.in"
    file.write_text(file.read_text().replace("flights", "trips").replace("hotels", "rooms").replace("fare", "price"))
    code, out, err = palm("evaluate", tmp_path / "run", "--split", "dev")
    assert (code, out) == (2, "")
    assert "data.travel: the training files have changed since the run began" in err


def test_run_without_dev_tells_what_is_not_done(palm, tiny_toml):
    code, out, err = palm("run", tiny_toml(splits=()), "--set", "train.epochs=2")
    assert (code, err) == (0, "")
    assert (
        "no dev data of intent, slots: the last checkpoint counts as the best, no confidence is calibrated and no "
        "threshold is chosen. Add `dev`, or `dev_share = 0.1` to set a part of train apart, to [data.NAME]."
    ) in out
    assert out.count("no dev data") == 1
    assert " best\n" not in out


def test_run_with_dev_of_one_task_tells_the_other(palm, tiny_toml):
    code, out, err = palm("run", tiny_toml(splits=(), second=True), "--set", "train.epochs=1")
    assert (code, err) == (0, "")
    assert "no dev data of intent, slots: they do not choose the best checkpoint, no confidence is" in out
    assert "dev mood " in out


def test_compare_with_dev_share_is_refused(palm, tiny_toml, tmp_path):
    code, _, err = palm("compare", with_share(tiny_toml(splits=())), "--output", tmp_path / "compare")
    assert code == 2
    assert "data.travel.dev_share sets other rows apart with each seed" in err


def test_convert_split_writes_splits_and_tells_the_account(palm, tmp_path):
    source = tmp_path / "all.csv"
    source.write_text("id,text,intent\n" + "".join(f"{n},to city {n},{'ab'[n % 2]}\n" for n in range(20)))
    code, out, err = palm("convert", source, tmp_path / "out", "--split", "train=0.8,dev=0.1,test=0.1")
    assert code == 0
    assert out == "".join(
        f"{source} (csv) -> {tmp_path / 'out'} {split} (jsonl): {count} examples\n"
        for split, count in (("train", 16), ("dev", 2), ("test", 2))
    )
    assert err == f"  source: 20 x 'id' (passed over), first at {source}:2\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dev.jsonl", "test.jsonl", "train.jsonl"]
    code, _, err = palm("convert", source, tmp_path / "other", "--split", "train=0.8,dev=0.1")
    assert (code, err) == (
        2,
        "error: --split must have shares that sum to 1, got 0.9. Correct one of them.\n",
    )


def test_plan_and_run_tell_what_the_reader_passed_over(palm, tiny_toml, tmp_path):
    """The account of a file is in the plan, in the run and in the conversion, with its first place."""
    config = tiny_toml(splits=())
    lines = []
    for n in range(24):
        lines += [f"# id: {n}", f"# intent: {'ab'[n % 2]}", f"1\tfly\tVERB\t{'ab'[n % 2]}\tO", "2\tto\tADP\t_\tO"]
        lines += [f"3\tcity{n % 3}\tNOUN\t_\tB-city", ""]
    (tmp_path / "a.conllu").write_text("\n".join(lines))
    text = config.read_text().replace('format = "joint"', 'format = "conll"')
    config.write_text(text.replace('train = "travel/train"', 'train = "a.conllu"'))
    expected = [
        f"24 x comment '# id' (passed over), first at {tmp_path / 'a.conllu'}:1",
        f"72 x cell of column 3, neither token nor tag (passed over), first at {tmp_path / 'a.conllu'}:3",
    ]
    for arguments in (("plan", config, "--data-only"), ("run", config, "--set", "train.epochs=1")):
        code, out, err = palm(*arguments)
        assert (code, err) == (0, "")
        for line in expected:
            assert line in out
    code, _, err = palm("convert", tmp_path / "a.conllu", tmp_path / "b.jsonl")
    assert code == 0
    for line in expected:
        assert f"  source: {line}\n" in err
