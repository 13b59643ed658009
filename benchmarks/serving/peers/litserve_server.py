"""LitServe: FastAPI in front, worker processes behind a queue. HTTP, JSON.

Flags: `zmq` for its `fast_queue`, which replaces the queue of multiprocessing by ZeroMQ.
"""

import litserve
from shared import Answerer, settings


class Answers(litserve.LitAPI):
    """The engine part, in each worker process."""

    def setup(self, device: str) -> None:
        """Opens the engine."""
        self._answer = Answerer(settings())

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """As it is: no tensor."""
        return inputs

    def predict(self, x: list[str]) -> list[dict[str, object]]:
        """A batch."""
        return self._answer(x)

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        """As it is."""
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """As it is: the framework makes JSON of it."""
        return output


if __name__ == "__main__":
    given = settings()
    api = Answers(max_batch_size=given.rows, batch_timeout=given.delay_ms / 1000)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=given.workers, timeout=30, fast_queue="zmq" in given.flags
    )
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
    )
