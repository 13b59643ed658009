"""The quality benchmark: which cells there are, how they are scored, what its tables say."""

import subprocess

import pytest

from palm_trainer.config.loader import load_config


def cell(task, variant, seed, **splits):
    return {"task": task, "variant": variant, "seed": seed, "fold": None, **splits}


def scores(intent, slots, exact):
    return {"intent accuracy": intent, "slots f1": slots, "exact_match": exact}


def line_of(text, begin):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {begin} "))
    return [part.strip() for part in line.strip("|").split("|")]


@pytest.fixture
def tiny_cell(tmp_path):
    """`make(variant, seed, task="tenth", needs=())` gives cells of a tiny model on three texts of ATIS' form, and where they are trained."""
    import quality
    from cells import Cell, Place

    for split, rows in {"train": 3, "dev": 2, "test": 2}.items():
        folder = tmp_path / "data/atis" / split
        folder.mkdir(parents=True)
        texts, intents = ["fly to bonn", "go to rome", "fly to oslo"], ["fly#go", "go", "fly"]
        for name, column in {"seq.in": texts, "seq.out": ["O O B-city"] * 3, "label": intents}.items():
            (folder / name).write_text("".join(f"{line}\n" for line in column[:rows]), encoding="utf-8")
    (tmp_path / "work/atis_unseen").mkdir(parents=True)
    for name in ("seq.in", "seq.out", "label"):
        text = (tmp_path / "data/atis/test" / name).read_text(encoding="utf-8").splitlines()[0]
        (tmp_path / "work/atis_unseen" / name).write_text(text + "\n", encoding="utf-8")
    config = tmp_path / "tiny.toml"
    text = (quality.EXAMPLES / "atis.toml").read_text(encoding="utf-8")
    text = text.replace('model = "minilm-l6-en"', 'model = "scratch"\nlayers = 1\nhidden_size = 8\nheads = 1')
    config.write_text(text.replace("epochs = 20", "epochs = 1"), encoding="utf-8")

    def make(variant, seed, task="tenth", needs=()):
        return Cell(task, variant, config, seed, needs=needs)

    return make, Place(tmp_path / "data", tmp_path / "work")


def test_cells_have_the_seeds_that_the_issue_names():
    import quality

    cells = quality.cells_of([], None)
    names = [one.name for one in cells]
    assert len(names) == len(set(names))
    for key in ("atis/minilm", "snips/minilm"):
        assert sum(name.startswith(f"{key}/") for name in names) == 5
    for key in ("atis/scratch", "snips/scratch", "clinc150/minilm", "three/minilm", "mixatis/minilm", "tenth/joint"):
        assert sum(name.startswith(f"{key}/") for name in names) == 3
    assert names[0] == "atis/minilm/seed13"
    assert [one.seed for one in cells] == sorted(one.seed for one in cells)
    assert all(one.config.exists() for one in cells)


def test_only_takes_sets_and_variants_and_names_what_there_is():
    import quality

    assert [one.name for one in quality.cells_of(["clinc150", "atis:scratch"], [7])] == [
        "atis/scratch/seed7",
        "clinc150/minilm/seed7",
    ]
    with pytest.raises(SystemExit, match="--only atsi: no such set; known: atis, snips"):
        quality.cells_of(["atsi"], None)


def test_overrides_make_another_cell():
    import quality

    plain, tool = quality.cells_of(["tenth:joint", "tenth:fgm"], [13])
    assert plain.config == tool.config
    assert plain.digest != tool.digest


def test_an_ensemble_learns_from_the_other_seeds_of_the_joint_cell():
    import quality

    (cell,) = quality.cells_of(["tenth:teachers"], [14])
    joint = {one.seed: one for one in quality.cells_of(["tenth:joint"], None)}
    assert cell.needs == (joint[13], joint[15])
    assert cell.digest != joint[14].digest


def test_the_matrix_of_tools_is_made_for_any_set():
    import quality

    made = quality.tools(quality.EXAMPLES / "snips.toml", "minilm", "snips")
    assert made.keys() < quality.SETS["tenth"].keys()
    assert made["substitute"].overrides == ("data.snips.substitute=0.5",)
    assert made["teachers"].teachers == "minilm"


