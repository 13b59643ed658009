"""Tiny data, tiny configurations and their trained runs, for every test of the training side."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.providers import select_engine
from palm_serve.pipeline import Pipeline
from palm_trainer.config.loader import Config, load_config
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.events import Finished
from palm_trainer.runs.job_from_config import evaluation_sets
from palm_trainer.runs.run import train

settings.register_profile("palm_trainer", deadline=None)  # other tests share the cores
settings.load_profile("palm_trainer")

CITIES = ("boston", "new york", "st. louis", "denver")
OPENINGS = (
    ("flights from {} please", "flight"),
    ("what is the fare to {}", "fare"),
    ("list hotels in {} now", "hotel"),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny models gain nothing from more, and several test processes may share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _short_timing() -> Iterator[None]:
    """Measure the engines of each tiny graph for tenths of a second: an export would take three times as long.

    Every engine is still run in every shape for the fewest rounds that count.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("palm_trainer.export.report", "palm_serve.engine.candidate_times"):
            patch.setattr(import_module(module), "_TIMING_BUDGET_S", 0.1)
        yield


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Commands install handlers for the signals that end them; the test runner keeps its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def joint_rows(repeats: int = 2) -> list[tuple[str, str, str]]:
    """(words, tags, intent) of each utterance; values of one and of two words."""
    rows = []
    for number in range(repeats):
        for opening, intent in OPENINGS:
            for city in CITIES:
                words, tags = [], []
                for word in opening.split():
                    value = city.split() if word == "{}" else [word]
                    words += value
                    tags += ["B-city", "I-city"][: len(value)] if word == "{}" else ["O"]
                if number % 2:
                    words, tags = [*words, "monday"], [*tags, "B-day"]
                rows.append((" ".join(words), " ".join(tags), intent))
    return rows


