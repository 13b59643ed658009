"""The service grpc.channelz.v1: statistics of gRPC about the servers, connections and streams of this process.

The servicer of grpcio-channelz is not used, only its messages. Its version 1.81, the last for protobuf 6, answers INTERNAL if
grpcio is newer and reports unknown fields.
"""

from collections.abc import Callable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.json_format import Parse
from google.protobuf.message import Message
from grpc._cython import cygrpc
from grpc_channelz.v1 import channelz_pb2 as pb

from palm_serve.errors import NotFound
from palm_serve.rpc.call import Call

SERVICE = "grpc.channelz.v1.Channelz"
_METHODS = pb.DESCRIPTOR.services_by_name["Channelz"].methods_by_name
_QUERIES: dict[str, Callable[[Message], bytes]] = {
    "GetTopChannels": lambda request: cygrpc.channelz_get_top_channels(request.start_channel_id),
    "GetServers": lambda request: cygrpc.channelz_get_servers(request.start_server_id),
    "GetServer": lambda request: cygrpc.channelz_get_server(request.server_id),
    "GetServerSockets": lambda request: cygrpc.channelz_get_server_sockets(
        request.server_id, request.start_socket_id, request.max_results
    ),
    "GetChannel": lambda request: cygrpc.channelz_get_channel(request.channel_id),
    "GetSubchannel": lambda request: cygrpc.channelz_get_subchannel(request.subchannel_id),
    "GetSocket": lambda request: cygrpc.channelz_get_socket(request.socket_id),
}


class ChannelzMethod:
    """One method of the service."""

    def __init__(self, name: str) -> None:
        self._response_class = getattr(pb, _METHODS[name].output_type.name)
        self._query = _QUERIES[name]
        self.name = name
        self.request: type[Message] = getattr(pb, _METHODS[name].input_type.name)

    async def __call__(self, message: Message, call: Call) -> Message:
        """Return the statistics. Raises NotFound for an unknown id."""
        try:
            content = self._query(message)
        except ValueError:
            raise NotFound(
                "no channel, server or socket has this id. It may have been closed since it was listed."
            ) from None
        response: Message = Parse(content, self._response_class(), ignore_unknown_fields=True)
        return response


def methods() -> list[ChannelzMethod]:
    """Return all methods of the service."""
    return [ChannelzMethod(name) for name in _QUERIES]


def files() -> list[FileDescriptor]:
    """Return the .proto file of the service after the files that it imports, for reflection."""
    return [*pb.DESCRIPTOR.dependencies, pb.DESCRIPTOR]
