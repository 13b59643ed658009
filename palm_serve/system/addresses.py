"""Addresses to listen on and to call: those of this machine, Unix sockets, and the proxies of the environment."""

import ipaddress
import re
import urllib.parse

UNIX = "unix:"
"""Prefix of a Unix socket that is a file."""
UNIX_ABSTRACT = "unix-abstract:"
"""Prefix of a Unix socket that has a name and no file."""
NO_PROXY: tuple[tuple[str, int | str], ...] = (
    # http_proxy, https_proxy and grpc_proxy
    ("grpc.enable_http_proxy", 0),
    # GRPC_ADDRESS_HTTP_PROXY, which the option above does not switch off
    ("grpc.address_http_proxy_enabled_addresses", ""),
)
"""Options of a gRPC channel that ignores the proxies of the environment."""

# `dns://SERVER/NAME` is not among them: the DNS server decides what the name means.
_SCHEME = re.compile(r"(dns:(///|/)?|ipv[46]:)(?=[^/])")


def is_unix(address: str) -> bool:
    """Return true if an address is a Unix socket."""
    return address.startswith((UNIX, UNIX_ABSTRACT))


def socket_path(address: str) -> str:
    """Return the path of a `unix:PATH` or `unix:///PATH`, or "" if the address is not a file."""
    if not address.startswith(UNIX):
        return ""
    path = address.removeprefix(UNIX)
    return path.removeprefix("//") if path.startswith("///") else path


def is_loopback(host: str) -> bool:
    """Return true if a host, an IP address or a name, is reached from this machine only."""
    address = _ip_address(host)
    if address is None:
        return host.lower().rstrip(".") == "localhost"
    return address.is_loopback


def browser_url(url: str) -> str:
    """Return the URL by which a browser of this machine reaches a server that listens on a URL."""
    split_url = urllib.parse.urlsplit(url)
    address = _ip_address(split_url.hostname or "")
    if address is not None and address.is_unspecified:
        return f"{split_url.scheme}://localhost:{split_url.port}/"
    return f"{url}/"


def is_local_target(target: str) -> bool:
    """Return true if a gRPC name, with all of its addresses, refers to this machine.

    Names other than `localhost` do not count, because what they mean may change.
    """
    if is_unix(target):
        return True
    addresses = urllib.parse.unquote(_SCHEME.sub("", target, count=1)).split(",")
    return all(map(_is_local_host, map(host_of, addresses)))


def proxy_options(target: str, use_proxy: bool = True) -> tuple[tuple[str, int | str], ...]:
    """Return the channel options that keep calls away from the proxies of the environment.

    A proxy would read the calls, and cannot reach this machine's loopback address.

    Args:
        target: gRPC name of the server.
        use_proxy: let gRPC use a proxy if the target is another machine.
    """
    return () if use_proxy and not is_local_target(target) else NO_PROXY


def _is_local_host(host: str) -> bool:
    address = _ip_address(host)
    # Connecting to 0.0.0.0 or :: connects to this machine.
    return is_loopback(host) if address is None else address.is_loopback or address.is_unspecified


def host_of(address: str) -> str:
    """Return the host of `HOST`, `HOST:PORT` or `[HOST]:PORT`."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, port = address.rpartition(":")
    # Otherwise it is an IPv6 address without brackets.
    return host if host and ":" not in host and port.isalnum() else address.removesuffix(":")


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
