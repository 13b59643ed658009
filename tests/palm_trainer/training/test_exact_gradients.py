"""Gradients are equal for one batch, for micro-batches, and over several processes."""

from pathlib import Path

import pytest
import torch

from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError, PalmError
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.training.processes import SINGLE_PROCESS, Processes, process_group

TABLES = """
[data.joint]
format = "jsonl"
train = "joint.jsonl"
[data.squad]
format = "jsonl"
train = "squad.jsonl"
[data.ranked]
format = "jsonl"
train = "ranked.jsonl"
[data.plain]
format = "text"
train = "plain.txt"
[tasks.intent]
kind = "classify"
data = ["joint"]
[tasks.topics]
kind = "multi_label"
data = ["joint"]
[tasks.slots]
kind = "sequence_label"
data = ["joint"]
[tasks.words]
kind = "sequence_label"
field = "slots"
crf = false
data = ["joint"]
weight = 0.3
[tasks.reading]
kind = "mrc"
data = ["squad"]
max_query_tokens = 4
[tasks.better]
kind = "match"
learning_strategy = "pairwise"
data = ["ranked"]
[tasks.guess]
kind = "masked_lm"
data = ["plain"]
mask_share = 0.3
"""
CITIES = ("boston", "new york", "st louis", "denver")


def write(kind):
    """Rows of all kinds, of many lengths, with some labels missing; a file with the configuration."""
    joint, squad, ranked = [], [], []
    for i in range(32):
        city, filler = CITIES[i % 4], "please " * (i % 5)
        text = f"{filler}fly to {city}"
        row = {"text": text}
        if i % 3:
            row["intent"] = "go" if i % 2 else "stay"
        if i % 4 != 1:
            row["slots"] = [{"start": len(text) - len(city), "end": len(text), "label": "city"}]
        if i % 5:
            row["topics"] = [("travel", "town")[i % 2]]
        joint.append(row)
        passage = f"{filler}anna lives in {city}"
        found = {"start": len(passage) - len(city), "end": len(passage), "label": ""}
        squad.append({"text": "where ?", "text_pair": passage, "answer": [found]})
        ranked.append(
            {"text": f"go {city}", "text_pair": f"fly to {city}", "text_b_neg": f"{filler}eat {CITIES[i % 3]}"}
        )
    kind.rows("joint.jsonl", joint)
    kind.rows("squad.jsonl", squad)
    kind.rows("ranked.jsonl", ranked)
    (kind.folder / "plain.txt").write_text("".join(row["text"] + "\n" for row in joint))
    kind.config(TABLES)
    return kind.folder / "tiny.toml"


def gradients(path: Path, *overrides, processes=SINGLE_PROCESS):
    """Losses and gradients of a step on each data set, summed: float64, no dropout."""
    training = job_from_config(load_config(path, overrides), processes)
    loop, model = training.loop, training.trained.model.double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    learnt = [p for group in loop.optimizer.param_groups for p in group["params"]]
    outside = set(learnt) - set(model.parameters())  # of the balancing
    for parameter in outside:
        parameter.data = parameter.data.double()
    parameters = {**dict(model.named_parameters()), **{f"learnt.{i}": p for i, p in enumerate(learnt) if p in outside}}
    losses, examples = {}, 0
    for name, source in loop.sources.items():
        own, count = loop._gradients(name, source.micro_batches(loop.accumulate, processes), source.tasks)
        losses, examples = losses | own, examples + count
        # each step's sum over the processes would be summed again with the next one's
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.kept = getattr(parameter, "kept", 0) + parameter.grad
                parameter.grad = None
    found = {name: parameter.kept for name, parameter in parameters.items() if hasattr(parameter, "kept")}
    return losses, examples, found


def assert_equal(one, other):
    (losses, examples, found), (losses_b, examples_b, found_b) = one, other
    assert examples == examples_b
    assert losses.keys() == losses_b.keys()
    assert losses == pytest.approx(losses_b, rel=1e-6)
    assert found.keys() == found_b.keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float64
        assert (gradient - found_b[name]).norm() <= 1e-6 * gradient.norm() + 1e-15, name


CASES = (
    ("train.batch_size=32", "train.accumulate_steps=1"),
    ("train.batch_size=32", "train.accumulate_steps=2"),
    ("train.batch_size=1",),
)
"""The last: a batch smaller than the number of processes, so that one of them has nothing."""


