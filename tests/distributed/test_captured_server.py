"""What a captured server holds in memory and on disk, with secure aggregation and, as a control, without it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from captured import Pieces, files_of, memory_of
from safetensors.torch import load_file
from waiting import wait_until

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_federation import HOSPITALS, JOB, SERVER, Hospitals, hospitals

from fs_fedmllm import config as schema
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.privacy.secure_aggregation.fixed_point import FixedPoint

WORDS = ["train.local_update_steps", "1", "fedmllm.eval.limit", "2", "eval.freq", "3", "federate.total_round_num", "3"]
#: Another seed than the plain run's: the same first updates may lie in the same machine still. The sites keep the rows
#: that they were dealt, so this is not the run that one machine would make of this seed.
SECURE = ["fedmllm.privacy.secure_aggregation.enabled", "True", "seed", "11"]
#: Phases and rounds in which client 1 is waited for while the server is looked at.
PLAIN_WAITS = [("turn", 1), ("turn", 2)]
SECURE_WAITS = [("secure_turn", 1), ("secure_unmask", 1), ("secure_turn", 2)]
CLIENTS = (1, 2, 3)
#: How many pieces were found, by owner and name.
Counts = dict[tuple[str, str], int]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told")


@pytest.fixture(scope="module")
def federation(told: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Its sites tell what they compute, and client 1 waits where it is told to: see ``hooked/told.py``."""
    hooked = str(Path(__file__).resolve().parent / "hooked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [hooked, os.environ.get("PYTHONPATH")])))
        patch.setenv("HOOK", "told")
        patch.setenv("TOLD", str(told))
        with hospitals(tmp_path_factory.mktemp("hospitals"), *WORDS) as made:
            yield made


def joined(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return b"".join(tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))


@dataclass
class Told:
    """What the sites of this very run have computed so far.

    Attributes:
        sent: round -> the adapter that clients were sent.
        made: (round, client) -> the client's adapter.
        numbers: (round, client) -> uint32, weight and change as they were before they were masked.
        masked: (round, client) -> uint32, the same masked.
    """

    sent: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    made: dict[tuple[int, int], dict[str, torch.Tensor]] = field(default_factory=dict)
    numbers: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    masked: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Told:
        found = cls()
        for path in sorted(folder.glob("*.safetensors")):
            index, client = map(int, path.stem.split("-"))
            tensors = load_file(path)
            sent = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("sent/")}
            assert all(torch.equal(tensor, sent[name]) for name, tensor in found.sent.get(index, {}).items())
            found.sent[index] = sent
            found.made[index, client] = {name[5:]: t for name, t in tensors.items() if name.startswith("made/")}
        for kind, into in (("numbers", found.numbers), ("masked", found.masked)):
            for path in sorted(folder.glob(f"*.{kind}")):
                index, client = map(int, path.stem.split("-"))
                into[index, client] = np.fromfile(path, "<u4")
        return found

    def pieces(self) -> Pieces:
        """Every update as a client has it, and what the server may know."""
        data: dict[tuple[str, str], bytes] = {}
        for index, sent in self.sent.items():
            data["server", f"sent in round {index}"] = joined(sent)
        for (index, client), made in self.made.items():
            change = {name: tensor - self.sent[index][name] for name, tensor in made.items()}
            data[f"client {client}", f"adapter in round {index}"] = joined(made)
            data[f"client {client}", f"change in round {index}"] = joined(change)
        for (index, client), numbers in self.numbers.items():
            data[f"client {client}", f"numbers in round {index}"] = numbers[1:].tobytes()
        for (index, client), numbers in self.masked.items():
            data["server", f"masked by client {client} in round {index}"] = numbers[1:].tobytes()
        return Pieces(data)

    def mean(self, index: int, value_range: float) -> dict[str, torch.Tensor]:
        """The mean change of a round, from the numbers of all its clients."""
        numbers = [self.numbers[index, client] for client in CLIENTS]
        heaviest = max(int(vector[0]) for vector in numbers)
        codec = FixedPoint.of(self.sent[index], len(CLIENTS), value_range, heaviest)
        return codec.decode(np.sum(numbers, axis=0, dtype=np.uint32))


