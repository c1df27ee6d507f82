"""The client's end of the transport: one exchange at a time and thread, and what gRPC says as one of our errors."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract, FrameLimits
from fs_fedmllm.distributed.errors import (
    BusyError,
    CertificateError,
    DeadlineError,
    IdentityError,
    RefusedError,
    TransportError,
    UnreachableError,
)
from fs_fedmllm.distributed.frames import decode, encode
from fs_fedmllm.distributed.handshake import lasting_fault
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.messages import Message, shown
from fs_fedmllm.distributed.wire import (
    CLAIM,
    ERRORS,
    METHOD,
    OPTIONS,
    REASON,
    SERVICE,
    Traffic,
    require_loopback,
    split_address,
)
from fs_fedmllm.errors import ConfigError


class TransportClient:
    """A kept connection to the server. Threads may share it; close it at the end.

    Args:
        address: ``host:port`` of the server, as its certificate names it.
        identity: of this client.
        frames: the largest answer that is read.

    Raises:
        ConfigError: the address is no address, or is not loopback and the identity plaintext.
    """

    def __init__(self, address: str, identity: Identity, frames: FrameLimits | None = None) -> None:
        host, port = split_address(address)
        if not identity.role.client:
            raise ConfigError("A client cannot use the server's certificate.")
        loopback = require_loopback(host, identity)
        self.traffic = Traffic()
        self._address = address
        self._frames = frames or FrameLimits()
        self._closed = threading.Event()
        self._identity, self._host, self._port = identity, host, port
        self._metadata = () if identity.encrypted else ((CLAIM, str(identity.role.client)),)
        options = (
            *OPTIONS,
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 10_000),
            # A proxy of the environment may stand between sites, never between a machine and itself.
            ("grpc.enable_http_proxy", int(not loopback)),
            ("grpc.enable_retries", 0),
        )
        if identity.encrypted:
            credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
            self._channel = grpc.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")

    def exchange(self, message: Message, timeout: float, contract: Contract = ANY_TENSORS) -> Message:
        """Send a message once and wait for its answer; whether to send it again is the caller's business.

        Args:
            message: what to send.
            timeout: seconds for everything: connecting, sending, the server's work, the answer.
            contract: what the answer's tensors must be.

        Raises:
            RefusedError: the server does not accept the message (BusyError: not now).
            VersionError: the two sides speak different versions.
            IdentityError: a certificate was not accepted, by this side or the other (CertificateError: and never will
                be).
            FrameError: the message or the answer is malformed or too large; ContractError: not what was asked for.
            UnreachableError: there is no connection, it broke, or the client was closed.
            DeadlineError: the server did not answer in time.
        """
        if self._closed.is_set():
            raise UnreachableError("The connection was closed on this side.")
        chunks = self.traffic.sending(encode(message, self._frames))
        try:
            call = self._call(chunks, timeout=max(timeout, 0.001), metadata=self._metadata)
        except ValueError:  # gRPC's word for a closed channel
            raise UnreachableError("The connection was closed on this side.") from None
        try:
            return decode(self.traffic.receiving(call), lambda kind, header: contract, self._frames)
        except grpc.RpcError as error:
            raise self._lasting(self._named(error)) from None
        finally:
            call.cancel()  # after a complete answer it does nothing

    def close(self) -> None:
        """Close the connection; exchanges that are under way end with an error."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> TransportClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lasting(self, error: TransportError) -> TransportError:
        """The same error, or why it will not pass; without TLS, damaged bytes and a forger look alike."""
        if not self._identity.encrypted or not isinstance(error, IdentityError | UnreachableError):
            return error
        if isinstance(error, CertificateError):
            return error
        return lasting_fault(self._host, self._port, self._identity) or error

    def _named(self, error: Any) -> TransportError:
        """gRPC's status as one of our errors."""
        code, details = error.code(), shown(str(error.details()), 300)[1:-1]
        reasons = [value for name, value in error.trailing_metadata() or () if name == REASON]
        if reasons and reasons[0] in ERRORS:
            kind = ERRORS[reasons[0]][0]
            if kind is IdentityError and self._identity.encrypted:  # the server's word, that nobody can have damaged
                kind = CertificateError
            return kind(str(error.details()))
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(f"{self._address} did not answer in time.")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return BusyError(f"{self._address} has too many exchanges open.")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            said = str(error.details())
            if "CERTIFICATE_VERIFY_FAILED" in said or "Peer name" in said or "Hostname Verification" in said:
                return IdentityError(f"The certificate of {self._address} was not accepted: {details}")
            if self._identity.encrypted and "Socket closed" in said:
                details += " (a server that does not accept this client's certificate closes the connection like this)"
            return UnreachableError(f"No connection to {self._address}: {details}")
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return RefusedError(f"{self._address} is not an fs-fedmllm server.")
        if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL) and not details.startswith("Exception"):
            # Not an exception of the handler's, which gRPC reports as such: bytes were damaged on the way.
            return UnreachableError(f"The connection to {self._address} broke: {details}")
        return RefusedError(f"{self._address} failed ({code.name}); its log says why.")
