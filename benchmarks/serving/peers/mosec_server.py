"""mosec: a Rust front that batches, Python worker processes behind it. HTTP, JSON."""

import sys

import mosec
from shared import Answerer, settings


class Answers(mosec.Worker):
    """The engine part, in each worker process."""

    def __init__(self) -> None:
        self._answer = Answerer(settings())

    def forward(self, data: list[dict[str, str]]) -> list[dict[str, object]]:
        """A batch."""
        return self._answer([item["text"] for item in data])


if __name__ == "__main__":
    given = settings()
    # Its own default ends a request after 3 s.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(given.port), "--timeout", "30000", "--log-level", "error"]
    server = mosec.Server()
    server.append_worker(
        Answers, num=given.workers, max_batch_size=given.rows, max_wait_time=max(1, round(given.delay_ms))
    )
    server.run()
