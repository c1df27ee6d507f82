"""Exchanges between a server and clients on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("grpc")

from fs_fedmllm.distributed.identity import Identity, create_authority, create_identity
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.transport import Exchange, Peer, TransportClient, TransportServer


def echo(peer: Peer, message: Message, exchange: Exchange) -> Message:
    return Message("echo", {"from": peer.client, "kind": message.kind, **message.header}, message.tensors)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    create_authority(folder, "ward-study")
    create_identity(folder, 0, ["localhost", "127.0.0.1"])
    for client in (3, 4):
        create_identity(folder, client)
    return folder


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_message_there_and_back(encrypted: bool, certificates: Path) -> None:
    who = Identity.load(certificates) if encrypted else Identity.plaintext()
    client = Identity.load(certificates, 3) if encrypted else Identity.plaintext(3)
    tensors = {"a": torch.randn(700, 900), "é/b": torch.ones(3, dtype=torch.bfloat16)}
    with (
        TransportServer("127.0.0.1:0", echo, who) as server,
        TransportClient(f"127.0.0.1:{server.port}", client) as connection,
    ):
        for round_ in range(3):
            answer = connection.exchange(Message("update", {"round": round_}, tensors), timeout=30)
            assert answer.kind == "echo" and answer.header == {"from": 3, "kind": "update", "round": round_}
            assert list(answer.tensors) == list(tensors)
            for name, tensor in tensors.items():
                assert answer.tensors[name].dtype == tensor.dtype and torch.equal(answer.tensors[name], tensor)
        assert server.traffic.received == connection.traffic.sent > 3 * 700 * 900 * 4
        assert server.traffic.sent == connection.traffic.received
