"""Options of the connections."""

from pydantic import Field

from palm_serve.config.option_group import OptionGroup


class ConnectionOptions(OptionGroup):
    """Connections"""

    max_connections: int = Field(
        default=10_000,
        ge=1,
        description="Limit of open connections. It is lower where the process may open fewer files (ulimit -n).",
    )
    max_connections_per_address: int | None = Field(
        default=None,
        ge=0,
        description="Limit of open connections per client address. Default: a quarter of --max-connections. 0: no limit, "
        "for a server behind a proxy, which gives all clients its own address.",
    )
    max_streams: int = Field(
        default=2048,
        ge=1,
        description="Limit of calls in flight per connection. Further calls wait at the client. Only values above "
        "--max-calls-per-client let clients see refusals.",
    )
    max_metadata_kib: int = Field(
        default=16, ge=1, le=1024, description="Limit of the size of one call's headers in KiB."
    )
    handshake_timeout: float = Field(
        default=20.0, gt=0, description="Time limit for the TLS and HTTP/2 handshake of a new connection, in seconds."
    )
    message_timeout: float = Field(
        default=20.0,
        gt=0,
        description="Time limit for the first message of a call to arrive whole, in seconds.",
    )
    keepalive_time: float = Field(
        default=60.0,
        gt=0,
        description="Idle time after which the server sends a keepalive ping to a client, in seconds.",
    )
    keepalive_timeout: float = Field(
        default=20.0, gt=0, description="Time limit for the answer to a keepalive ping, in seconds."
    )
    min_ping_interval: float = Field(
        default=10.0,
        ge=0,
        description="Minimum interval between two pings of an idle client, in seconds. An earlier ping is a strike.",
    )
    max_ping_strikes: int = Field(
        default=2, ge=0, description="Number of ping strikes after which a connection is closed. 0: never."
    )
    max_connection_age: float = Field(
        default=3600.0,
        ge=0,
        description="Age in seconds at which clients are asked to reconnect, so that new replicas get their share. 0: never.",
    )
    max_connection_age_grace: float = Field(
        default=300.0,
        ge=0,
        description="Time limit for the calls and streams of such a connection to finish, in seconds.",
    )
    max_connection_idle: float = Field(
        default=900.0,
        ge=0,
        description="Idle time after which a connection without calls is closed, in seconds. 0: never.",
    )
