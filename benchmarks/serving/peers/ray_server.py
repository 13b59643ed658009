"""Ray Serve: a proxy process in front, replicas behind it. Its own gRPC, with the service palm_serve.v1 as PALM has it.

Flag: `direct` for calls that go to the replica's own port, past the proxy ("direct ingress"); the variables beside it switch that on.
"""

import asyncio
import signal
import tempfile
import threading
from typing import Any

import ray
from ray import serve
from shared import Answerer, free_port, settings

from palm_serve.v1 import palm_pb2 as pb

_MANY = 10_000


def deployment() -> Any:
    """The application."""
    given = settings()

    @serve.deployment(num_replicas=given.workers, max_ongoing_requests=_MANY, ray_actor_options={"num_cpus": 0})
    class Answers:
        """The engine part, in each replica."""

        def __init__(self) -> None:
            self._answer = Answerer(settings())

        @serve.batch(max_batch_size=given.rows, batch_wait_timeout_s=given.delay_ms / 1000)
        async def _batch(self, texts: list[str]) -> list[dict[str, Any]]:
            # Its guide: what blocks goes to a thread, so that the replica takes requests meanwhile.
            return await asyncio.to_thread(self._answer, texts)

        async def Parse(self, request: pb.ParseRequest) -> pb.ParseResponse:  # noqa: N802 (the method of the service)
            """One text."""
            found = await self._batch(request.text)
            return pb.ParseResponse(
                text=request.text,
                intent=pb.Label(name=found["intent"], confidence=found["ranking"][0][1]),
                ranking=[pb.Label(name=name, confidence=confidence) for name, confidence in found["ranking"]],
                slots=[
                    pb.Span(name=name, start=start, end=end, value=value, confidence=confidence)
                    for name, start, end, value, confidence in found["slots"]
                ],
                truncated=found["truncated"],
                seen=found["seen"],
            )

    return Answers.bind()


def begin(folder: str) -> None:
    """Starts Ray. Its parts give each other half a minute, which a busy machine may exceed; the second time they are in memory."""
    about = {"address": "local", "include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    for left in (1, 0):
        try:
            ray.init(num_cpus=4, object_store_memory=100 * 1024 * 1024, _temp_dir=folder, **about)
            return
        except Exception:  # it raises nothing more specific
            if not left:
                raise
            ray.shutdown()


def main() -> None:
    """Serves until it is ended."""
    given, over = settings(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # a longer path is too long for its sockets
        begin(folder)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": free_port()},
            grpc_options={
                "port": free_port() if "direct" in given.flags else given.port,
                "grpc_servicer_functions": ["palm_serve.v1.palm_pb2_grpc.add_DialogueUnderstandingServicer_to_server"],
            },
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        serve.run(deployment(), name="default", route_prefix="/")
        for number in (signal.SIGTERM, signal.SIGINT):  # only now: it sets handlers of its own
            signal.signal(number, lambda *_: over.set())
        over.wait()
        ray.shutdown()


if __name__ == "__main__":
    main()
