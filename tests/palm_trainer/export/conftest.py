"""An untrained run: a tiny encoder with random weights, and heads with large weights for confident answers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from palm_serve.bundle.manifest import Decode, EncoderInfo, TaskInfo
from palm_trainer.config.loader import load_config
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.model.checkpoint import save_trained
from palm_trainer.model.encoders import build_scratch
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel
from palm_trainer.runs.job_from_config import evaluation_sets

CITIES = ("boston", "new york", "san francisco", "denver", "北京")
TEXTS = [
    f"{verb} {city} {day}"
    for verb in ("fly to", "weather in", "play in")
    for city in CITIES
    for day in ("", "on monday, please")
]
INTENTS = ("flight", "music", "weather")
TAGS = ("O", "B-city", "B-day", "I-city", "I-day")
ROLES = ("start", "transitions", "end")


def build_trained(max_length: int = 24, auxiliary: frozenset[str] = frozenset(), seed: int = 3) -> TrainedModel:
    """Build a model with intent, slots with a CRF and sentiment over 2 layers of 16."""
    torch.manual_seed(seed)
    encoder = build_scratch(TEXTS, layers=2, hidden_size=16, heads=2, vocab_size=120, max_length=max_length)
    tasks = {
        "intent": TaskInfo(kind="classify", role="intent", outputs=("intent.logits",), labels=INTENTS),
        "slots": TaskInfo(
            kind="sequence_label",
            role="slots",
            outputs=("slots.logits",),
            labels=TAGS,
            decode=Decode(scheme="BIO", crf=True, arrays={role: f"slots.{role}" for role in ROLES}),
        ),
        "sentiment": TaskInfo(kind="classify", outputs=("sentiment.logits",), labels=("negative", "positive")),
    }
    model = MultiTaskModel(encoder.backbone, {name: make_head(name, info, 16) for name, info in tasks.items()})
    with torch.no_grad():
        for name in tasks:
            model.head(name).linear.weight.normal_(std=1.0)
        for role in ROLES:
            getattr(model.head("slots").crf, role).normal_(std=0.3)
    config = encoder.backbone.encoder.config
    info = EncoderInfo(
        family="bert",
        name="scratch",
        layers=2,
        hidden_size=16,
        vocab_size=config.vocab_size,
        parameters=sum(p.numel() for p in encoder.backbone.parameters()),
        pad_token_id=0,
    )
    return TrainedModel(model.eval(), encoder.tokenizer_json, max_length, tasks, info, auxiliary)


def write_data(path: Path) -> None:
    rows = []
    for i, text in enumerate(TEXTS):
        city = next(city for city in CITIES if city in text)
        start = text.index(city)
        spans = [{"start": start, "end": start + len(city), "label": "city"}]
        rows.append(
            {"text": text, "intent": INTENTS[i % 3], "slots": spans, "sentiment": ("negative", "positive")[i % 2]}
        )
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


CONFIG = """
[encoder]
model = "scratch"
max_length = 24

[data.tiny]
format = "jsonl"
train = "tiny.jsonl"
dev = "tiny.jsonl"

[tasks.intent]
kind = "classify"
role = "intent"
field = "intent"
data = ["tiny"]

[tasks.slots]
kind = "sequence_label"
role = "slots"
field = "slots"
data = ["tiny"]

[tasks.sentiment]
kind = "classify"
field = "sentiment"
data = ["tiny"]

[train]
output = "run"
"""


def write_run(directory: Path, trained: TrainedModel) -> Path:
    """Write a run directory into `directory`, with its data next to it."""
    run = directory / "run"
    run.mkdir(parents=True)
    write_data(directory / "tiny.jsonl")
    (directory / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    (run / "config.toml").write_text(load_config(directory / "tiny.toml").dump_toml(), encoding="utf-8")
    metrics = {
        "dev": {
            "intent": {"accuracy": 0.5},
            "slots": {"f1": 0.25, "precision": 0.2, "recall": 0.3},
            "exact_match": 0.125,
        }
    }
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    save_trained(trained, run / "best")
    return run


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, which is fastest on a model this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in 12 shapes instead of 200, which is enough for most tests."""
    monkeypatch.setattr("palm_trainer.export.gate.SHAPES", 12)


@pytest.fixture(scope="session")
def trained() -> TrainedModel:
    """Return the model that all tests share. They must not change it."""
    return build_trained()


@pytest.fixture
def make_trained() -> Callable[..., TrainedModel]:
    """Return `build_trained`, for tests that need a model of their own."""
    return build_trained


@pytest.fixture
def make_run() -> Callable[[Path, TrainedModel], Path]:
    """Return `write_run`, for tests that need a run of their own."""
    return write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, trained: TrainedModel) -> Path:
    """Return the run directory that all tests share. They must not change it."""
    return write_run(tmp_path_factory.mktemp("runs"), trained)


@pytest.fixture(scope="session")
def sets(run: Path) -> list[EvaluationSet]:
    """Return the dev examples of the run."""
    return evaluation_sets(load_config(run / "config.toml"), "dev")


TIMES = {"plain": (1.0, 1.0), "fused": (0.8, 0.8), "int8": (0.5, 0.5), "fp16": (0.9, 0.9)}
"""Times of the variants instead of measured ones, so that bundles do not depend on the load of the machine."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, trained: TrainedModel, sets: list[EvaluationSet]) -> Path:
    """Return the bundle of the run with all variants. Tests share it and must not change it."""
    from palm_trainer.export.exporter import export_bundle

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch_times(patch)
        export_bundle(trained, sets, output, precision="int8", metrics={"dev": {"intent": {"accuracy": 0.5}}})
    return output


def patch_times(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "palm_trainer.export.measured_variants.time_engines",
        lambda bundle, engines: {c: TIMES[c.variant] for c in engines},
    )


@pytest.fixture
def steady_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use `TIMES` instead of the clock."""
    patch_times(monkeypatch)
