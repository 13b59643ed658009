"""A tiny vocabulary, tiny encoders and tiny files in PALM's formats, in the calls of the Python API."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import palm_trainer as palm
from palm_trainer.api import compat

TEXT = "fly to boston denver new york fare hotel in monday from the a b c d good bad film ? who is where it"
WORDS = TEXT.split()
SEPARATOR = "\x02"
SLOTS = [
    ("fly to boston", "O O B-city"),
    ("fly from new york", "O O B-city I-city"),
    ("fare to denver monday", "O O B-city B-day"),
    ("hotel in new york", "O O B-city I-city"),
]
LABEL_MAP = {"O": 0, "B-day": 1, "I-city": 2, "B-city": 3}
INTENTS = ["flight", "flight", "fare", "hotel"]


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every test see the warnings that come once in a process."""
    monkeypatch.setattr(compat, "_warned", set())


@pytest.fixture(scope="session")
def vocab_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789" if c not in WORDS]
    pieces = [*letters, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *pieces]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    """A BERT-style configuration as the original's JSON files have it."""
    return {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 100,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    }


def slot_file(folder: Path, rows: int = 8, name: str = "slot.tsv") -> Path:
    lines = ["text_a\tlabel"]
    for i in range(rows):
        words, tags = SLOTS[i % len(SLOTS)]
        lines.append(SEPARATOR.join(words.split()) + "\t" + SEPARATOR.join(tags.split()))
    return write(folder / name, lines)


def intent_file(folder: Path, rows: int = 8, name: str = "intent.tsv") -> Path:
    return write(folder / name, ["label\ttext_a", *(f"{INTENTS[i % 4]}\t{SLOTS[i % 4][0]}" for i in range(rows))])


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    """`files.slot(folder, rows)`, `files.intent(folder, rows)`, `files.write(path, lines)`, `files.label_map`."""
    return SimpleNamespace(slot=slot_file, intent=intent_file, write=write, label_map=LABEL_MAP)


@pytest.fixture
def article(tmp_path: Path, vocab_path: Path, config: dict[str, Any]) -> Callable[..., SimpleNamespace]:
    """`article(slot_rows=8, intent_rows=8, epochs=2, **plan)`: all of the article's calls but `train`, on tiny files."""

    def build(
        slot_rows: int = 8, intent_rows: int = 8, epochs: float = 2, batch: int = 4, fit: bool = True, **plan: Any
    ) -> SimpleNamespace:
        said: list[str] = []
        slot = palm.reader.SequenceLabelReader(vocab_path, 32, LABEL_MAP, seed=1)
        intent = palm.reader.ClassifyReader(vocab_path, 32, seed=1)
        slot.load_data(slot_file(tmp_path, slot_rows), file_format="tsv", num_epochs=None, batch_size=batch)
        intent.load_data(intent_file(tmp_path, intent_rows), batch_size=batch, num_epochs=None)
        ernie = palm.backbone.ERNIE.from_config(config)
        slot.register_with(ernie)
        intent.register_with(ernie)
        trainers = [palm.Trainer("slot"), palm.Trainer("intent")]
        trainer = palm.MultiHeadTrainer(trainers, say=said.append)
        trainers[1].build_forward(ernie, palm.head.Classify(3, 16, 0.1))
        trainers[0].build_forward(ernie, palm.head.SequenceLabel(4, 16, 0.1))
        adam = palm.optimizer.Adam(trainer.build_forward(), 5e-3)
        trainer.build_backward(optimizer=adam, weight_decay=0.01, device="cpu", precision="fp32")
        if fit:
            trainer.fit_readers_with_mixratio([slot, intent], "slot", epochs, **plan)
        return SimpleNamespace(
            trainer=trainer,
            slot=trainers[0],
            intent=trainers[1],
            readers=[slot, intent],
            backbone=ernie,
            said=said,
            adam=adam,
        )

    return build


@pytest.fixture
def single(tmp_path: Path, vocab_path: Path, config: dict[str, Any]) -> Callable[..., SimpleNamespace]:
    """`single(rows=8, batch=4, num_epochs=None)`: one classifier, ready to train."""

    def build(rows: int = 8, batch: int = 4, num_epochs: int | None = None, **backward: Any) -> SimpleNamespace:
        said: list[str] = []
        reader = palm.reader.ClassifyReader(vocab_path, 32, seed=1)
        reader.load_data(intent_file(tmp_path, rows), batch_size=batch, num_epochs=num_epochs)
        trainer = palm.Trainer("intent", say=said.append)
        bert = palm.backbone.BERT.from_config(config)
        adam = palm.optimizer.Adam(trainer.build_forward(bert, palm.head.Classify(3, 16)), 5e-3)
        trainer.build_backward(optimizer=adam, device="cpu", precision="fp32", **backward)
        batches = trainer.fit_reader(reader)
        return SimpleNamespace(trainer=trainer, reader=reader, backbone=bert, said=said, batches=batches, adam=adam)

    return build


@pytest.fixture
def json_file(tmp_path: Path) -> Iterator[Callable[[str, Any], Path]]:
    """`json_file(name, value)`."""

    def _write(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return _write
