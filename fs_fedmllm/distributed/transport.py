"""Messages between a server and its clients over gRPC: one streaming call, ``Exchange``, and no protobuf.

A client opens a call, sends one message in chunks (:mod:`fs_fedmllm.distributed.frames`) and gets one back. The server
never calls a client, so sites need no open port; a client that waits for work sends a message whose answer the server
holds back (long polling). Everything that waits, waits on a condition; gRPC's flow control is the back-pressure.

Clients are who their certificates say (:mod:`fs_fedmllm.distributed.identity`). Delivery is at least once: where a
connection breaks, whoever called ``exchange`` (:mod:`fs_fedmllm.distributed.transport_client`) sends the message
again, so a handler may see one twice and must tell so from the header (round and client, for example). This is the
server's end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc

from fs_fedmllm.distributed.admission import Admission
from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract, FrameLimits
from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.distributed.frames import decode, encode
from fs_fedmllm.distributed.identity import Identity, Role, role_of_pem
from fs_fedmllm.distributed.messages import Message, shown
from fs_fedmllm.distributed.throttle import Throttle
from fs_fedmllm.distributed.watch import Watch, Watchdog
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
from fs_fedmllm.errors import ConfigError, FedMLLMError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a server takes from its clients.

    Attributes:
        frames: the largest message.
        exchanges: exchanges at the same time, those that wait for work included; one thread each.
        exchanges_per_client: of one client.
        bytes_in_flight: tensors being received at the same time; further senders wait.
        stall_seconds: a peer that does not move one chunk in this time is cut off.
    """

    frames: FrameLimits = field(default_factory=FrameLimits)
    exchanges: int = 256
    exchanges_per_client: int = 4
    bytes_in_flight: int = 8 << 30
    stall_seconds: float = 60.0


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of an exchange.

    Attributes:
        client: client id, proven by the certificate (on plain loopback: claimed).
        federation: name of the federation in the certificate.
        address: where the connection comes from, for logs.
    """

    client: int
    federation: str
    address: str


class Exchange:
    """A running exchange, as a handler sees it."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    @property
    def active(self) -> bool:
        """Whether the peer is still there and waits for the answer."""
        return bool(self._context.is_active())

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call this once when the exchange ends, answered or not; at once if it has ended already.

        A handler that waits on a condition notifies it here, and then looks at :attr:`active`. It is called on a
        thread of gRPC's and must not block.
        """
        if not self._context.add_callback(call):
            call()


#: Answers a message. It runs on a thread of its own and may block; what it raises as RefusedError (or any other
#: FedMLLMError) is told to the client, anything else is logged here and told as an internal error.
Handler = Callable[[Peer, Message, Exchange], Message]
#: Who sends, kind and header -> what the tensors must be; may raise RefusedError.
ContractFor = Callable[[Peer, str, Mapping[str, Any]], Contract]


#: Whether somebody takes part at all; asked before a byte of a message is read. It raises RefusedError if not.
Admits = Callable[[Peer], None]


def everybody(peer: Peer) -> None:
    """The admission of a server that serves every certified client."""


def any_tensors(peer: Peer, kind: str, header: Mapping[str, Any]) -> Contract:
    """The contract of a server that takes any finite tensors within its limits."""
    return ANY_TENSORS


class TransportServer:
    """Serves exchanges until it is stopped; use it as a context manager, or call :meth:`start` and :meth:`stop`.

    Args:
        address: ``host:port`` to listen on; port 0 takes a free one (see :attr:`port`).
        handler: answers messages.
        identity: of the server; a plaintext one listens on loopback only.
        limits: what clients may ask of it.
        contract_for: what a message's tensors must be; asked before they are received.
        admits: who takes part; nothing of anybody else's is read.

    Raises:
        ConfigError: the address is no address, is taken, or is not loopback and the identity plaintext.
    """

    def __init__(
        self,
        address: str,
        handler: Handler,
        identity: Identity,
        limits: Limits | None = None,
        contract_for: ContractFor = any_tensors,
        admits: Admits = everybody,
    ) -> None:
        host, _ = split_address(address)
        if identity.role.client:
            raise ConfigError(f"A server cannot use the certificate of {identity.role.name}.")
        require_loopback(host, identity)
        self.limits = limits or Limits()
        self.traffic = Traffic()
        self._handler = handler
        self._identity = identity
        self._contract_for = contract_for
        self._admits = admits
        self._told = Throttle()
        self._admission = Admission(self.limits.exchanges_per_client, self.limits.bytes_in_flight)
        self._watchdog = Watchdog(self.limits.stall_seconds)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(self.limits.exchanges, thread_name_prefix="fedmllm-exchange"),
            handlers=[
                grpc.method_handlers_generic_handler(
                    SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(self._exchange)}
                )
            ],
            options=(
                *OPTIONS,
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", 4 * self.limits.exchanges_per_client),
                ("grpc.server_handshake_timeout_ms", 15_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ),
            maximum_concurrent_rpcs=self.limits.exchanges,
        )
        try:
            if identity.encrypted:
                credentials = grpc.ssl_server_credentials(
                    [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
                )
                self.port = self._server.add_secure_port(address, credentials)
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            self._watchdog.close()
            raise ConfigError(f"Cannot listen on {address} (fedmllm.network.address): {error}.") from None

    def start(self) -> None:
        """Begin to serve; returns at once."""
        self._server.start()

    def stop(self, grace: float = 1.0) -> None:
        """Take no more exchanges, cut those that are left after ``grace`` seconds, and wait for their end."""
        self._server.stop(grace).wait()
        self._watchdog.close()

    def __enter__(self) -> TransportServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(0.0)

    def _exchange(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """One call; a generator, so that everything it holds is given back when the call ends."""
        watch = self._watchdog.watch(context.cancel)
        peer: Peer | None = None
        admitted = False
        try:
            peer = self._peer(context)
            self._admits(peer)
            admitted = True
            with self._admission.exchange(peer.client):
                message = self._receive(requests, peer, watch)
                answer = self._handler(peer, message, Exchange(context))
                del message  # its tensors must not live as long as the answer takes
                for chunk in self.traffic.sending(encode(answer, self.limits.frames)):
                    watch.renew()
                    yield chunk
        except FedMLLMError as error:
            self._refuse(error, peer, admitted, context)
        except grpc.RpcError:
            why = f"moved nothing for {self.limits.stall_seconds:g} s" if watch.expired else "went away"
            logger.info("%s %s in the middle of a message", _who(peer), why)
        finally:
            watch.end()

    def _receive(self, requests: Iterator[bytes], peer: Peer, watch: Watch) -> Message:
        def progress() -> Iterator[bytes]:
            watch.renew()
            for chunk in requests:
                watch.renew()
                yield chunk

        def contract(kind: str, header: Mapping[str, Any]) -> Contract:
            if header.get("client", peer.client) != peer.client:
                raise IdentityError(
                    f"A message says that it is from client {shown(header['client'])}, but its sender is client "
                    f"{peer.client}."
                )
            return self._contract_for(peer, kind, header)

        def reserve(size: int) -> None:
            watch.pause()  # it is we who make the peer wait
            self._admission.reserve(watch, peer.client, size, self.limits.stall_seconds)
            watch.renew()

        try:
            return decode(self.traffic.receiving(progress()), contract, self.limits.frames, reserve)
        finally:
            watch.pause()
            self._admission.release(watch)

    def _peer(self, context: grpc.ServicerContext) -> Peer:
        if self._identity.encrypted:
            certificates = context.auth_context().get("x509_pem_cert", [])
            if len(certificates) != 1:
                raise IdentityError("A client must show one certificate.")
            role, serial = _cached_role(bytes(certificates[0]))
            if not role.client or role.federation != self._identity.role.federation:
                raise IdentityError("This certificate is not that of a client of this federation.")
            if serial in self._identity.revoked:
                raise IdentityError(f"This certificate of {role.name} was revoked.")
            return Peer(role.client, role.federation, context.peer())
        claims = [value for name, value in context.invocation_metadata() if name == CLAIM]
        if len(claims) != 1 or not str(claims[0]).isdecimal() or not 0 < int(claims[0][:10]) < 10**9:
            raise IdentityError("A connection without certificates must claim one client id.")
        return Peer(int(claims[0]), "plaintext", context.peer())

    def _refuse(self, error: FedMLLMError, peer: Peer | None, admitted: bool, context: grpc.ServicerContext) -> None:
        name, code = next(
            ((name, code) for name, (kind, code) in ERRORS.items() if isinstance(error, kind)),
            ("refused", grpc.StatusCode.FAILED_PRECONDITION),
        )
        # Its text only: whoever keeps the record must not keep the frames behind it, and with them the call's stream.
        left_out = self._told.room(peer.client if peer and admitted else "outsiders")
        if left_out is not None:
            more = f" ({left_out} more like it were left out)" if left_out else ""
            logger.warning("%s was refused (%s): %s%s", _who(peer), name, str(error), more)
        context.set_trailing_metadata(((REASON, name),))
        context.set_code(code)
        # Status texts travel in HTTP headers, whose size is bounded.
        context.set_details(str(error)[:1000])


@lru_cache(maxsize=1024)
def _cached_role(certificate: bytes) -> tuple[Role, int]:
    return role_of_pem(certificate)


def _who(peer: Peer | None) -> str:
    return f"client {peer.client} ({peer.address})" if peer else "somebody"
