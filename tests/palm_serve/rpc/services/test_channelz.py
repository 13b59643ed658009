"""grpc.channelz.v1 with --channelz, used by an unmodified client."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name


def test_channelz_counts_calls_of_a_connection(make_rpc_server: Callable[..., RunningServer]) -> None:
    """The statistics lead from the server to its listener, its connections and their streams."""
    rpc_server = make_rpc_server(channelz=True)
    stub = channelz_pb2_grpc.ChannelzStub(rpc_server.channel)
    for _ in range(3):
        stubs.DialogueUnderstandingStub(rpc_server.channel).Parse(pb.ParseRequest(text="a"))
    # Other tests' servers may still live in this process; ours is the last that was made.
    server = stub.GetServers(channelz_pb2.GetServersRequest()).server[-1]
    number = server.ref.server_id
    assert stub.GetServer(channelz_pb2.GetServerRequest(server_id=number)).server.ref == server.ref
    assert server.data.calls_started >= 3
    (ref,) = stub.GetServerSockets(channelz_pb2.GetServerSocketsRequest(server_id=number)).socket_ref
    socket = stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=ref.socket_id)).socket
    assert socket.data.streams_started >= 5
    assert socket.local.tcpip_address.port == int(rpc_server.target.rpartition(":")[2])


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1])
def test_channelz_unknown_id_is_not_found(rpc_server: RunningServer, number: int) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(rpc_server.channel)
    for ask, request in (
        (stub.GetServer, channelz_pb2.GetServerRequest(server_id=number)),
        (stub.GetServerSockets, channelz_pb2.GetServerSocketsRequest(server_id=number)),
        (stub.GetChannel, channelz_pb2.GetChannelRequest(channel_id=number)),
        (stub.GetSubchannel, channelz_pb2.GetSubchannelRequest(subchannel_id=number)),
        (stub.GetSocket, channelz_pb2.GetSocketRequest(socket_id=number)),
    ):
        with pytest.raises(grpc.RpcError, match="no channel, server or socket has this id") as caught:
            ask(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_channelz_is_off_by_default(make_rpc_server: Callable[..., RunningServer]) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(make_rpc_server().channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetServers(channelz_pb2.GetServersRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
