"""Exchanges between a server and clients on loopback, honest and hostile ones."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from recording_proxy import RecordingProxy
from test_frames import MALFORMED
from waiting import LONG, free_port, wait_until
from wire_frames import LIMITS, cut, frame, joined, sample_message

from fs_fedmllm.distributed import transport, watch
from fs_fedmllm.distributed.contracts import NO_TENSORS, Contract, FrameLimits
from fs_fedmllm.distributed.errors import (
    BusyError,
    ContractError,
    DeadlineError,
    FrameError,
    IdentityError,
    RefusedError,
    TransportError,
    UnreachableError,
    VersionError,
)
from fs_fedmllm.distributed.frames import CHUNK, encode
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.transport import Exchange, Limits, Peer, TransportServer
from fs_fedmllm.distributed.transport_client import TransportClient
from fs_fedmllm.distributed.wire import METHOD, SERVICE
from fs_fedmllm.errors import ConfigError

SERVER, THREE, FOUR = Identity.plaintext(), Identity.plaintext(3), Identity.plaintext(4)
HELLO = Message("hello", {"text": "wie geht's"})


def echo(peer: Peer, message: Message, exchange: Exchange) -> Message:
    return Message("echo", {"from": peer.client, "kind": message.kind, **message.header}, message.tensors)


def serve(handler: Any = echo, who: Identity = SERVER, **more: Any) -> TransportServer:
    return TransportServer("127.0.0.1:0", handler, who, **more)


def connect(server: TransportServer, who: Identity = THREE, port: int = 0) -> TransportClient:
    return TransportClient(f"127.0.0.1:{port or server.port}", who)


class Raw:
    """A peer that sends whatever it likes through gRPC."""

    def __init__(self, server: TransportServer, claim: str = "3") -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.port}", (("grpc.enable_http_proxy", 0),))
        self.call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")
        self.metadata = (("fedmllm-client", claim),)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()

    def send(self, chunks: Iterator[bytes], timeout: float = LONG) -> grpc.StatusCode:
        """The status of an exchange of these chunks."""
        call = self.call(chunks, metadata=self.metadata, timeout=timeout)
        with contextlib.suppress(grpc.RpcError):
            for _ in call:
                pass
        return call.code()


# --- honest peers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_message_there_and_back(encrypted: bool, certificates: Path) -> None:
    who = Identity.load(certificates) if encrypted else SERVER
    client = Identity.load(certificates, 3) if encrypted else THREE
    message = sample_message()
    message = Message("update", {"round": 0}, {**message.tensors, "large": torch.randn(700, 900)})
    with serve(who=who) as server, connect(server, client) as connection:
        for _ in range(3):
            answer = connection.exchange(message, timeout=LONG)
            assert answer.kind == "echo" and answer.header == {"from": 3, "kind": "update", "round": 0}
            assert list(answer.tensors) == list(message.tensors)
            for name, tensor in message.tensors.items():
                assert answer.tensors[name].dtype == tensor.dtype and torch.equal(answer.tensors[name], tensor)
        assert server.traffic.received == connection.traffic.sent > 3 * 700 * 900 * 4
        assert server.traffic.sent == connection.traffic.received


def test_a_large_message_within_a_raised_limit() -> None:
    tensors = {f"w{i}": torch.randn(1 << 20) for i in range(16)}  # 64 MiB
    seen = []

    def digest(peer: Peer, message: Message, exchange: Exchange) -> Message:
        seen.append(all(torch.equal(tensors[name], tensor) for name, tensor in message.tensors.items()))
        return Message("ok")

    low = Limits(FrameLimits(message_bytes=32 << 20))
    with (
        serve(digest, limits=low) as server,
        connect(server) as connection,
        pytest.raises(FrameError, match="max_message"),
    ):
        connection.exchange(Message("update", {}, tensors), timeout=LONG)
    with serve(digest) as server, connect(server) as connection:
        connection.exchange(Message("update", {}, tensors), timeout=LONG, contract=NO_TENSORS)
    assert seen == [True]


def test_counters_are_what_goes_over_the_wire() -> None:
    message = Message("update", {}, {"w": torch.randn(1 << 20)})
    with serve() as server, RecordingProxy(server.port) as proxy, connect(server, port=proxy.port) as connection:
        connection.exchange(message, timeout=LONG)
        counted = connection.traffic.sent + connection.traffic.received
    file = 2 * message.tensors["w"].nbytes
    assert file < counted < 1.001 * file
    assert counted < len(proxy.seen) < 1.005 * counted


def test_several_exchanges_share_a_connection() -> None:
    with serve() as server, connect(server) as connection:
        answers: dict[int, Message] = {}

        def go(i: int) -> None:
            answers[i] = connection.exchange(Message("m", {"i": i}, {"w": torch.full((1 << 18,), float(i))}), LONG)

        threads = [threading.Thread(target=go, args=(i,)) for i in range(4)]  # as many as a client may have open
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == list(range(4))
    assert all(a.header["i"] == i and a.tensors["w"].unique().tolist() == [i] for i, a in answers.items())


# --- waiting and going away -----------------------------------------------------------------------------------------


def test_a_handler_that_waits_is_told_when_its_client_goes_away() -> None:
    changed = threading.Condition()
    outcome: list[str] = []

    def wait(peer: Peer, message: Message, exchange: Exchange) -> Message:
        def gone() -> None:
            with changed:
                changed.notify_all()

        exchange.on_gone(gone)
        outcome.append("waits")
        with changed:
            while exchange.active:
                assert changed.wait(LONG)
        outcome.append("gone")
        return Message("late")

    with serve(wait) as server:
        connection = connect(server)
        errors: list[Exception] = []

        def ask() -> None:
            try:
                connection.exchange(HELLO, LONG)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: outcome == ["waits"])
        connection.close()
        thread.join(LONG)
        wait_until(lambda: outcome == ["waits", "gone"])
    assert len(errors) == 1 and isinstance(errors[0], UnreachableError)


def test_waiting_costs_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a client in a long poll, the server's own thread sleeps until somebody wakes it: it does not look up."""
    sleeps: list[float | None] = []

    class Recorded(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            sleeps.append(timeout)
            return super().wait(timeout)

    own = types.SimpleNamespace(Condition=Recorded, Thread=threading.Thread)
    monkeypatch.setattr(watch, "threading", own)
    entered, release = threading.Event(), threading.Event()

    def wait(peer: Peer, message: Message, exchange: Exchange) -> Message:
        entered.set()
        assert release.wait(LONG)
        return Message("go")

    limits = Limits(stall_seconds=0.5)  # until the message is there, and the thread looks for it that much later
    with serve(wait, limits=limits) as server, connect(server) as connection:
        thread = threading.Thread(target=until_reached, args=(connection,))
        thread.start()
        assert entered.wait(LONG)
        wait_until(lambda: len(sleeps) > 1 and sleeps[-1] is None)
        release.set()
        thread.join(LONG)


def until_reached(connection: TransportClient) -> Message:
    """Call until there is an answer, as a site does: the connection is the same one, made anew by gRPC."""
    answers: list[Message] = []

    def reached() -> bool:
        with contextlib.suppress(UnreachableError):
            answers.append(connection.exchange(HELLO, LONG))
        return bool(answers)

    wait_until(reached)
    return answers[0]


def test_a_server_that_is_late_and_one_that_comes_back() -> None:
    port = free_port()
    with TransportClient(f"127.0.0.1:{port}", THREE) as connection:
        with pytest.raises(UnreachableError, match=str(port)):
            connection.exchange(HELLO, LONG)
        for _ in range(2):
            with TransportServer(f"127.0.0.1:{port}", echo, SERVER):
                assert until_reached(connection).header["from"] == 3


def test_a_broken_connection_is_told_at_once() -> None:
    calls = []

    def broken(peer: Peer, message: Message, exchange: Exchange) -> Message:
        calls.append(1)
        proxy.cut()
        return Message("ok")

    with (
        serve(broken) as server,
        RecordingProxy(server.port) as proxy,
        TransportClient(f"127.0.0.1:{proxy.port}", THREE) as connection,
        pytest.raises(UnreachableError),
    ):
        connection.exchange(HELLO, LONG)
    assert len(calls) == 1


def test_a_cut_connection_is_made_again() -> None:
    calls = []

    def slow(peer: Peer, message: Message, exchange: Exchange) -> Message:
        calls.append(1)
        if len(calls) == 1:
            proxy.cut()
        return Message("ok", {"call": len(calls)})

    with serve(slow) as server, RecordingProxy(server.port) as proxy, connect(server, port=proxy.port) as connection:
        assert until_reached(connection).header == {"call": 2}


def test_an_answer_that_does_not_come() -> None:
    def never(peer: Peer, message: Message, exchange: Exchange) -> Message:
        done = threading.Event()
        exchange.on_gone(done.set)
        done.wait(LONG)
        return Message("late")

    with serve(never) as server, connect(server) as connection:
        with pytest.raises(DeadlineError):
            connection.exchange(HELLO, 0.3)
        connection.close()
        with pytest.raises(UnreachableError):
            connection.exchange(HELLO, 1)


def test_what_a_handler_raises() -> None:
    def refuse(peer: Peer, message: Message, exchange: Exchange) -> Message:
        match message.kind:
            case "late":
                raise RefusedError("Round 3 is over; größer.\nAnd more.")
            case "odd":
                raise ConfigError("Something to put right.")
            case "secret":
                raise ValueError("the key is 12345")
        return Message("answer", {}, {"w": torch.ones(2)})

    with serve(refuse) as server, connect(server) as connection:
        with pytest.raises(RefusedError, match="Round 3 is over"):
            connection.exchange(Message("late"), LONG)
        with pytest.raises(RefusedError, match="put right"):
            connection.exchange(Message("odd"), LONG)
        with pytest.raises(RefusedError) as caught:
            connection.exchange(Message("secret"), LONG)
        assert "12345" not in str(caught.value)
        with pytest.raises(ContractError):  # the client checks answers as strictly
            connection.exchange(HELLO, LONG, Contract({"v": torch.ones(2)}))
        with pytest.raises(ContractError):
            connection.exchange(HELLO, LONG, NO_TENSORS)


# --- hostile peers --------------------------------------------------------------------------------------------------


def test_broken_messages_end_their_exchange_only() -> None:
    handled = []

    def count(peer: Peer, message: Message, exchange: Exchange) -> Message:
        handled.append(peer.client)
        return echo(peer, message, exchange)

    with serve(count, limits=Limits(LIMITS)) as server, connect(server, FOUR) as honest, Raw(server) as hostile:
        for name, data in MALFORMED.items():
            assert hostile.send(cut(data)) == grpc.StatusCode.INVALID_ARGUMENT, name
        assert hostile.send(cut(frame(version=2))) == grpc.StatusCode.FAILED_PRECONDITION
        assert hostile.send(iter([bytes(CHUNK + 1)])) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert hostile.send(iter([joined(sample_message())[i : i + 1] for i in range(50)]))
        for _ in range(3):
            assert honest.exchange(HELLO, LONG).header["from"] == 4
    assert handled == [4, 4, 4]


@pytest.mark.parametrize("size", [1000, 64 << 20])
def test_compressed_chunks_are_refused(size: int) -> None:
    """64 MiB of zeros are 64 KiB on the wire; gRPC must not unpack them here."""
    with serve() as server, connect(server, FOUR) as honest, Raw(server) as hostile:
        call = hostile.call(
            iter([bytes(size)]), metadata=hostile.metadata, timeout=LONG, compression=grpc.Compression.Gzip
        )
        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code() == grpc.StatusCode.UNIMPLEMENTED and server.traffic.received == 0
        assert honest.exchange(HELLO, LONG).header["from"] == 4


def test_a_client_is_told_which_versions_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server, connect(server) as connection:
        monkeypatch.setattr("fs_fedmllm.distributed.transport.encode", lambda *args: cut(frame(version=2)))
        with pytest.raises(VersionError, match=r"version 2 .* version 1"):
            connection.exchange(HELLO, LONG)


def test_contracts_are_asked_before_tensors_come() -> None:
    def contract(peer: Peer, kind: str, header: Any) -> Contract:
        if kind != "update" or peer.client != 3:
            raise RefusedError(f"No {kind} is expected of client {peer.client}.")
        return Contract.like({"w": torch.ones(3)})

    sent = []

    def chunks() -> Iterator[bytes]:
        for chunk in encode(Message("update", {}, {"v": torch.ones(50 << 20)})):
            sent.append(len(chunk))
            yield chunk

    with serve(contract_for=contract) as server, connect(server) as connection, Raw(server) as hostile:
        with pytest.raises(RefusedError, match="No hello is expected of client 3"):
            connection.exchange(HELLO, LONG)
        with pytest.raises(ContractError):
            connection.exchange(Message("update", {}, {"w": torch.tensor([1.0, 2.0, float("nan")])}), LONG)
        assert connection.exchange(Message("update", {}, {"w": torch.ones(3)}), LONG).kind == "echo"
        assert hostile.send(chunks()) == grpc.StatusCode.INVALID_ARGUMENT
        assert sum(sent) < 20 << 20  # of 200 MiB: flow control and the refusal stopped the rest


def test_a_sender_who_stops_is_cut_off_and_others_are_served() -> None:
    holds = threading.Event()

    def stalls(chunks: list[bytes]) -> Iterator[bytes]:
        yield from chunks
        holds.wait(LONG)

    large = list(encode(Message("update", {}, {"w": torch.ones(1 << 20)})))
    with serve(limits=Limits(stall_seconds=0.5)) as server, connect(server, FOUR) as honest, Raw(server) as hostile:
        for chunks in ([], large[:1], large[:3], large):  # the last is complete, but the sender does not end it
            assert hostile.send(stalls(chunks)) == grpc.StatusCode.CANCELLED
        server._watchdog.seconds = LONG
        assert honest.exchange(HELLO, LONG).header["from"] == 4
        holds.set()


def test_a_receiver_who_does_not_read_is_cut_off() -> None:
    done = threading.Event()
    answer = Message("answer", {}, {"w": torch.ones(32 << 20)})
    with serve(lambda peer, message, exchange: (exchange.on_gone(done.set), answer)[1],
               limits=Limits(stall_seconds=0.5)) as server, Raw(server) as hostile:  # fmt: skip
        call = hostile.call(encode(HELLO), metadata=hostile.metadata, timeout=LONG)
        assert done.wait(LONG / 2)  # its own deadline is twice that
        call.cancel()


def test_a_client_may_not_take_all_the_places() -> None:
    release = threading.Event()

    def wait(peer: Peer, message: Message, exchange: Exchange) -> Message:
        if peer.client == 3:
            exchange.on_gone(release.set)
            release.wait(LONG)
        return echo(peer, message, exchange)

    with (
        serve(wait, limits=Limits(exchanges_per_client=2, exchanges=6)) as server,
        Raw(server) as hostile,
        connect(server, THREE) as same,
        connect(server, FOUR) as honest,
    ):
        calls = [hostile.call(encode(HELLO), metadata=hostile.metadata, timeout=LONG) for _ in range(4)]
        wait_until(lambda: sum(call.done() for call in calls) == 2)
        assert [call.code() for call in calls if call.done()] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        with pytest.raises(BusyError, match="2 exchanges"):
            same.exchange(HELLO, LONG)
        assert honest.exchange(HELLO, LONG).header["from"] == 4
        release.set()
        for call in calls:
            call.cancel()

        def answered() -> bool:
            try:
                return same.exchange(HELLO, LONG).header["from"] == 3
            except BusyError:  # the server has not noticed yet that they left
                return False

        wait_until(answered)  # places of those who left are free again


def test_bytes_in_flight_are_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Message("update", {}, {"w": torch.ones(2 << 20)})  # 8 MiB
    holds = threading.Event()
    events: list[tuple[str, Any]] = []

    def half() -> Iterator[bytes]:
        yield from list(encode(large))[:4]
        holds.wait(LONG)

    limits = Limits(bytes_in_flight=12 << 20, stall_seconds=LONG)
    with serve(limits=limits) as server, connect(server, FOUR) as honest, Raw(server) as hostile:
        reserve = server._admission.reserve

        def watched(token: object, peer: Any, size: int, seconds: float) -> None:
            events.append(("asks", peer))
            reserve(token, peer, size, seconds)
            events.append(("has room", peer))

        monkeypatch.setattr(server._admission, "reserve", watched)
        call = hostile.call(half(), metadata=hostile.metadata, timeout=LONG)
        wait_until(lambda: ("has room", 3) in events)
        assert honest.exchange(HELLO, LONG).kind == "echo"  # small ones never wait
        del events[2:]
        waits = threading.Thread(target=lambda: events.append((honest.exchange(large, LONG).kind, 4)))
        waits.start()
        wait_until(lambda: ("asks", 4) in events)
        assert not call.done()
        events.append(("goes", 3))
        call.cancel()
        waits.join(LONG)
        holds.set()
    assert events == [("asks", 3), ("has room", 3), ("asks", 4), ("goes", 3), ("has room", 4), ("echo", 4)]


def test_claims_without_certificates_must_be_client_ids() -> None:
    with serve() as server:
        for claim in ("", "0", "-1", "3.0", "x", "9" * 5000, "\u0663"):
            with Raw(server) as hostile:
                if claim.isascii():
                    hostile.metadata = (("fedmllm-client", claim),)
                    code = hostile.send(encode(HELLO))
                    assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED), claim[:9]
        with Raw(server) as hostile:
            hostile.metadata = (("fedmllm-client", "3"), ("fedmllm-client", "4"))
            assert hostile.send(encode(HELLO)) == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999]
)
def test_other_protocols_on_the_port(words: bytes) -> None:
    with serve() as server, connect(server) as honest:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(words)
            raw.settimeout(LONG)
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(4096):  # until the server closes it
                    pass
        assert honest.exchange(HELLO, LONG).kind == "echo"


