"""Limits of a connection as channel options of grpc."""

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.message_slots import WINDOW_BYTES
from palm_serve.rpc.transport.connection_limits import grpc_connection_limit

_NEVER = 2**31 - 1
"""Value of grpc for "never"."""
_KIB = 1024

ChannelOptions = tuple[tuple[str, int], ...]


def channel_options(options: ServeOptions, message_bytes: int | None = None) -> ChannelOptions:
    """Return the options of `grpc.aio.server`. `message_bytes` is the largest message. None: that of the options."""
    metadata_bytes = options.max_metadata_kib * _KIB
    return (
        # Otherwise a second server on the same port would silently receive half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_bytes or options.limits.message_bytes),
        # The probe would raise the window to several MiB. gRPC would then hold that much of each call that is not read.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.max_allowed_incoming_connections", grpc_connection_limit(options)),
        ("grpc.max_concurrent_streams", options.max_streams),
        # Above its limits (1000 and 3000 pending calls) grpc answers CANCELLED to calls of any client, and clients do not retry
        # after CANCELLED. So a flood over one connection would end calls of other clients. Connections times streams is the limit.
        ("grpc.server.max_pending_requests", _NEVER),
        ("grpc.server.max_pending_requests_hard_limit", _NEVER),
        # Between these two limits grpc refuses at random, so they are equal.
        ("grpc.max_metadata_size", metadata_bytes),
        ("grpc.absolute_max_metadata_size", metadata_bytes),
        ("grpc.server_handshake_timeout_ms", _ms(options.handshake_timeout)),
        ("grpc.keepalive_time_ms", _ms(options.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _ms(options.keepalive_timeout)),
        # Otherwise grpc 1.85 waits for its default of 60 s and ignores the option above.
        ("grpc.http2.ping_timeout_ms", _ms(options.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(options.min_ping_interval)),
        ("grpc.http2.max_ping_strikes", options.max_ping_strikes),
        ("grpc.max_connection_age_ms", _ms(options.max_connection_age) or _NEVER),
        ("grpc.max_connection_age_grace_ms", _ms(options.max_connection_age_grace)),
        ("grpc.max_connection_idle_ms", _ms(options.max_connection_idle) or _NEVER),
    )


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), _NEVER)
