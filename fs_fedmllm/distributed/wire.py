"""What both ends of the transport share: names on the wire, gRPC's options, counted bytes, addresses."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import grpc

from fs_fedmllm.distributed.errors import (
    BusyError,
    ContractError,
    FrameError,
    IdentityError,
    RefusedError,
    TransportError,
    VersionError,
)
from fs_fedmllm.distributed.frames import CHUNK
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.errors import ConfigError

SERVICE = "fedmllm.Wire"
METHOD = "Exchange"
#: gRPC puts a flag and a length before every message.
GRPC_PREFIX = 5
#: Trailing metadata that says which error a refusal is.
REASON = "fedmllm-reason"
#: Claimed client id of a connection without certificates.
CLAIM = "fedmllm-client"
ERRORS: dict[str, tuple[type[TransportError], grpc.StatusCode]] = {
    "version": (VersionError, grpc.StatusCode.FAILED_PRECONDITION),
    "contract": (ContractError, grpc.StatusCode.INVALID_ARGUMENT),
    "frame": (FrameError, grpc.StatusCode.INVALID_ARGUMENT),
    "identity": (IdentityError, grpc.StatusCode.UNAUTHENTICATED),
    "busy": (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "refused": (RefusedError, grpc.StatusCode.FAILED_PRECONDITION),
}
OPTIONS = (
    ("grpc.max_receive_message_length", CHUNK),
    ("grpc.max_send_message_length", CHUNK),
    ("grpc.max_metadata_size", 16 << 10),
    # Bit 0 alone: no compression. Weights do not shrink, and a small chunk must not become a large one.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass
class Traffic:
    """Bytes that went through, counted chunk by chunk.

    Attributes:
        sent: bytes handed to gRPC, with its own prefix of each chunk; HTTP/2 and TLS add about 0.3 %.
        received: bytes taken from gRPC, counted likewise.
    """

    sent: int = 0
    received: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def sending(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Count chunks on their way out."""
        for chunk in chunks:
            with self._lock:
                self.sent += len(chunk) + GRPC_PREFIX
            yield chunk

    def receiving(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Count chunks on their way in."""
        for chunk in chunks:
            with self._lock:
                self.received += len(chunk) + GRPC_PREFIX
            yield chunk


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address stands in brackets.

    Raises:
        ConfigError: it is neither.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535 or "/" in host:
        raise ConfigError(f"fedmllm.network.address is {address!r}; it must be host:port, as in 127.0.0.1:50051.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def require_loopback(host: str, identity: Identity) -> bool:
    """Whether the host is this machine itself.

    Raises:
        ConfigError: it is not, and the identity is plaintext.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        found = set()  # an unknown name: gRPC will say so, if it is ever known
    loopback = bool(found) and all(ipaddress.ip_address(text.partition("%")[0]).is_loopback for text in found)
    if not loopback and not identity.encrypted:
        raise ConfigError(
            f"fedmllm.network.insecure works on loopback addresses only, and {host!r} is none. Make certificates with "
            "fs-fedmllm certs and leave fedmllm.network.insecure out."
        )
    return loopback
