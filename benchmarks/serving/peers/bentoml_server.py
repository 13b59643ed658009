"""BentoML: uvicorn and Starlette, adaptive batching before the service. HTTP, JSON."""

import os
import sys
from typing import Any

import bentoml
from shared import Answerer, settings

given = settings()


@bentoml.service(
    name="model",
    workers=given.workers,
    traffic={"timeout": 30, "max_concurrency": 100_000},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Answers:
    """The engine part, in each worker process."""

    def __init__(self) -> None:
        self._answer = Answerer(given)

    @bentoml.api(batchable=True, max_batch_size=given.rows, max_latency_ms=30_000)
    def parse(self, texts: list[str]) -> list[dict[str, Any]]:
        """A batch. How long it waits is the framework's own choice, within the latency that it is given."""
        return self._answer(texts)


if __name__ == "__main__":
    command = ["serve", "bentoml_server:Answers", "--host", "127.0.0.1", "--port", str(given.port)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