def write_joint(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """seq.in, seq.out and label of some rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("seq.in", 0), ("seq.out", 1), ("label", 2)):
        (folder / name).write_text("".join(row[column] + "\n" for row in rows), encoding="utf-8")
    return folder


CONFIG = """
[encoder]
model = "scratch"
max_length = 24
layers = 2
hidden_size = 16
heads = 2
vocab_size = 120

[data.travel]
format = "joint"
train = "travel/train"
{splits}

[tasks.intent]
kind = "classify"
role = "intent"
data = ["travel"]

[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["travel"]
{second}
[train]
epochs = 3
batch_size = 4
learning_rate = 5e-3
precision = "fp32"
device = "cpu"
log_every_steps = 2
output = "{output}"
"""

SECOND = """
[data.reviews]
format = "tsv"
train = "reviews.tsv"
dev = "reviews.tsv"
columns = ["text", "mood"]
mix_ratio = 0.5

[tasks.mood]
kind = "classify"
data = ["reviews"]
"""


def write_tiny(folder: Path, *, splits: tuple[str, ...] = ("dev", "test"), second: bool = False) -> Path:
    """Data and `tiny.toml` in `folder`; the run goes to `folder/run`. With `second`, a sentiment data set alternates."""
    rows = joint_rows()
    write_joint(folder / "travel/train", rows)
    for split in splits:
        unseen = [("fly me to oz", "O O O B-planet", "joyride")] if split == "test" else []
        write_joint(folder / "travel" / split, [*rows[1::3], *unseen])
    reviews = [
        f"{'great' if i % 2 else 'awful'} {word} film\t{'good' if i % 2 else 'bad'}\n"
        for i, word in enumerate("abcdefgh")
    ]
    (folder / "reviews.tsv").write_text("".join(reviews), encoding="utf-8")
    lines = "\n".join(f'{split} = "travel/{split}"' for split in splits)
    path = folder / "tiny.toml"
    path.write_text(
        CONFIG.format(splits=lines, second=SECOND if second else "", output=(folder / "run").as_posix()),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def write_config() -> Callable[..., Path]:
    """`write_config(folder, second=True)`: for fixtures that tests share."""
    return write_tiny


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., Config]:
    """`tiny_config("train.epochs=1", ..., second=True, splits=("dev",))`: a fresh data set and the configuration for it, in tmp_path."""

    def _config(*overrides: str, **options: object) -> Config:
        return load_config(write_tiny(tmp_path, **options), overrides)

    return _config


@pytest.fixture
def tiny_toml(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_toml(second=True)`: the same as a file, for the commands."""
    return lambda **options: write_tiny(tmp_path, **options)


def run_to_end(config: Config, **options: object) -> Finished:
    """Trains and returns the last event."""
    last = None
    for event in train(config, **options):
        last = event
    assert isinstance(last, Finished)
    return last


@pytest.fixture(scope="session")
def fit() -> Callable[..., Finished]:
    """`fit(config, resume=True, stop=...)` trains to the end and returns `Finished`."""
    return run_to_end


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny data set with two data sets; shared, so never written to."""
    folder = tmp_path_factory.mktemp("finished")
    run_to_end(load_config(write_tiny(folder, second=True)))
    return folder / "run"


class Together:
    """Processes that train together, as torchrun would start them; what each prints goes to `RANK.out` and `RANK.err` in a folder."""

    def __init__(self, folder: Path, size: int, target: Callable[..., None], *arguments: Any) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["palm_trainer.runs.run"])  # else each would load torch anew
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._folder = folder
        self.processes: list[BaseProcess] = []
        for rank in range(size):
            group = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            process = context.Process(target=_as_rank, args=(folder, group, target, arguments))
            process.start()
            self.processes.append(process)

    def codes(self) -> list[int | None]:
        """Exit codes, once all have ended."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]

    def printed(self, kind: str) -> list[str]:
        """What each wrote to `out` or `err`."""
        return [(self._folder / f"{rank}.{kind}").read_text() for rank in range(len(self.processes))]


def _as_rank(folder: Path, group: dict[str, object], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update({name: str(value) for name, value in group.items()})
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{group['RANK']}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    target(*arguments)


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Callable[..., Together]]:
    """`together(2, target, *arguments)` starts processes of one training; those that still run at the end are killed."""
    started: list[Together] = []

    def _start(size: int, target: Callable[..., None], *arguments: Any) -> Together:
        started.append(Together(tmp_path, size, target, *arguments))
        return started[-1]

    yield _start
    for one in started:
        for process in one.processes:
            process.kill()


KIND_HEADER = """
[encoder]
model = "scratch"
max_length = {max_length}
layers = 2
hidden_size = 16
heads = 2
vocab_size = 120

[train]
epochs = {epochs}
batch_size = 4
learning_rate = 1e-2
precision = "fp32"
device = "cpu"
output = "{output}"
"""


class Kind:
    """A folder with data, a configuration over it, and its run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"

    def rows(self, name: str, rows: list[dict]) -> None:
        """Writes a JSONL file."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.folder / name).write_text(text, encoding="utf-8")

    def config(self, tables: str, *, max_length: int = 24, epochs: int = 1):
        """The configuration with `tables`."""
        header = KIND_HEADER.format(max_length=max_length, epochs=epochs, output=self.run.as_posix())
        (self.folder / "tiny.toml").write_text(header + tables, encoding="utf-8")
        return load_config(self.folder / "tiny.toml")

    def train(self, tables: str, **options: int) -> Finished:
        """Trains to the end; the run's own configuration must read back."""
        events = list(train(self.config(tables, **options)))
        assert isinstance(events[-1], Finished)
        return events[-1]

    def serve(self) -> Pipeline:
        """Exports the run, which compares it, and opens the bundle as a server does."""
        sets = evaluation_sets(load_config(self.run / "config.toml"), "dev")
        manifest, _ = export_bundle(load_trained(self.run), sets, self.folder / "bundle", precision="fp32")
        assert all(gate.passed for gate in manifest.variants["plain"].gates)
        bundle = load_bundle(self.folder / "bundle")
        pipeline = Pipeline(bundle, select_engine(bundle, provider="CPU"))
        assert pipeline.golden_check() == len(bundle.golden) > 0
        return pipeline


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    return Kind(tmp_path)