# --- identities -----------------------------------------------------------------------------------------------------


def test_a_message_may_not_name_another_client() -> None:
    with serve() as server, connect(server) as connection:
        assert connection.exchange(Message("m", {"client": 3}), LONG).header["client"] == 3
        for claim in (4, "3", None, [3]):
            with pytest.raises(IdentityError, match="its sender is client 3"):
                connection.exchange(Message("m", {"client": claim}), LONG)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_plain_text_is_for_loopback_only(address: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        TransportServer(address, echo, SERVER)
    with pytest.raises(ConfigError, match="loopback"):
        TransportClient(address.replace(":0", ":9"), THREE)


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:", ":50", "h:99999", "h:x", "http://h:80", "unix:a/b:1"]
)
def test_addresses(address: str, certificates: Path) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        TransportClient(address, Identity.load(certificates, 3))


def test_roles_may_not_be_swapped_and_ports_not_shared() -> None:
    with pytest.raises(ConfigError):
        TransportServer("127.0.0.1:0", echo, THREE)
    with pytest.raises(ConfigError):
        TransportClient("127.0.0.1:1", SERVER)
    with serve() as server, pytest.raises(ConfigError, match="Cannot listen"):
        TransportServer(f"127.0.0.1:{server.port}", echo, SERVER)


