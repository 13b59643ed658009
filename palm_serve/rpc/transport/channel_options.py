"""What the server allows a connection, as options of grpc."""

import resource

from palm_serve.config import ServeOptions

_NEVER = 2**31 - 1
"""How grpc writes "never"."""
_KIB = 1024
_OTHER_FILES = 128
"""Descriptors that models, logs and metrics get to keep when connections take the rest."""

ChannelOptions = tuple[tuple[str, int], ...]


def channel_options(options: ServeOptions) -> ChannelOptions:
    """The options of `grpc.aio.server`."""
    metadata_bytes = options.max_metadata_kib * _KIB
    return (
        # Without it a second server on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.limits.message_bytes),
        ("grpc.max_allowed_incoming_connections", min(options.max_connections, _descriptors())),
        ("grpc.max_concurrent_streams", options.max_streams),
        # Where more wait to be handed over (1000, for certain 3000), grpc would answer CANCELLED to some, whoever sent them: nobody
        # asks again after that, and a flood over one connection would end the calls of others. Connections times streams bound what may wait.
        ("grpc.server.max_pending_requests", _NEVER),
        ("grpc.server.max_pending_requests_hard_limit", _NEVER),
        # Between the two grpc would refuse by chance.
        ("grpc.max_metadata_size", metadata_bytes),
        ("grpc.absolute_max_metadata_size", metadata_bytes),
        ("grpc.server_handshake_timeout_ms", _ms(options.handshake_timeout)),
        ("grpc.keepalive_time_ms", _ms(options.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _ms(options.keepalive_timeout)),
        # Without it grpc 1.85 waits for its own 60 s, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", _ms(options.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(options.min_ping_interval)),
        ("grpc.http2.max_ping_strikes", options.max_ping_strikes),
        ("grpc.max_connection_age_ms", _ms(options.max_connection_age) or _NEVER),
        ("grpc.max_connection_age_grace_ms", _ms(options.max_connection_age_grace)),
        ("grpc.max_connection_idle_ms", _ms(options.max_connection_idle) or _NEVER),
    )


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NEVER if soft == resource.RLIM_INFINITY else max(1, soft - _OTHER_FILES)


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), _NEVER)