def _as_process(path: Path, *cases: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    with process_group() as processes:
        found = [gradients(path, *case, processes=processes) for case in cases or CASES]
    torch.save(found, path.with_name(f"gradients-{processes.rank}.pt"))


def test_gradients_micro_batches_and_processes_add_up(kind, together):
    """1 x 32, 4 x 8, 2 processes x 16, and 2 processes x 2 x 8, with losses of tokens, chains, spans, texts and pairs together, partly labelled."""
    path = write(kind)
    whole, single = gradients(path, "train.batch_size=32"), gradients(path, "train.batch_size=1")
    assert whole[0].keys() == {"intent", "topics", "slots", "words", "reading", "better", "guess"}
    assert (whole[1], single[1]) == (4 * 32, 4)
    assert_equal(whole, gradients(path, "train.batch_size=32", "train.accumulate_steps=4"))
    assert together(2, _as_process, path).codes() == [0, 0]
    first, second = (torch.load(path.with_name(f"gradients-{rank}.pt"), weights_only=True) for rank in (0, 1))
    for expected, one, other in zip((whole, whole, single), first, second, strict=True):
        assert_equal(expected, one)
        assert one[:2] == other[:2]
        assert all(torch.equal(one[2][name], other[2][name]) for name in one[2])


OPTIONS = ("train.regularization.r_drop=2", "train.regularization.fgm=1", "train.regularization.label_smoothing=0.2")
BALANCING = ("train.balancing.method=dwa", "train.balancing.method=random", "train.balancing.method=uncertainty")


@pytest.mark.parametrize("option", [*OPTIONS, *BALANCING])
def test_gradients_with_regularization_add_up(kind, option):
    path = write(kind)
    path.write_text(path.read_text().replace("weight = 0.3\n", ""))  # uncertainty learns the weights
    one, four = (gradients(path, "train.batch_size=32", option, f"train.accumulate_steps={n}") for n in (1, 4))
    assert_equal(one, four)


def test_gradients_with_teachers_add_up(kind, together, fit):
    """A teacher of every kind but masked_lm; values change places. One batch, four parts of it, and two processes; some data without a label."""
    path = write(kind)
    fit(load_config(path, ("train.epochs=0.2", "train.batch_size=32")))
    options = (
        f'train.distillation.teachers="{kind.run.as_posix()}"',
        "data.joint.substitute=0.5",
        "train.batch_size=32",
    )
    whole, plain = gradients(path, *options), gradients(path, *options[1:])
    assert whole[0]["guess"] == plain[0]["guess"]
    assert all(whole[0][task] != plain[0][task] for task in plain[0] if task != "guess")
    assert_equal(whole, gradients(path, *options, "train.accumulate_steps=4"))
    assert together(2, _as_process, path, options).codes() == [0, 0]
    for rank in (0, 1):
        [found] = torch.load(path.with_name(f"gradients-{rank}.pt"), weights_only=True)
        assert_equal(whole, found)


def test_accumulation_more_than_batch_size_is_refused(kind):
    with pytest.raises(ConfigError, match=r"accumulate_steps must be at most batch_size = 8, got 9"):
        load_config(write(kind), ("train.batch_size=8", "train.accumulate_steps=9"))


@pytest.mark.parametrize("method", ["gradnorm", "pcgrad"])
def test_accumulation_with_gradient_methods_is_refused(kind, method):
    path = write(kind)
    text = path.read_text().replace("weight = 0.3\n", "")
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=rf"accumulate_steps must be 1 for train.balancing.method = '{method}', got 2"
    ):
        load_config(path, (f"train.balancing.method={method}", "train.accumulate_steps=2"))
    config = load_config(path, (f"train.balancing.method={method}",))
    with pytest.raises(ConfigError, match=rf"'{method}' weighs .* of which 2 processes hold a part each. Train in one"):
        job_from_config(config, Processes(0, 2))


def test_processes_single_device_is_refused():
    assert Processes(1, 2, 1).device("cuda") == "cuda:1"
    assert Processes(1, 2, 1).device("cpu") == "cpu"
    assert SINGLE_PROCESS.device("cuda:3") == "cuda:3"
    with pytest.raises(PalmError, match=r"'cuda:0' is one device, but 2 processes train. Write cuda"):
        Processes(1, 2, 1).device("cuda:0")
