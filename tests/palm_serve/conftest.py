"""A real bundle of three tasks that is built in milliseconds without torch.

Every piece has one row in an embedding whose columns are the scores themselves: [intent C | slots T | sentiment 2].
Emissions are the slot columns of each piece; intent and sentiment sum theirs over the attention mask. So answers are
known by looking at WORDS.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from palm_serve.bundle.loader import PROOF, load_bundle
from palm_serve.bundle.manifest import (
    Calibration,
    Decode,
    EncoderInfo,
    Gate,
    GraphVariant,
    Manifest,
    TaskInfo,
    TensorInfo,
    tasks_digest,
)
from palm_serve.bundle.proof import proof_bytes
from palm_serve.engine.session import open_engine
from palm_serve.proof.predictor import EnginePredictor
from palm_serve.proof.recording import record_proof
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import InputTexts

INTENTS = ("flight", "weather", "music", "greeting")
TAGS = ("O", "B-city", "I-city", "B-day", "I-day", "B-artist", "I-artist")
SENTIMENTS = ("negative", "positive")

# word -> the labels that it votes for
WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("show", "me", "from", "to", "on", "the", "in", "is", "what", "a"), ()),
    **dict.fromkeys(("flight", "flights", "fly"), ("flight",)),
    **dict.fromkeys(("play", "song"), ("music",)),
    **dict.fromkeys(("hello", "hi"), ("greeting", "positive")),
    **dict.fromkeys(("boston", "denver", "new", "san", "北"), ("B-city",)),
    **dict.fromkeys(("york", "francisco", "京"), ("I-city",)),
    **dict.fromkeys(("please", "great"), ("positive",)),
    "weather": ("weather",),
    "rain": ("weather", "negative"),
    "awful": ("negative",),
    "monday": ("B-day",),
    "next": ("B-day",),
    "week": ("I-day",),
    "adele": ("B-artist",),
}
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,!?'&-"
VOCABULARY = [
    *SPECIALS,
    *WORDS,
    *(c for c in CHARACTERS if c not in WORDS),
    *("##" + c for c in CHARACTERS),
    *PUNCTUATION,
]

GOLDEN: list[dict[str, Any]] = [
    {
        "text": "please show me flights from boston to new york on monday",
        "pair": None,
        "answers": {
            "intent": {"label": "flight"},
            "slots": {
                "spans": [
                    {"name": "city", "start": 28, "end": 34},
                    {"name": "city", "start": 38, "end": 46},
                    {"name": "day", "start": 50, "end": 56},
                ]
            },
            "sentiment": {"label": "positive"},
        },
    },
    {
        "text": "please play a song",
        "pair": None,
        "answers": {"intent": {"label": "music"}, "slots": {"spans": []}, "sentiment": {"label": "positive"}},
    },
    {
        "text": "is the weather awful in 北京 next week?",
        "pair": None,
        "answers": {
            "intent": {"label": "weather"},
            "slots": {"spans": [{"name": "city", "start": 24, "end": 26}, {"name": "day", "start": 27, "end": 36}]},
            "sentiment": {"label": "negative"},
        },
    },
]


def tiny_tokenizer() -> Tokenizer:
    """Create a lower-casing WordPiece tokenizer with VOCABULARY, as BERT's."""
    vocabulary = {piece: i for i, piece in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return tokenizer


def tiny_tasks() -> dict[str, TaskInfo]:
    """Create the tasks: intent, slots with a CRF, and sentiment without a role."""
    arrays = {role: f"slots.{role}" for role in ("transitions", "start", "end")}
    return {
        "intent": TaskInfo(kind="classify", role="intent", outputs=("intent.logits",), labels=INTENTS),
        "slots": TaskInfo(
            kind="sequence_label",
            role="slots",
            outputs=("slots.logits",),
            labels=TAGS,
            decode=Decode(scheme="BIO", crf=True, arrays=arrays, value_punctuation="'"),
        ),
        "sentiment": TaskInfo(
            kind="classify", outputs=("sentiment.logits",), labels=SENTIMENTS, calibration=Calibration(temperature=1.5)
        ),
    }


def tiny_graph(token_types: bool, digest: str) -> onnx.ModelProto:
    """Create the graph. Token type ids change no score."""
    columns = (*INTENTS, *TAGS, *SENTIMENTS)
    table = np.zeros((len(VOCABULARY), len(columns)), dtype=np.float32)
    table[:, columns.index("O")] = 4.0
    for word, votes in WORDS.items():
        for label in votes:
            table[VOCABULARY.index(word), columns.index(label)] = 8.0
    edges = np.cumsum([0, len(INTENTS), len(TAGS), len(SENTIMENTS)])
    eye = np.eye(len(columns), dtype=np.float32)
    weights = {
        "table": table,
        **{name: eye[:, edges[i] : edges[i + 1]] for i, name in enumerate(("w_intent", "w_slots", "w_sentiment"))},
        "last_axis": np.array([-1], dtype=np.int64),
        "sequence_axis": np.array([1], dtype=np.int64),
        "half": np.array(0.5, dtype=np.float32),
    }
    embedding = [helper.make_node("Gather", ["table", "input_ids"], ["words"])]
    if token_types:
        weights["types"] = np.zeros((2, len(columns)), dtype=np.float32)
        embedding += [
            helper.make_node("Gather", ["types", "token_type_ids"], ["sides"]),
            helper.make_node("Add", ["words", "sides"], ["hidden"]),
        ]
    else:
        embedding.append(helper.make_node("Identity", ["words"], ["hidden"]))
    nodes = [
        *embedding,
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask3"]),
        helper.make_node("Mul", ["hidden", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "sequence_axis"], ["summed"], keepdims=0),
        helper.make_node("Mul", ["summed", "half"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "w_intent"], ["intent.logits"]),
        helper.make_node("MatMul", ["hidden", "w_slots"], ["slots.logits"]),
        helper.make_node("MatMul", ["pooled", "w_sentiment"], ["sentiment.logits"]),
    ]
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
        [
            helper.make_tensor_value_info("intent.logits", TensorProto.FLOAT, ["batch", len(INTENTS)]),
            helper.make_tensor_value_info("slots.logits", TensorProto.FLOAT, ["batch", "sequence", len(TAGS)]),
            helper.make_tensor_value_info("sentiment.logits", TensorProto.FLOAT, ["batch", len(SENTIMENTS)]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {"palm.digest": digest})
    return model


TINY_ENCODER = EncoderInfo(
    family="bert", name="tiny", layers=0, hidden_size=13, vocab_size=len(VOCABULARY), parameters=1, pad_token_id=0
)


def write_tiny_bundle(
    path: Path, name: str = "tiny", max_length: int = 24, token_types: bool = True, gates: tuple[Gate, ...] = ()
) -> Path:
    """Write a complete bundle into the new directory `path`. `gates` belong to the plain variant."""
    path.mkdir(parents=True)
    tokenizer_json = tiny_tokenizer().to_str().encode()
    (path / "tokenizer.json").write_bytes(tokenizer_json)
    tasks = tiny_tasks()
    onnx.save(tiny_graph(token_types, tasks_digest(tasks, tokenizer_json)), path / "model.onnx")
    drift = np.random.default_rng(7).normal(0, 0.1, (len(TAGS) + 2, len(TAGS))).astype(np.float32)
    np.savez(path / "decode.npz", **{"slots.transitions": drift[2:], "slots.start": drift[0], "slots.end": drift[1]})
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in GOLDEN)
    (path / "golden.jsonl").write_text("".join(lines), encoding="utf-8")
    (path / "README.md").write_text("# tiny\n\nA bundle for tests.\n", encoding="utf-8")
    inputs = ("input_ids", "attention_mask", *(("token_type_ids",) if token_types else ()))
    manifest = Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        encoder=EncoderInfo(
            family="bert",
            name="tiny",
            layers=0,
            hidden_size=13,
            vocab_size=len(VOCABULARY),
            parameters=1,
            pad_token_id=0,
        ),
        max_length=max_length,
        inputs=tuple(TensorInfo(name=name) for name in inputs),
        tasks=tasks,
        variants={"plain": GraphVariant(file="model.onnx", size=(path / "model.onnx").stat().st_size, gates=gates)},
        files={"model.onnx": ""},
    )
    (path / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return seal_bundle(path)


def seal_bundle(path: Path, **changes: Any) -> Path:
    """Write the manifest with `changes`, current checksums of the files, and the resulting version."""
    content = json.loads((path / "manifest.json").read_text(encoding="utf-8")) | changes
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in ("manifest.json", "manifest.sig"))
    content["files"] = {p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    manifest = Manifest.model_validate(content)
    manifest = manifest.model_copy(update={"version": manifest.digest()})
    (path / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    return path


PROOF_TEXTS = tuple(
    f"{verb} {first} {second} number {number}"
    for number in range(9)
    for verb in ("please show me flights", "play a song", "is the weather awful")
    for first in ("in boston", "from new york", "next week", "on monday")
    for second in ("to boston", "good", "bad", "now")
)
"""432 texts, of which each of the 3 tasks answers all: 1,296 answers."""


@dataclass
class ProofText:
    """A dev example of a proof."""

    inputs: InputTexts


def add_proof(path: Path, texts: Sequence[str] = PROOF_TEXTS) -> Path:
    """Record the proof of a bundle from its own graph in fp32, and seal the bundle."""
    bundle = load_bundle(path)
    tokenizer = TextTokenizer(bundle.tokenizer_json, bundle.manifest.max_length)
    engine = open_engine(bundle.graph(), "CPU", "fp32", 1)
    predictor = EnginePredictor.from_bundle(bundle, engine, tokenizer, ["slots.logits"])
    examples = [ProofText(InputTexts(text)) for text in texts]
    proof = record_proof(predictor, examples, bundle.manifest.encoder, [True] * len(examples))
    (path / PROOF).write_bytes(proof_bytes(proof))
    return seal_bundle(path)


LOGGERS = ("palm_serve", "palm_serve.access", "asyncio", "grpc", "opentelemetry")


@pytest.fixture(autouse=True)
def restored_loggers() -> Iterator[None]:
    """Restore the loggers that `configure_logging` changes: commands that run in this process call it."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    states = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, states, strict=True):
        logger.handlers[:] = handlers
        logger.propagate = propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the shared bundle `tiny`. Tests must not write to it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def proven_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a bundle with a proof. Tests must not write to it."""
    return add_proof(write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "proven", name="proven"))


@pytest.fixture(scope="session")
def make_proven_bundle() -> Callable[[Path], Path]:
    """Return a function that writes a bundle with a proof into a new directory."""
    return lambda path: add_proof(write_tiny_bundle(path, name="proven"))


@pytest.fixture(scope="session")
def make_tiny_bundle() -> Callable[..., Path]:
    """Return `write_tiny_bundle(path, name=..., max_length=..., token_types=..., gates=...)`."""
    return write_tiny_bundle


@pytest.fixture(scope="session")
def reseal_bundle() -> Callable[..., Path]:
    """Return `seal_bundle(path, **manifest_changes)`, which updates checksums and version of an edited bundle."""
    return seal_bundle


START_LIMIT_S = 300.0
"""Seconds after which a server that prints nothing new counts as hung. On a loaded machine its start takes a minute."""


class Process:
    """A `palm-serve run` process. Its output is collected."""

    def __init__(
        self, *arguments: str | Path, before: tuple[str, ...] = (), env: dict[str, str] | None = None, **options: Any
    ) -> None:
        command = [*before, sys.executable, "-m", "palm_serve.cli", "run", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **(pipes | options))
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=lambda: self.lines.extend(self.process.stdout or ())),
            threading.Thread(target=lambda: self.errors.extend(self.process.stderr or ())),
        ]
        for reader in self._readers:
            reader.start()

    def wait_for(self, pattern: str, seconds: float = START_LIMIT_S) -> str:
        """Wait for a line of the output and return the first group of its match."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in [*self.lines]:
                if found := re.search(pattern, line):
                    return found[1] if found.groups() else found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no line like {pattern}: {self.lines} {self.errors}")

    def target(self) -> str:
        """Wait until the server is ready and return its address."""
        self.wait_for("ready;")
        return self.wait_for(r"^palm-serve: listening on (127\.0\.0\.1:\d+)$")

    def stop(self) -> None:
        """Kill the process if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.finish()

    def finish(self, seconds: float = 60) -> int:
        """Wait for the end of the process and return its exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


def _servers() -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def begin(*arguments: str | Path, **options: Any) -> Process:
        running.append(Process(*arguments, *(() if "--port" in arguments else ("--port", "0")), **options))
        return running[-1]

    yield begin
    for process in running:
        process.stop()


@pytest.fixture
def start_server() -> Iterator[Callable[..., Process]]:
    """Return `start_server(BUNDLE, *options, before=..., env=..., **POPEN)`, which starts a server on a free port."""
    yield from _servers()


@pytest.fixture(scope="module")
def start_shared_server() -> Iterator[Callable[..., Process]]:
    """Return `start_server` for a server that the tests of a module share."""
    yield from _servers()


@pytest.fixture(scope="session")
def tiny_server(tiny_bundle: Path) -> Iterator[str]:
    """Run a shared server of `tiny_bundle` and return its address. It must exit cleanly."""
    # Calls that tests let expire are told as warnings.
    options = ("--max-queue", "20000", "--drain-grace", "0", "--log-level", "error")
    process = Process(tiny_bundle, "--port", "0", *options)
    try:
        yield process.target()
        process.process.send_signal(signal.SIGINT)
        assert process.finish() == 0, process.errors
    finally:
        process.stop()
    assert process.errors == []


AUTHORITY = """[ca]
default_ca = local
[local]
new_certs_dir = .
database = index.txt
serial = serial
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[extensions]
basicConstraints = CA:true
subjectAltName = {names}
"""


@pytest.fixture
def make_certificate(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return `make_certificate(name, begin_s, end_s, names)`, which creates a self-signed certificate and its key.

    It is valid from `begin_s` to `end_s` seconds from now.
    """
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")

    def make(
        name: str, begin_s: float = -60, end_s: float = 30 * 86400, names: str = "DNS:localhost,IP:127.0.0.1"
    ) -> tuple[Path, Path]:
        folder = tmp_path / f"authority-{name}"
        folder.mkdir()
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        (folder / "openssl.cnf").write_text(AUTHORITY.format(names=names))
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000")
        dates = [time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds)) for seconds in (begin_s, end_s)]
        create_key = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key]
        request = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", "request"]
        sign = ["openssl", "ca", "-config", "openssl.cnf", "-selfsign", "-keyfile", key, "-in", "request", "-batch"]
        validity = ["-notext", "-startdate", dates[0], "-enddate", dates[1], "-out", certificate]
        for command in (create_key, request, [*sign, *validity]):
            subprocess.run(command, check=True, capture_output=True, cwd=folder)
        return certificate, key

    return make
