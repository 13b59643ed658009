"""A grpc.aio service without any code of PALM: answers Parse and ParseStream after two milliseconds. What it loses in a soak, grpc loses.

python benchmarks/serving/bare.py [CERTIFICATE.pem KEY.pem]
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

_WORK_S = 0.002
_ANSWER = bytes(300)


class Bare(grpc.GenericRpcHandler):
    """Every method of every service. Those whose name ends with Stream have streams."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of a method."""
        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(_WORK_S)
        return _ANSWER

    async def _stream(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for _ in messages:
            await asyncio.sleep(_WORK_S)
            yield _ANSWER


async def main(files: list[str]) -> None:
    """Serve until the process is ended. `files`: certificate and key; empty: without TLS."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((Bare(),))
    if files:
        certificate, key = (Path(file).read_bytes() for file in files)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}\nready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