@pytest.fixture
def lane(tmp_path):
    """`lane(cells, jobs=1, keep=False, failing=())`: trains cells as the script does, but a training takes no time.

    What was trained, in its order, how many failed, and what runs are left.
    """
    from cells import Place, train_cells

    config = tmp_path / "a.toml"
    config.write_text("", encoding="utf-8")
    place, results = Place(tmp_path, tmp_path), tmp_path / "results.json"

    def run(cells, jobs=1, keep=False, failing=()):
        trained = []

        def measure(cell, place, threads):
            if cell.name in failing:
                raise subprocess.CalledProcessError(2, "palm-train")
            assert all(place.run(other).is_dir() for other in cell.needs)
            if not place.run(cell).exists():
                trained.append(cell.name)
                place.run(cell).mkdir(parents=True)
            return {**cell.about(1), "test": {}}

        failed = train_cells(cells, measure, place, results, jobs, keep=keep)
        runs = place.work / "runs"
        return trained, failed, sorted(path.name.rpartition("-")[0] for path in runs.iterdir()) if runs.exists() else []

    run.config = config
    return run


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_a_cell_needs_is_trained_before_it_and_kept_until_then(lane, jobs):
    from cells import Cell, read_results

    teachers = tuple(Cell("t", "joint", lane.config, seed) for seed in (2, 3))
    taught = Cell("t", "teachers", lane.config, 1, needs=teachers)
    trained, failed, left = lane([taught, Cell("t", "joint", lane.config, 2), Cell("u", "x", lane.config, 1)], jobs)
    assert (set(trained), failed) == ({"t/joint/seed2", "t/joint/seed3", "t/teachers/seed1", "u/x/seed1"}, 0)
    assert trained.index("t/teachers/seed1") > max(map(trained.index, ("t/joint/seed2", "t/joint/seed3")))
    assert left == []
    assert len(read_results(lane.config.parent / "results.json")) == 4
    assert lane([taught]) == ([], 0, [])


def test_a_teacher_whose_run_is_gone_is_trained_again_and_its_scores_stay(lane):
    from cells import Cell, read_results

    teacher = Cell("t", "joint", lane.config, 2)
    assert lane([teacher]) == (["t/joint/seed2"], 0, [])
    before = read_results(lane.config.parent / "results.json")["t/joint/seed2"]
    taught = Cell("t", "teachers", lane.config, 1, needs=(teacher,))
    assert lane([taught], keep=True) == (
        ["t/joint/seed2", "t/teachers/seed1"],
        0,
        ["t-joint-seed2", "t-teachers-seed1"],
    )
    assert read_results(lane.config.parent / "results.json")["t/joint/seed2"] == before


def test_a_cell_whose_teacher_failed_fails_with_it(lane, capsys):
    from cells import Cell

    teachers = tuple(Cell("t", "joint", lane.config, seed) for seed in (2, 3))
    taught = Cell("t", "teachers", lane.config, 1, needs=teachers)
    trained, failed, left = lane([taught], failing={"t/joint/seed2"})
    assert (trained, failed, left) == (["t/joint/seed3"], 2, [])
    assert "t/teachers/seed1 failed with exit code 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_cell_is_taught_by_a_real_run(tiny_cell):
    import quality

    make, place = tiny_cell
    teacher = make("joint", 2)
    quality.measure(teacher, place, 1)
    found = quality.measure(make("teachers", 1, needs=(teacher,)), place, 1)
    assert {"intent accuracy", "slots f1", "exact_match"} <= found["test"].keys()
    run = place.run(make("teachers", 1, needs=(teacher,)))
    assert load_config(run / "config.toml").train.distillation.teachers == (place.run(teacher),)


@pytest.mark.slow
def test_a_trained_cell_is_scored_on_unseen_values_and_by_both_protocols(tiny_cell):
    """A real run of a tiny model, in the place of a set that has further splits."""
    import quality

    make, place = tiny_cell
    found = quality.measure(make("minilm", 13, task="atis"), place, 1)
    assert found["protocols"].keys() == {"intent accuracy", "intent any-of accuracy"}
    assert found["protocols"]["intent accuracy"] == pytest.approx(found["test"]["intent accuracy"])
    assert found["unseen"].keys() == found["test"].keys()
    assert {"intent ece", "slots ece"} < found["test"].keys()
    assert {"intent accuracy", "slots f1", "exact_match"} <= found["dev"].keys()
    assert found["settings"]


