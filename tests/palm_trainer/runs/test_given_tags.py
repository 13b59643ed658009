"""Tags decoded given the class: what is learnt, when dev speaks against it, and every place that decodes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import palm_trainer as palm
from palm_serve.bundle.manifest import Calibration
from palm_serve.types import TextRequest
from palm_trainer.cli.train import app, command
from palm_trainer.compare.variants import plan_comparison
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.errors import ConfigError
from palm_trainer.evaluation.calibration import calibrate
from palm_trainer.evaluation.evaluate import calibration_errors, evaluate
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained, save_trained
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config, task_kinds
from palm_trainer.runs.run import train
from tests.palm_trainer.conftest import Kind

TABLES = """
[data.d]
format = "jsonl"
train = "train.jsonl"
dev = "dev.jsonl"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["d"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["d"]
given = "intent"
"""
PLACES = ("oslo", "rome", "bonn", "york", "lima")


def span(text: str, value: str, label: str, **roles: str) -> dict:
    start = text.index(value)
    return {"start": start, "end": start + len(value), "label": label, **roles}


def row(text: str, intent: str | None, *spans: tuple[str, str]) -> dict:
    fields = {"text": text, "slots": [span(text, *one) for one in spans]}
    return fields if intent is None else {**fields, "intent": intent}


def rows() -> list[dict]:
    """Cities with `go`, artists with `play`, nothing with `stop`; `chat` has no row with slots."""
    made = []
    for place in PLACES:
        made.append(row(f"fly to {place}", "go", (place, "city")))
        made.append(row(f"a song of {place}", "play", (place, "artist")))
    made += [row("stop that now", "stop"), row("please stop", "stop")]
    made += [{"text": "who are you", "intent": "chat"}, {"text": "how are you", "intent": "chat"}]
    return [*made, row("oslo on air", None, ("air", "artist")), {"text": "nothing known"}]


def write(kind: Kind, train: list[dict] | None = None, dev: list[dict] | None = None, tables: str = TABLES, **options):
    kind.rows("train.jsonl", rows() if train is None else train)
    kind.rows("dev.jsonl", rows() if dev is None else dev)
    return kind.config(tables, **options)


def allowed_types(job) -> dict[str, set[str]]:
    """The span types of each class, from the array that decoding gets."""
    array = job.trained.arrays["slots.given"]
    tags, classes = job.trained.tasks["slots"].labels, job.trained.tasks["intent"].labels
    types = {}
    for name, values in zip(classes, array, strict=True):
        assert values[tags.index("O")] == 1
        present = {tag for tag, value in zip(tags, values, strict=True) if value and tag != "O"}
        types[name] = {tag[2:] for tag in present}
        assert present == {f"{prefix}-{label}" for label in types[name] for prefix in "BI"}
    return types


# -- what is learnt -----------------------------------------------------------------------------------------------------


def test_types_of_a_class_are_those_of_its_rows(kind: Kind) -> None:
    """Rows with one of the two fields teach nothing. A class without a row that has slots can have all."""
    job = job_from_config(write(kind))
    everything = {"city", "artist"}
    assert allowed_types(job) == {"chat": everything, "go": {"city"}, "play": {"artist"}, "stop": set()}
    tags = job.given_tags["slots"]
    assert (tags.task, tags.spans, tags.forbidden, tags.used) == ("intent", 10, 0, True)


def test_roles_and_groups_are_part_of_the_type(kind: Kind) -> None:
    made = []
    for start, end in zip(PLACES, PLACES[::-1], strict=True):
        text = f"from {start} then {end}"
        roles = [span(text, start, "city", role="from")]
        if start != end:
            roles.append(span(text, f"then {end}", "city", role="to", group="1"))
        made.append({"text": text, "intent": "go", "slots": roles})
        leave = f"leave {start}"
        made.append({"text": leave, "intent": "leave", "slots": [span(leave, start, "city", role="from")]})
    types = allowed_types(job_from_config(write(kind, made, made)))
    assert types == {"go": {"city (role from)", "city (role to, group 1)"}, "leave": {"city (role from)"}}
    ignored = TABLES + 'roles = "ignore"\n'
    assert allowed_types(job_from_config(write(kind, made, made, ignored))) == {"go": {"city"}, "leave": {"city"}}


def test_only_rows_of_shared_data_sets_teach(kind: Kind) -> None:
    """A data set of the classes alone may have the field of the slots too."""
    kind.rows("more.jsonl", [row("fly on monday", "go", ("monday", "artist"))])
    more = '[data.more]\nformat = "jsonl"\ntrain = "more.jsonl"\n'
    tables = TABLES.replace('role = "intent"\ndata = ["d"]', 'role = "intent"\ndata = ["d", "more"]') + more
    assert allowed_types(job_from_config(write(kind, tables=tables)))["go"] == {"city"}


# -- dev ----------------------------------------------------------------------------------------------------------------


def wrong_rows(count: int) -> list[dict]:
    """Rows of a class with a type that it does not have in train, a class of its own, and a type without a tag."""
    wrong = [row(f"fly to {place} {number}", "go", (place, "artist")) for number in range(count) for place in ["york"]]
    return [*wrong, row("swim in oslo", "swim", ("oslo", "city")), row("fly on monday", "go", ("monday", "day"))]


def right_rows(count: int) -> list[dict]:
    return [row(f"fly to oslo {number}", "go", ("oslo", "city")) for number in range(count)]


@pytest.mark.parametrize(("right", "wrong", "used"), [(197, 1, True), (198, 1, True), (196, 1, False), (0, 0, True)])
def test_it_is_off_where_dev_violates_it(kind: Kind, right: int, wrong: int, used: bool) -> None:
    """At most 0.5 % of dev's spans may be forbidden under their own class: 1 of 200."""
    job = job_from_config(write(kind, dev=[*right_rows(right), *wrong_rows(wrong)]))
    tags = job.given_tags["slots"]
    assert (tags.spans, tags.forbidden, tags.used) == (right + wrong + 2, wrong, used)
    info = job.trained.tasks["slots"]
    assert (info.decode.given, "given" in info.decode.arrays) == (("intent", True) if used else ("", False))
    assert ("slots.given" in job.trained.arrays) == used


def test_training_tells_that_it_is_off_and_why(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    write(kind, dev=[*rows(), *wrong_rows(1)])
    line = (
        "slots is not decoded given intent: 1 of 13 spans in dev (7.69%) would be lost, since train never has their type "
        "with their intent, and at most 0.5% may"
    )
    for name in ("plan", "run"):
        assert command(app, [name, str(kind.folder / "tiny.toml")]) == 0
        assert line in " ".join(capsys.readouterr().out.split())
    start = json.loads((kind.run / "events.jsonl").read_text().splitlines()[0])
    assert start["given"] == {"slots": {"task": "intent", "used": False, "dev_spans": 13, "dev_forbidden": 1}}
    assert "not decoded given intent, which dev speaks against" in (kind.run / "report.html").read_text()
    assert "given" not in (kind.run / "best/model.json").read_text()
    assert load_config(kind.run / "config.toml").tasks["slots"].given == "intent"


def test_without_dev_it_is_on(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    write(kind, tables=TABLES.replace('dev = "dev.jsonl"\n', ""))
    assert command(app, ["plan", str(kind.folder / "tiny.toml")]) == 0
    assert "slots is decoded given intent: no span in dev has a class" in " ".join(capsys.readouterr().out.split())


def test_test_rows_are_never_looked_at(kind: Kind) -> None:
    tables = TABLES.replace('dev = "dev.jsonl"', 'dev = "dev.jsonl"\ntest = "test.jsonl"')
    kind.rows("test.jsonl", wrong_rows(50))
    assert job_from_config(write(kind, tables=tables)).given_tags["slots"].forbidden == 0


# -- bad input ----------------------------------------------------------------------------------------------------------

OTHERS = """
[data.other]
format = "jsonl"
train = "train.jsonl"
[tasks.mood]
kind = "classify"
field = "intent"
data = ["other"]
[tasks.topics]
kind = "multi_label"
field = "intent"
data = ["d"]
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("intnt", r"tasks.slots.given must name a classify task, got 'intnt'. Did you mean 'intent'\?"),
        ("zzz", "tasks.slots.given must name a classify task, got 'zzz'. Known: intent, mood."),
        (
            "slots",
            "tasks.slots.given must name a classify task, got 'slots' of kind 'sequence_label'. Known: intent, mood.",
        ),
        (
            "topics",
            "tasks.slots.given must name a classify task, got 'topics' of kind 'multi_label'. Known: intent, mood.",
        ),
        (
            "mood",
            "tasks.slots.given must name a classify task that shares a data set with it, got 'mood' on other data. ",
        ),
    ],
)
def test_a_task_that_cannot_be_given_is_refused(kind: Kind, given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write(kind, tables=TABLES.replace('given = "intent"', f'given = "{given}"') + OTHERS)


def test_an_auxiliary_task_is_refused(kind: Kind) -> None:
    tables = TABLES.replace('role = "intent"', "auxiliary = true")
    with pytest.raises(ConfigError, match=r"that is exported, got the auxiliary task 'intent'\. Remove `auxiliary`"):
        write(kind, tables=tables)


def test_other_kinds_have_no_such_key(kind: Kind) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.intent\.given"):
        write(kind, tables=TABLES.replace('role = "intent"', 'role = "intent"\ngiven = "slots"'))


def test_a_task_that_reads_pairs_is_refused(kind: Kind) -> None:
    paired = [{**one, "text_pair": "and more"} for one in rows()]
    with pytest.raises(ConfigError, match="must name a task that reads one text, got 'intent', which reads pairs"):
        job_from_config(write(kind, paired, paired))


# -- every place that decodes ---------------------------------------------------------------------------------------------

TEXTS = [one["text"] for one in rows()]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """A finished run whose slots head is made to tag nearly everything, so that much of it is forbidden."""
    made = Kind(tmp_path_factory.mktemp("given"))
    write(made, epochs=4)
    list(train(load_config(made.folder / "tiny.toml")))
    trained = load_trained(made.run)
    torch.manual_seed(5)
    torch.nn.init.normal_(trained.model.head("slots").linear.weight)
    save_trained(trained, made.run / "best")
    return made


def plain(trained):
    """The same model without `given`."""
    info = trained.tasks["slots"]
    decode = info.decode.model_copy(update={"given": ""})
    return replace(trained, tasks={**trained.tasks, "slots": info.model_copy(update={"decode": decode})})


def found(answer) -> list[tuple[str, int, int]]:
    return [(one.name, one.start, one.end) for one in answer.spans]


def test_the_mask_is_at_work_and_forbids_what_it_says(tagged: Kind) -> None:
    trained = load_trained(tagged.run)
    examples = [Example(text) for text in TEXTS]
    possible = {"go": {"city"}, "play": {"artist"}, "stop": set(), "chat": {"city", "artist"}}
    masked, unmasked = Predictor(trained).answers(examples), Predictor(plain(trained)).answers(examples)
    changed = 0
    for one, other in zip(masked, unmasked, strict=True):
        intent = one["intent"].label.name
        assert {name for name, _, _ in found(one["slots"])} <= possible[intent]
        assert one["intent"] == other["intent"]
        changed += found(one["slots"]) != found(other["slots"])
    assert changed


def test_all_places_that_decode_agree(tagged: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    """The trained model, a command, Python, the bundle (whose export compares it) and the pipeline of a server."""
    trained = load_trained(tagged.run)
    examples = [Example(text) for text in TEXTS]
    expected = [answers["slots"] for answers in Predictor(trained).answers(examples)]
    alone = [answers["slots"] for answers in Predictor(trained).answers(examples, ["slots"])]
    spans = [found(answer) for answer in expected]
    assert [found(answer) for answer in alone] == spans
    arguments = [part for text in TEXTS for part in ("--text", text)]
    assert command(app, ["predict", str(tagged.run), *arguments]) == 0
    printed = [json.loads(line)["slots"] for line in capsys.readouterr().out.splitlines()]
    assert [[(one["label"], one["start"], one["end"]) for one in line] for line in printed] == spans
    pipeline = tagged.serve()
    for tasks in ((), ("slots",), ("slots", "intent")):
        served = pipeline.predict([TextRequest(text, tasks) for text in TEXTS])
        assert [found(prediction.answers["slots"]) for prediction in served] == spans
        if tasks:
            assert {name for prediction in served for name in prediction.answers} == {*tasks}
        for prediction, answer in zip(served, expected, strict=True):
            confidences = [one.confidence for one in prediction.answers["slots"].spans]
            assert confidences == pytest.approx([one.confidence for one in answer.spans], abs=1e-4)
    manifest = json.loads((tagged.folder / "bundle/manifest.json").read_text())
    decode = manifest["tasks"]["slots"]["decode"]
    assert (decode["given"], decode["arrays"]["given"]) == ("intent", "slots.given")
    assert manifest["tasks"]["slots"]["outputs"] == ["slots.logits"]
    assert (
        np.load(tagged.folder / "bundle/decode.npz")["slots.given"].tolist() == trained.arrays["slots.given"].tolist()
    )
    card = (tagged.folder / "bundle/README.md").read_text()
    assert (
        "- `slots` is decoded given `intent`: a span of a type that no training text of the answered class has" in card
    )


def test_python_predicts_given_the_class(tagged: Kind, tmp_path: Path) -> None:
    """A trainer of the slots alone, which loads the run."""
    expected = Predictor(load_trained(tagged.run)).answers([Example(text) for text in TEXTS], ["slots"])
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fly"]) + "\n")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    reader = palm.reader.JointReader(tmp_path / "vocab.txt", 24, phase="predict")
    reader.load_data(tmp_path / "texts.jsonl", batch_size=4, file_format="jsonl")
    trainer = palm.Trainer("slots", say=lambda line: None)
    trainer.load_ckpt(tagged.run)
    trainer.fit_reader(reader, phase="predict")
    records = trainer.predict()
    spans = [[(one["label"], one["start"], one["end"]) for one in record["spans"]] for record in records]
    assert spans == [found(answers["slots"]) for answers in expected]


def test_evaluation_and_the_choice_of_checkpoints_score_masked_answers(tagged: Kind) -> None:
    config = load_config(tagged.run / "config.toml")
    sets = evaluation_sets(config, "dev")
    trained = load_trained(tagged.run)
    masked = evaluate(Predictor(trained), task_kinds(config), sets)
    unmasked = evaluate(Predictor(plain(trained)), task_kinds(config), sets)
    assert masked["slots"]["f1"] != unmasked["slots"]["f1"]
    evaluated = evaluate_run(tagged.run, config, "dev")
    assert evaluated["slots"]["f1"] == masked["slots"]["f1"]
    assert evaluated["exact_match"] == masked["exact_match"]
    report = (tagged.run / "report.html").read_text()
    assert "slots (sequence_label, 5 tags, decoded given intent)" in report


def test_a_rejected_class_forbids_nothing_in_trainer_and_server(tagged: Kind, tmp_path: Path) -> None:
    trained = load_trained(tagged.run)
    info = trained.tasks["intent"]
    thresholds = info.thresholds.model_copy(update={"intent_confidence": 1.0})
    tasks = {**trained.tasks, "intent": info.model_copy(update={"thresholds": thresholds})}
    rejecting = replace(trained, tasks=tasks)
    examples = [Example(text) for text in TEXTS]
    spans = [found(answers["slots"]) for answers in Predictor(rejecting).answers(examples)]
    assert spans == [found(answers["slots"]) for answers in Predictor(plain(trained)).answers(examples)]
    strict = Kind(tmp_path)
    save_trained(rejecting, strict.run / "best")
    (strict.run / "config.toml").write_text((tagged.run / "config.toml").read_text())
    served = strict.serve().predict([TextRequest(text, ("slots",)) for text in TEXTS])
    assert [found(prediction.answers["slots"]) for prediction in served] == spans


def test_spans_are_calibrated_as_they_are_answered(tagged: Kind) -> None:
    """With thresholds of the class, which are chosen before."""
    trained = load_trained(tagged.run)
    sets = evaluation_sets(load_config(tagged.run / "config.toml"), "dev")
    tasks = {}
    for name, info in trained.tasks.items():
        tasks[name] = info.model_copy(update={"calibration": Calibration()})
    fitted = calibrate(replace(trained, tasks=tasks), sets, {}, {"intent": 0.4})
    assert fitted.tasks["intent"].thresholds.out_of_scope is not None
    errors = calibration_errors(Predictor(fitted), {"intent": "classify", "slots": "sequence_label"}, sets)
    assert errors["slots"]["ece"] == pytest.approx(fitted.tasks["slots"].calibration.ece, abs=1e-6)


# -- checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_run_resumes_with_its_mask(kind: Kind) -> None:
    config = write(kind, epochs=4)
    steps = iter(range(100))
    list(train(config, stop=lambda: next(steps) >= 5))
    list(train(config, resume=True))
    whole = Kind(kind.folder)
    whole.run = kind.folder / "whole"
    list(train(load_config(kind.folder / "tiny.toml", output=whole.run)))
    resumed, straight = load_trained(kind.run, "last"), load_trained(whole.run, "last")
    assert resumed.tasks["slots"].decode.given == "intent"
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("tables", [TABLES, TABLES.replace('given = "intent"\n', "")])
def test_a_warm_start_takes_the_head_and_keeps_its_own_mask(tagged: Kind, kind: Kind, tables: str) -> None:
    """Also a training without a mask takes the head of a run with one."""
    write(kind, [*rows(), row("fly on air", "go", ("air", "artist"))], tables=tables)
    path = kind.folder / "tiny.toml"
    _, section, others = path.read_text().partition("[train]")
    path.write_text(f'[encoder]\nmodel = "{tagged.run}"\nheads = true\n{section}{others}')
    job = job_from_config(load_config(path))
    assert job.heads.names == ("intent", "slots")
    weight = load_trained(tagged.run).model.head("slots").linear.weight
    assert torch.equal(job.trained.model.head("slots").linear.weight, weight)
    if "given" in tables:
        assert allowed_types(job)["go"] == {"city", "artist"}
    else:
        assert "slots.given" not in job.trained.arrays


def test_a_student_keeps_the_mask_of_its_own_data(tagged: Kind, kind: Kind) -> None:
    extended = [*rows(), row("fly on air", "go", ("air", "artist"))]
    job = job_from_config(write(kind, extended, tables=TABLES + f'[train.distillation]\nteachers = ["{tagged.run}"]\n'))
    assert allowed_types(job)["go"] == {"city", "artist"}


def test_a_task_alone_is_compared_without_it(kind: Kind) -> None:
    plan = plan_comparison(write(kind))
    given = {
        variant.task: variant.config.tasks["slots"].given
        for variant in plan.variants
        if "slots" in variant.config.tasks
    }
    assert given == {None: "intent", "slots": None}


def test_an_added_class_can_have_all_types(kind: Kind) -> None:
    """The class that decides is judged by a score that reads a second output of the graph."""
    prototype = 'role = "intent"\nhead = "prototype"\nout_of_scope_score = "mahalanobis"'
    tables = TABLES.replace('role = "intent"', prototype)
    write(kind, tables=tables)
    list(train(load_config(kind.folder / "tiny.toml", ["train.learning_rate=1e-6", "encoder.pooling=mean"])))
    before = load_trained(kind.run).arrays["slots.given"]
    (kind.folder / "new.txt").write_text("swim in rome\nswim to oslo\n")
    assert command(app, ["add-class", str(kind.run), "swim", "--examples", str(kind.folder / "new.txt")]) == 0
    added = load_trained(kind.run)
    after = added.arrays["slots.given"]
    assert np.array_equal(after[:-1], before)
    assert after.shape == (len(added.tasks["intent"].labels), len(added.tasks["slots"].labels))
    assert after[-1].all()
    kind.serve()
