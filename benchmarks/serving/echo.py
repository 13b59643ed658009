"""An asyncio gRPC service that answers every unary call with an empty message at once: what a call costs without any work."""

import asyncio

import grpc


class Echo(grpc.GenericRpcHandler):
    """Every method of every service."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The same handler for all."""
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return b""


async def main() -> None:
    """Serves until it is ended."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}\nready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