def test_mixatis_table_shows_exact_match_by_utterance():
    from quality_table import tables

    cells = {}
    for seed, gain in ((13, 2.0), (14, 4.0)):
        plain = cell("mixatis", "minilm", seed, test=scores(80, 85, 47), weighted={"exact_match": 60.0})
        more = cell("mixatis", "with atis", seed, test=scores(80, 86, 49), weighted={"exact_match": 60.0 + gain})
        cells |= {f"plain{seed}": plain, f"more{seed}": more}
    text = tables(cells).partition("with and without the training utterances of ATIS")[2]
    plain = next(line for line in text.splitlines() if line.startswith("| MixATIS  "))
    assert [part.strip() for part in plain.strip("|").split("|")][1:] == [
        "2",
        "85.00 ± 0.00",
        "47.00 ± 0.00",
        "60.00 ± 0.00",
    ]
    assert line_of(text, "MixATIS and ATIS")[4] == "63.00 ± 12.71"
    assert line_of(text, "difference, paired")[1:4] == ["2", "+1.00 (+1.00 to +1.00)", "+2.00 (+2.00 to +2.00)"]
    older = {name: {**one, "weighted": {}} for name, one in cells.items()}
    for one in older.values():
        del one["weighted"]
    assert "with and without the training utterances" not in tables(older)


def test_main_table_says_what_was_missed():
    from quality_table import tables

    cells = {
        str(seed): cell(
            "atis", "minilm", seed, test=scores(97.9, slots, 88.0), protocols={"intent any-of accuracy": 98.5}
        )
        for seed, slots in ((13, 95.1), (14, 97.1))
    }
    line = line_of(tables(cells), "ATIS, MiniLM-L6")
    assert line[1:4] == ["2", "97.90 ± 0.00 (97.9 met)", "98.50 ± 0.00"]
    assert line[4].startswith("96.10 ± ")
    assert line[4].endswith("(96.0 met)")
    assert line[5] == "88.00 ± 0.00 (88.4 missed)"
    assert "CLINC150" not in tables(cells)


def test_three_in_one_is_compared_with_each_alone_by_seed():
    from quality_table import tables

    cells = {}
    for seed, gain in ((13, -0.5), (14, -0.3), (99, 50.0)):
        joint = {"atis_intent accuracy": 97.0 + gain, "atis_slots f1": 95.0}
        cells[f"three{seed}"] = cell("three", "minilm", seed, test=joint)
        if seed != 99:
            cells[f"alone{seed}"] = cell("atis", "minilm", seed, test=scores(97.0, 95.0, 88.0))
    line = line_of(tables(cells), "ATIS intent")
    assert line[3].startswith("-0.40 (")
    assert line[4] == "no"
    assert line_of(tables(cells), "ATIS slot F1")[3:] == ["+0.00 (+0.00 to +0.00)", "yes"]


def test_unseen_values_have_a_row_for_three_in_one():
    import quality_table

    alone = {s: cell("snips", "minilm", s, test={}, unseen=scores(98.0, 94.0 + s, 87.0)) for s in (1, 2)}
    three = {"snips_intent accuracy": 98.5, "snips_slots f1": 95.0, "atis_intent accuracy": 96.0, "exact_match": 54.0}
    results = {"a": alone[1], "b": alone[2], "c": cell("three", "minilm", 1, test={}, unseen=three)}
    snips = quality_table.tables(results).partition("SNIPS, the same")[2]
    assert line_of(snips, "... and the tasks of two other corpora")[1:] == ["1", "98.50", "95.00", ""]
    atis = quality_table.tables(results).partition("SNIPS, the same")[0]
    assert line_of(atis, "... and the tasks of two other corpora")[1:] == ["1", "96.00", "", "54.00"]