SECRET = ["layers.0.q.lora_A", "hospital_of_the_patient", "update", "FMLM"]


@pytest.mark.parametrize("encrypted", [True, False])
def test_nothing_on_the_wire_is_readable(encrypted: bool, certificates: Path) -> None:
    """A proxy keeps every byte; the same search finds the words where there is no encryption."""
    who = Identity.load(certificates) if encrypted else SERVER
    client = Identity.load(certificates, 3) if encrypted else THREE
    message = Message("update", {"site": "hospital_of_the_patient"}, sample_message().tensors)
    weights = message.tensors["layers.0.q.lora_A"].numpy().tobytes()
    with serve(who=who) as server, RecordingProxy(server.port) as proxy:
        with connect(server, client, proxy.port) as connection:
            assert connection.exchange(message, LONG).header["from"] == 3
        found = [word for word in SECRET if word.encode() in proxy.seen]
    assert len(proxy.seen) > 2 * len(joined(message))
    assert found == ([] if encrypted else SECRET)
    assert (weights in proxy.seen) == (not encrypted)


def test_nothing_unpickles_and_no_host_is_known() -> None:
    folder = Path(transport.__file__).parent
    for file in folder.glob("*.py"):
        found = re.findall(r"^\s*(?:from|import) (pickle|marshal|federatedscope|google|dill)", file.read_text(), re.M)
        assert not found, file
        assert "torch.load" not in file.read_text()


def test_refused_exchanges_leave_no_streams_behind() -> None:
    """More of them than a connection may have streams, which it has until nobody knows the call any more."""
    with serve(limits=Limits(exchanges_per_client=1)) as server, Raw(server) as hostile:
        for _ in range(20):
            assert hostile.send(cut(MALFORMED["magic"])) == grpc.StatusCode.INVALID_ARGUMENT


def test_every_error_is_one_of_ours() -> None:
    named = (FrameError, ContractError, VersionError, IdentityError, RefusedError, UnreachableError, DeadlineError)
    assert all(issubclass(kind, TransportError) for kind in named)
