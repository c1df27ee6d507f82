"""Compressed updates between sites: each keeps its own remainders, and the adapter is the embedded engine's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT
from sites import Started, Wire, locked, server_of, site_of

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.models.export import adapter_bytes
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

WORDS = [*SHORT, "federate.client_num", "2", "federate.sample_client_num", "2", "eval.freq", "2",
         "fedmllm.eval.limit", "4", "data.splitter_args", "[{alpha: 5.0}]"]  # fmt: skip
BF16 = ["fedmllm.compression.download", "bfloat16"]


@pytest.mark.parametrize("words", [["fedmllm.compression.upload", "int4", *BF16], BF16])
def test_compressed_updates_between_sites(tmp_path: Path, words: list[str]) -> None:
    config = schema.load(CONFIGS / "aligned_a50.yaml", [*WORDS, *words, "outdir", str(tmp_path / "embedded")])
    embedded, _ = run(config)
    federation = locked(Federation.build(config, prepare_data(config)))
    federation.config = replace(config, federate=replace(config.federate, mode="distributed"))
    wire = Wire()
    sizes: list[int] = []

    def weigh(message: Message) -> None:
        if message.tensors:
            sizes.append(len(adapter_bytes(dict(message.tensors))))

    wire.before = lambda client, message: weigh(message)
    wire.after = lambda client, message, answer: weigh(answer)
    loop = Started(server_of(federation, tmp_path / "server", wire).run)
    sites = [Started(site_of(federation, client, tmp_path, wire).run) for client in (1, 2)]
    results = loop.join()
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["refused"] == []
    final = 2 * embedded["adapter_bytes"]  # at the end every client gets the adapter as it is
    assert sum(sizes) == embedded["bytes_sent"] + final and len(sizes) == 10
    for site in sites:
        site.join()