def test_differences_from_joint_training_are_paired_by_seed():
    import quality_table

    results = {}
    for seed in (13, 14):
        told = scores(90.0 + seed, 80.0 + seed, 60.0)
        results[f"joint{seed}"] = cell("tenth", "joint", seed, test=told)
        results[f"alone{seed}"] = cell("tenth", "intent alone", seed, test={"intent accuracy": 91.0 + seed})
        results[f"snips{seed}"] = cell("snips", "minilm", seed, test={}, unseen=told)
    three = {"snips_intent accuracy": 102.5, "snips_slots f1": 93.0, "atis_intent accuracy": 96.0, "exact_match": 54.0}
    results["three"] = cell("three", "minilm", 13, test={}, unseen=three)
    results["other"] = cell("tenth", "slots alone", 99, test={"slots f1": 1.0})
    table = quality_table.tables(results).partition("Differences from intent and slots together")[2]
    assert line_of(table, "a tenth of ATIS: intent alone")[1:] == ["2", "+1.00 (+1.00 to +1.00)", "", ""]
    assert line_of(table, "unseen values of SNIPS: and the tasks")[1:] == ["1", "-0.50", "+0.00", ""]
    assert "a tenth of ATIS: slots alone" not in table
    assert "unseen values of ATIS" not in table
    del results["snips13"], results["snips14"]
    results["alone"] = cell("snips", "intent alone", 13, test={}, unseen={"intent accuracy": 90.0})
    assert "unseen values of SNIPS" not in quality_table.tables(
        results
    )  # without joint training nothing is a difference


def test_tools_are_shown_by_what_they_change():
    from quality_table import tables

    cells = {}
    for seed in (13, 14):
        for variant, more in (("joint", 0.0), ("fgm", 1.0), ("masked words", 9.0)):
            told = scores(90.0 + more, 80.0, 60.0 + seed + more)
            cells[f"{variant}{seed}"] = cell("tenth", variant, seed, test=told, dev=told)
        for variant, more in (("minilm", 0.0), ("minilm substitute", 2.0), ("intent alone", 9.0)):
            told = scores(90.0 + more, 80.0, 60.0 + seed + more)
            cells[f"whole {variant}{seed}"] = cell("atis", variant, seed, test=told, dev=told)
    text = tables(cells)
    table = text.partition("What each tool changes")[2]
    assert line_of(table, "a tenth of ATIS: `fgm`")[1:4] == ["2", "+1.00 (+1.00 to +1.00)", "+0.00 (+0.00 to +0.00)"]
    assert line_of(table, "ATIS, MiniLM-L6: `substitute`")[2] == "+2.00 (+2.00 to +2.00)"
    assert len(table.split("\n| ")) == 5  # head, rule, two tools
    assert line_of(text, "... and masked words of the unlabelled rest")[1] == "2"


def test_unseen_values_are_those_that_no_training_row_has(tmp_path):
    import splits

    def write(split, rows):
        for part, column in zip(splits.JOINT_FILES, zip(*rows, strict=True), strict=True):
            splits.write(tmp_path / "atis" / split / part, "".join(f"{line}\n" for line in column))

    write("train", [("fly to  new york", "O O B-to I-to", "flight"), ("from rome", "O B-from", "flight")])
    seen, other_slot, new = (
        ("to new york", "O B-to I-to", "flight"),
        ("to rome", "O B-to", "flight"),
        ("new", "B-to", "city"),
    )
    write("test", [seen, other_slot, new, ("hello", "O", "greet")])
    splits.split_joint(tmp_path / "atis", tmp_path / "work", "atis")
    assert splits.read_joint(tmp_path / "work/atis_unseen") == [other_slot, new]
    assert (tmp_path / "work/atis/train.txt").read_text(encoding="utf-8") == "fly to new york\nfrom rome\n"


def test_a_tenth_is_the_same_rows_in_any_order(tmp_path):
    import splits

    rows = [(f"text {i // 2}", "O O", "flight") for i in range(400)]  # each text twice
    chosen = []
    for name, order in (("one", rows), ("other", rows[::-1])):
        for part, column in zip(splits.JOINT_FILES, zip(*order, strict=True), strict=True):
            for split in ("train", "test"):
                splits.write(tmp_path / name / "atis" / split / part, "".join(f"{line}\n" for line in column))
        splits.split_joint(tmp_path / name / "atis", tmp_path / name / "work", "atis")
        chosen.append(sorted(splits.read_joint(tmp_path / name / "work/atis_tenth/train")))
    assert chosen[0] == chosen[1]
    assert 20 <= len(chosen[0]) <= 65
