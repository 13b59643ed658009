"""Filters of the operating system before listening sockets: packets of blocked addresses are dropped before gRPC sees them.

gRPC accepts every connection and reads its calls at once. A connection that is closed a moment later has brought hundreds.

Source: kernel.org/doc/html/latest/networking/filter.html (classic BPF).
"""

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence

MAX_ADDRESSES = 64
"""Addresses that a filter can hold."""

_ATTACH_FILTER = 26
_DETACH_FILTER = 27
"""Options of Linux, which Python does not name."""
_NETWORK_HEADER = -0x100000
_SOURCE_4 = _NETWORK_HEADER + 12
_SOURCE_6 = _NETWORK_HEADER + 8
_LOAD_WORD, _LOAD_BYTE, _SHIFT_RIGHT, _JUMP, _JUMP_EQUAL, _RETURN = 0x20, 0x30, 0x74, 0x05, 0x15, 0x06
_DROP = 0
_PASS = 0xFFFFFFFF
_INSTRUCTION = struct.Struct("=HBBI")


def set_filter(listener: socket.socket, addresses: Sequence[str]) -> None:
    """Drop the packets to a listening socket that come from these addresses. It replaces the former filter.

    Args:
        listener: a socket that listens for TCP connections.
        addresses: IPv4 addresses, and networks of IPv6 addresses with a prefix of 64 bits. At most MAX_ADDRESSES.

    Raises:
        OSError: the operating system does not take a filter.
    """
    if not addresses:
        listener.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        return
    program = b"".join(_program(addresses))
    buffer = ctypes.create_string_buffer(program, len(program))
    length = len(program) // _INSTRUCTION.size
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", length, ctypes.addressof(buffer)))


def _program(addresses: Iterable[str]) -> list[bytes]:
    """Return the instructions of a filter."""
    checks_4: list[bytes] = [_instruction(_LOAD_WORD, _SOURCE_4)]
    checks_6: list[bytes] = []
    for address in addresses:
        network = ipaddress.ip_network(address)
        if isinstance(network, ipaddress.IPv4Network):
            checks_4.append(_instruction(_JUMP_EQUAL, int(network.network_address), 0, 1))
            checks_4.append(_instruction(_RETURN, _DROP))
        else:
            high = int(network.network_address) >> 64
            checks_6.append(_instruction(_LOAD_WORD, _SOURCE_6))
            checks_6.append(_instruction(_JUMP_EQUAL, high >> 32, 0, 3))
            checks_6.append(_instruction(_LOAD_WORD, _SOURCE_6 + 4))
            checks_6.append(_instruction(_JUMP_EQUAL, high & 0xFFFFFFFF, 0, 1))
            checks_6.append(_instruction(_RETURN, _DROP))
    end = [_instruction(_RETURN, _PASS)]
    version = [
        _instruction(_LOAD_BYTE, _NETWORK_HEADER),
        _instruction(_SHIFT_RIGHT, 4),
        _instruction(_JUMP_EQUAL, 4, 1, 0),
        _instruction(_JUMP, len(checks_4) + 1),
    ]
    return [*version, *checks_4, *end, *checks_6, *end]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value & 0xFFFFFFFF)
