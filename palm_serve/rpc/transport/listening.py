"""Addresses that a server listens on: TCP ports and Unix sockets."""

import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from palm_serve.errors import BindError
from palm_serve.system.addresses import UNIX, UNIX_ABSTRACT, is_unix, socket_path

log = logging.getLogger(__name__)

_MAX_PATH_BYTES = 107
"""Limit of the path of a Unix socket, of the operating system."""
_CONNECT_S = 5.0

LocalName = int | str | bytes
"""What the operating system calls a listening socket: a port, a path, or bytes that begin with a zero."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that a server listens on."""

    address: str
    """The address as printed."""
    local_name: LocalName
    """Name of the socket, and of the connections that it accepts."""
    path: Path | None = None
    """File of a Unix socket."""
    inode: tuple[int, int] = (0, 0)
    """Identity of that file."""

    def remove(self) -> None:
        """Remove the file of a Unix socket, unless another server has replaced it."""
        if self.path is None:
            return
        with suppress(FileNotFoundError):
            if _inode(self.path) == self.inode:
                self.path.unlink()


def listen(
    server: grpc.aio.Server,
    host: str,
    port: int,
    option: str,
    *,
    mode: int = 0o600,
    credentials: grpc.ServerCredentials | None = None,
) -> Listener:
    """Let a server listen on an address.

    Args:
        server: the server.
        host: IP address, host name, `unix:PATH` or `unix-abstract:NAME`.
        port: TCP port. 0: any free one.
        option: option of the port, for the message.
        mode: permissions of a Unix socket.
        credentials: certificate of the server. None: plain text.

    Raises:
        BindError: if the address cannot be listened on.
    """

    def add(address: str) -> int:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))

    path = socket_path(host)
    if path:
        return _listen_on_file(add, Path(path), mode)
    if is_unix(host):
        try:
            add(host)
        except RuntimeError:
            raise BindError(
                f"cannot listen on {host}: another process listens on it, or the name is longer than {_MAX_PATH_BYTES} bytes."
            ) from None
        return Listener(host, b"\0" + os.fsencode(host.removeprefix(UNIX_ABSTRACT)))
    name = host.strip("[]")
    name = f"[{name}]" if ":" in name else name
    try:
        chosen_port = add(f"{name}:{port}")
    except RuntimeError:
        raise BindError(
            f"cannot listen on {name}:{port}: the port is in use or not allowed, or the host is not an address of this machine. "
            f"Choose another {option} or --host."
        ) from None
    return Listener(f"{name}:{chosen_port}", chosen_port)


def _listen_on_file(add: Callable[[str], int], path: Path, mode: int) -> Listener:
    """Listen on a Unix socket. The file appears under its name with its permissions, and replaces that of a dead server."""
    # gRPC would take over the socket of a running server. So it gets a name of its own, which is renamed.
    temporary = path.with_name(f".palm-{os.getpid()}")
    _check_length(path, temporary)
    _check_unused(path)
    former_umask = os.umask(0o777 & ~mode)
    try:
        _check_folder(path, temporary)
        add(f"{UNIX}{temporary}")
        temporary.chmod(mode)
        inode = _inode(temporary)
        temporary.replace(path)
    except RuntimeError:
        raise BindError(f"cannot listen on {UNIX}{path}: the socket cannot be opened. Choose another --host.") from None
    finally:
        os.umask(former_umask)
    return Listener(f"{UNIX}{path}", str(temporary), path, inode)


def _check_length(path: Path, temporary: Path) -> None:
    size = len(os.fsencode(path))
    if max(size, len(os.fsencode(temporary))) > _MAX_PATH_BYTES:
        raise BindError(
            f"the path of a Unix socket must have at most {_MAX_PATH_BYTES} bytes, and its directory a few less, got {size}: {path}. "
            "Choose a shorter one, such as /run/palm/palm.sock."
        )


def _check_unused(path: Path) -> None:
    """Check that nothing else than a socket on which nobody listens has this name. Raises BindError."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return  # absent; another reason is told when the socket is made
    if not is_socket:
        raise BindError(
            f"cannot listen on {UNIX}{path}: it exists and is not a socket. Remove it, or choose another --host."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            log.debug("%s answers a connection with %s", path, error)
    raise BindError(f"cannot listen on {UNIX}{path}: another process listens on it. Stop it, or choose another --host.")


def _check_folder(path: Path, temporary: Path) -> None:
    """Check that a socket can be made in the directory. gRPC does not say why it cannot. Raises BindError."""
    try:
        temporary.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(str(temporary))
        temporary.unlink()
    except OSError as error:
        raise BindError(
            f"cannot listen on {UNIX}{path}: {error.strerror}. The server must be able to write to the directory {path.parent}."
        ) from None


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