def row_texts(federation: Hospitals) -> list[bytes]:
    """What is of patients: ids and texts of the sites' training rows, and a part of their images."""
    server = federation.kits[SERVER].parent / "data"
    own = "".join((server / name).read_text() for name in ("val.jsonl", "test.jsonl"))
    held = {path.read_bytes() for path in (server / "images").iterdir()}
    found: set[bytes] = set()
    for client in CLIENTS:
        data = federation.kits[f"hospital-{client}"].parent / "data"
        for line in (data / "rows.jsonl").read_text().splitlines()[:8]:
            row = json.loads(line)
            found |= {text.encode() for text in (row["id"], row["text"]) if text and text not in own}
        for path in sorted((data / "images").glob("*"))[:8]:  # a site of texts alone has none
            content = path.read_bytes()
            if content not in held:
                found.add(content[len(content) // 2 :][:32])
    return sorted(found)


def looked(pieces: Pieces, others: list[bytes], chunks: Iterator[bytes]) -> tuple[Counts, set[bytes]]:
    """Which pieces were found, and which of the other bytes."""
    there: set[bytes] = set()

    def watched() -> Iterator[bytes]:
        for chunk in chunks:
            there.update(other for other in others if other not in there and other in chunk)
            yield chunk

    return pieces.in_chunks(watched()), there


def captured(
    mode: str, words: list[str], waits: list[tuple[str, int]], federation: Hospitals, told: Path,
    look: Callable[[str, int, Told, dict[str, Counts]], None],
) -> None:  # fmt: skip
    """Run a job, and look through the server's machine whenever it waits for client 1."""
    for left in told.iterdir():
        left.unlink()
    for phase, index in waits:
        (told / f"hold-{phase}-{index}").touch()
    rows = row_texts(federation)
    assert len(rows) > 30

    def waits_for() -> tuple[object, ...]:
        """Phase, round, and the clients that the server waits for."""
        try:
            said = json.loads((federation.folder(mode) / "status.json").read_text())
            return said["doing"], said["round"], said["waiting_for"]
        except (OSError, ValueError):
            return ()

    with admin.session(federation.admin) as opened:
        job_id = admin.submit(opened, federation.job(mode, *words))
        try:
            for phase, index in waits:
                at = (phase, index, [1])
                wait_until(lambda at=at: waits_for() == at, JOB, lambda: str(waits_for()), 0.2)  # type: ignore[misc]
                known = Told.read(told)
                pieces = known.pieces()
                (process,) = federation.processes(SERVER)
                places = {
                    "memory": memory_of(process),
                    "disk": files_of(federation.kits[SERVER], skip="startup"),
                    "daemon": memory_of(federation.daemons[SERVER].pid),
                }
                found = {}
                for place, chunks in places.items():
                    found[place], patients = looked(pieces, rows, chunks)
                    assert not patients, place
                assert waits_for() == at  # it has waited all the time
                look(phase, index, known, found)
                assert all(pieces.there[name] > 5000 for name in pieces.names)
                # The scan finds what is there: all of the adapter that clients were sent in this round.
                sent = ("server", f"sent in round {index}")
                assert found["memory"][sent] == found["disk"][sent] == pieces.there[sent]
                (told / f"hold-{phase}-{index}").unlink()
        finally:
            admin.abort(opened, job_id)
    wait_until(lambda: not federation.processes(SERVER), JOB)


@pytest.mark.slow
def test_without_secure_aggregation_a_captured_server_holds_single_updates(federation: Hospitals, told: Path) -> None:
    def look(phase: str, index: int, known: Told, found: dict[str, Counts]) -> None:
        for client in (2, 3):
            update = (f"client {client}", f"adapter in round {index}")
            assert found["disk"][update] > 5000
            assert not found["disk"][f"client {client}", f"adapter in round {index - 1}"]
        assert any(found["memory"][f"client {client}", f"adapter in round {index}"] for client in (2, 3))

    captured("plain", WORDS, PLAIN_WAITS, federation, told, look)


@pytest.mark.slow
def test_with_secure_aggregation_a_captured_server_holds_no_single_update(federation: Hospitals, told: Path) -> None:
    words = [*WORDS, *SECURE]
    value_range = schema.load(HOSPITALS, words).fedmllm.privacy.secure_aggregation.value_range

    def look(phase: str, index: int, known: Told, found: dict[str, Counts]) -> None:
        single = {
            (place, name) for place, counts in found.items() for name in counts if counts[name] and "client" in name[0]
        }
        assert not single
        # What was looked for is what the server has summed, and what the others have sent has come.
        for done in range(index):
            mean = known.mean(done, value_range)
            for name, tensor in known.sent[done + 1].items():
                torch.testing.assert_close(tensor, (known.sent[done][name] + mean[name]).float(), rtol=0, atol=1e-7)
        if phase == "secure_turn":
            assert all(
                found["disk"]["server", f"masked by client {client} in round {index}"] > 5000 for client in (2, 3)
            )

    captured("secure", words, SECURE_WAITS, federation, told, look)
