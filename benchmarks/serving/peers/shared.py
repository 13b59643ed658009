"""What every peer runs behind its own transport and batching: PALM's tokenization, engine call and decoding, as a library.

Runs in the peers' environments, so it imports nothing but the engine part of `palm_serve`.
"""

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from palm_serve.batching import BatchLimits
from palm_serve.bundle.loader import Bundle, load_bundle
from palm_serve.bundle.manifest import Manifest
from palm_serve.engine.providers import select_engine
from palm_serve.errors import InvalidRequest
from palm_serve.pipeline import Pipeline
from palm_serve.types import Classification, Prediction, Spans, TextRequest

VARIABLE = "PALM_PEER"
"""Holds the settings of a server. Its processes are known by it, too."""

_TOP = 3


@dataclass(frozen=True)
class Settings:
    """What a peer's server is started with."""

    bundle: str
    provider: str
    precision: str
    port: int
    rows: int = 64
    """Texts of a batch at most."""
    delay_ms: float = 0.0
    """How long a batch may wait for more texts."""
    workers: int = 1
    """Processes with an engine each."""
    threads: int | None = None
    """Of each engine; None: what PALM takes."""
    flags: tuple[str, ...] = ()
    """What the peer alone knows; its server file explains them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of its processes; `{port}` stands for the port."""
    token: str = ""
    """Tells the processes of this server from all others."""

    def variables(self) -> dict[str, str]:
        """The environment that `settings` reads, and the further one."""
        further = {name: value.format(port=self.port) for name, value in self.environment.items()}
        return {VARIABLE: json.dumps(asdict(self), sort_keys=True), **further}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings() -> Settings:
    """Of this server."""
    content = json.loads(os.environ[VARIABLE])
    return Settings(**(content | {"flags": tuple(content["flags"])}))


def tasks_of(manifest: Manifest) -> tuple[str, ...]:
    """The tasks with the roles intent and slots: what is asked of every server."""
    found = (manifest.task_with_role("intent"), manifest.task_with_role("slots"))
    return tuple(name for name in found if name is not None)


class Answerer:
    """Answers the texts of a batch in one engine call, in the order in which the peer put them together. One batch at a time."""

    def __init__(self, given: Settings) -> None:
        bundle: Bundle = load_bundle(Path(given.bundle))
        engine = select_engine(bundle, given.provider, given.precision, given.threads)
        self._pipeline = Pipeline(bundle, engine)
        self._pipeline.warm_up(BatchLimits(max_rows=given.rows))
        self._tasks = tasks_of(bundle.manifest)
        self._busy = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """What Parse answers, for JSON. Raises InvalidRequest for an empty text."""
        works = []
        for work in self._pipeline.prepare_many([TextRequest(text, self._tasks, top_k=_TOP) for text in texts]):
            if isinstance(work, InvalidRequest):
                raise work
            works.append(work)
        with self._busy:
            predictions = self._pipeline.run(works)
        return [self._content(prediction) for prediction in predictions]

    def _content(self, prediction: Prediction) -> dict[str, Any]:
        found: dict[str, Any] = {"truncated": prediction.truncated, "seen": prediction.seen}
        for name in self._tasks:
            match prediction.answers[name]:
                case Classification(label, ranking):
                    found["intent"] = label.name
                    found["ranking"] = [[other.name, other.confidence] for other in ranking[:_TOP]]
                case Spans(spans):
                    found["slots"] = [[s.name, s.start, s.end, s.value, s.confidence] for s in spans]
        return found
