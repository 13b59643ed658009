"""grpc.channelz.v1: what gRPC itself counts of this process: servers, connections, streams.

Not the servicer of grpcio-channelz, of which only the messages are used: its 1.81, the last for protobuf 6, answers INTERNAL
where a newer grpcio tells something that they do not name.
"""

from collections.abc import Callable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.json_format import Parse
from google.protobuf.message import Message
from grpc._cython import cygrpc
from grpc_channelz.v1 import channelz_pb2 as pb

from palm_serve.errors import NotFound
from palm_serve.rpc.call_handling import Call

SERVICE = "grpc.channelz.v1.Channelz"
_METHODS = pb.DESCRIPTOR.services_by_name["Channelz"].methods_by_name
_ASK: dict[str, Callable[[Message], bytes]] = {
    "GetTopChannels": lambda asked: cygrpc.channelz_get_top_channels(asked.start_channel_id),
    "GetServers": lambda asked: cygrpc.channelz_get_servers(asked.start_server_id),
    "GetServer": lambda asked: cygrpc.channelz_get_server(asked.server_id),
    "GetServerSockets": lambda asked: cygrpc.channelz_get_server_sockets(
        asked.server_id, asked.start_socket_id, asked.max_results
    ),
    "GetChannel": lambda asked: cygrpc.channelz_get_channel(asked.channel_id),
    "GetSubchannel": lambda asked: cygrpc.channelz_get_subchannel(asked.subchannel_id),
    "GetSocket": lambda asked: cygrpc.channelz_get_socket(asked.socket_id),
}


class Channelz:
    """One method of the service."""

    def __init__(self, name: str) -> None:
        self._answer = getattr(pb, _METHODS[name].output_type.name)
        self._ask = _ASK[name]
        self.name = name
        self.request: type[Message] = getattr(pb, _METHODS[name].input_type.name)

    async def __call__(self, message: Message, call: Call) -> Message:
        """What gRPC tells. Raises NotFound for an id that is nobody's."""
        try:
            told = self._ask(message)
        except ValueError:
            raise NotFound("gRPC knows nobody of this id: it may have gone since it was listed") from None
        answer: Message = Parse(told, self._answer(), ignore_unknown_fields=True)
        return answer


def methods() -> list[Channelz]:
    """All of the service."""
    return [Channelz(name) for name in _ASK]


def files() -> list[FileDescriptor]:
    """The file that defines it, behind those that it imports: for reflection."""
    return [*pb.DESCRIPTOR.dependencies, pb.DESCRIPTOR]
