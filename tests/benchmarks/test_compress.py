"""The benchmark of compressed models: its table, and that it times real forms of bundles."""

import json

import pytest


@pytest.fixture
def script():
    import compress

    return compress


def record(variant: str, seed: int, score: float, plain: float, int8: float, size: int) -> dict:
    form = {"ms": 1.0, "texts_per_second": 1.0, "times_teacher_1": 9.0}
    return {
        "task": "atis",
        "variant": variant,
        "seed": seed,
        "bytes": size,
        "test": {"exact_match": score},
        "forms": {
            "CPU in fp32 (plain)": {**form, "times_teacher_32": plain},
            "CPU in fp32 (fused)": {**form, "times_teacher_32": plain + 0.5},
            "CPU in int8 (int8)": {**form, "times_teacher_32": int8},
        },
    }


def test_table_pairs_students_with_their_teachers(script):
    results = {
        "a": record("teacher", 13, 88.0, 1.0, 2.0, 110_000_000),
        "b": record("teacher", 14, 89.0, 1.0, 2.0, 110_000_000),
        "c": record("3 layers", 13, 87.5, 1.8, 4.0, 19_000_000),
        "d": record("3 layers", 14, 88.7, 2.0, 4.2, 19_000_000),
        "e": record("3 layers", 15, 10.0, 9.0, 9.0, 1_000),  # its teacher is not there yet
    }
    _, _, teacher, student = script.table(results).splitlines()
    assert teacher == "| atis | teacher | 110.0 | 88.50 |  | 1.00 ± 0.00 | 1.50 ± 0.00 | 2.00 ± 0.00 |"
    assert student == "| atis | 3 layers | 19.0 | 88.10 | -0.40 ± 1.27 | 1.90 ± 1.27 | 2.40 ± 1.27 | 4.10 ± 1.27 |"


def test_forms_of_bundles_are_timed_against_the_teacher(script, tmp_path, make_tiny_bundle):
    bundles = {arm: make_tiny_bundle(tmp_path / arm.replace(" ", "_")) for arm in (script.TEACHER, "3 layers")}
    forms = script.time_forms(bundles, 0.01)
    assert set(forms) == {script.TEACHER, "3 layers"}
    base = forms[script.TEACHER]["CPU in fp32 (plain)"]
    assert base["times_teacher_1"] == base["times_teacher_32"] == 1.0
    assert forms["3 layers"]["CPU in fp32 (plain)"]["texts_per_second"] > 0


def test_unknown_data_sets_are_refused(script, tmp_path):
    with pytest.raises(SystemExit, match=r"--only must be of atis, snips, demo, got nothing\."):
        script.main(["--only", "nothing", "--json", str(tmp_path / "results.json")])
    (tmp_path / "results.json").write_text(json.dumps({}), encoding="utf-8")
    script.main(["--table", "--json", str(tmp_path / "results.json")])
