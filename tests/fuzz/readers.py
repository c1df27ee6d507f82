"""The readers of files that may come from anybody, each with valid inputs and a way to change them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mutations import as_json, changed_bytes, changed_json, changed_lines, changed_pem, changed_text
from safetensors.torch import save

Change = Callable[[bytes, list[bytes], random.Random], bytes]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """Valid inputs, what reads one, and what changes one."""

    seeds: list[bytes]
    read: Callable[[bytes], object]
    change: Change


def _tensors() -> dict[str, torch.Tensor]:
    return {"layer.lora_A": torch.ones(2, 3), "layer.lora_B": torch.zeros(3, 2)}


def _wrapped(head: dict[str, Any], files: dict[str, bytes]) -> bytes:
    """A JSON head and binary files as one input; the reader takes it apart again."""
    return json.dumps({"head": head, "files": {name: data.hex() for name, data in files.items()}}).encode()


def _change_wrapped(mend: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Change:
    """Change the head's tree, its bytes or a file; most digests are put right, or they would hide what is behind."""

    def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
        whole = json.loads(data)
        head, files = whole["head"], {name: bytes.fromhex(text) for name, text in whole["files"].items()}
        where = draw.random()
        if where < 0.35:
            name = draw.choice(sorted(files))
            files[name] = changed_bytes(files[name], list(files.values()), draw)
        elif where < 0.85:
            head = changed_json(head, draw)
        if draw.random() < 0.85 and isinstance(head, dict):
            with contextlib.suppress(TypeError, KeyError, AttributeError):
                mend(head, files)
        text = as_json(head, draw)
        if where >= 0.85:
            text = changed_bytes(text, [text], draw)
        return json.dumps(
            {"text": text.hex(), "files": {name: content.hex() for name, content in files.items()}}
        ).encode()

    return change


def _seal(head: dict[str, Any]) -> None:
    """Put a head's digest of itself right, where it carries one."""
    if "digest" in head:
        sealing = importlib.import_module("fs_fedmllm.files.sealing")
        head["digest"] = sealing.seal(head)


def _unwrap(data: bytes, folder: Path, head: str) -> None:
    whole = json.loads(data)
    text = bytes.fromhex(whole["text"]) if "text" in whole else json.dumps(whole["head"]).encode()
    (folder / head).write_bytes(text)
    for name, content in whole["files"].items():
        (folder / name).write_bytes(bytes.fromhex(content))


def frames(folder: Path) -> Reader:
    """Messages between sites."""
    from wire_frames import LIMITS, cut, joined, mutant, sample_message

    from fs_fedmllm.distributed.contracts import ANY_TENSORS
    from fs_fedmllm.distributed.frames import PREFIX, decode

    def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
        if draw.random() < 0.4:
            return mutant(draw)
        found = changed_bytes(data, others, draw)
        body = found[:-32]
        return body + hashlib.sha256(body).digest() if len(found) > PREFIX.size + 32 and draw.random() < 0.7 else found

    return Reader(
        [joined(sample_message())], lambda data: decode(cut(data), lambda kind, header: ANY_TENSORS, LIMITS), change
    )


def checkpoint(folder: Path) -> Reader:
    """``checkpoint/`` of a run folder."""
    from fs_fedmllm.runs import checkpoint as module

    written = folder / "written"
    state = module.RunState(
        2, _tensors(), {"velocity": torch.ones(2)}, _tensors(), {"refused": [], "evaluations": [{"round": 1}]}, 3,
        {1: {"dual/w": torch.ones(2)}},
    )  # fmt: skip
    module.save_checkpoint(written, state, "d" * 64)
    names = [file.name for file in written.iterdir() if file.suffix == ".safetensors"]
    head = json.loads((written / "state.json").read_text())

    def mend(head: dict[str, Any], files: dict[str, bytes]) -> None:
        for entry in (head["tensors"], *head["clients"].values()):
            entry["sha256"] = hashlib.sha256(files[entry["file"]]).hexdigest()
        _seal(head)

    def read(data: bytes) -> object:
        place = folder / "read"
        place.mkdir(exist_ok=True)
        _unwrap(data, place, "state.json")
        return module.load_checkpoint(place, "d" * 64)

    return Reader([_wrapped(head, {name: (written / name).read_bytes() for name in names})], read,
                  _change_wrapped(mend))  # fmt: skip


def site_store(folder: Path) -> Reader:
    """What a client keeps on its own disk."""
    from fs_fedmllm.distributed.messages import Message
    from fs_fedmllm.distributed.site_store import Pending, SiteStore

    written = folder / "written"
    store = SiteStore(written, "me")
    store.client_state = {"dual/w": torch.ones(2)}
    place = {"phase": "turn", "round": 1, "start": "s"}
    store.keep(Pending(place, Message("answer", {"rows": 3, **place}, _tensors()), {"dual/w": torch.ones(2)}))
    head = json.loads((written / "state.json").read_text())

    def mend(head: dict[str, Any], files: dict[str, bytes]) -> None:
        head["sha256"] = hashlib.sha256(files[head["tensors"]]).hexdigest()
        _seal(head)

    def read(data: bytes) -> None:
        place = folder / "read"
        place.mkdir(exist_ok=True)
        _unwrap(data, place, "state.json")
        SiteStore(place, "me").settle(1)

    files = {head["tensors"]: (written / head["tensors"]).read_bytes()}
    return Reader([_wrapped(head, files)], read, _change_wrapped(mend))


def adapter(folder: Path) -> Reader:
    """An adapter's folder: tensors, PEFT's configuration, our description."""
    from fs_fedmllm.config import from_mapping
    from fs_fedmllm.data.template_file import load_template
    from fs_fedmllm.errors import FedMLLMError
    from fs_fedmllm.hub.fetch import check_meaning, read_config
    from fs_fedmllm.models.adapter_folder import describe, read_description
    from fs_fedmllm.models.export import read_adapter
    from fs_fedmllm.tools.adapters.compare import read_tensors
    from fs_fedmllm.tools.adapters.opening import _foreign, _options

    config = from_mapping(
        {"data": {"type": "digits_triage", "splitter": "fedmllm_aligned"}, "federate": {"client_num": 1}}
    )
    said = json.loads(describe(config, load_template("digits_triage")))
    peft = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ".*q", "use_dora": 0}
    files = {"adapter_model.safetensors": save(_tensors()), "adapter_config.json": json.dumps(peft).encode()}

    def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
        found = json.loads(_change_wrapped(lambda head, files: None)(data, others, draw))
        if draw.random() < 0.4:
            text = as_json(changed_json(peft, draw), draw)
            found["files"]["adapter_config.json"] = text.hex()
        return json.dumps(found).encode()

    def read(data: bytes) -> None:
        _unwrap(data, folder, "fedmllm.json")
        refused: list[FedMLLMError] = []

        def step(call: Callable[[], object]) -> object:
            try:
                return call()
            except FedMLLMError as error:
                refused.append(error)
                return None

        step(lambda: read_adapter(folder, _tensors()))
        step(lambda: read_tensors(folder))
        found = step(lambda: read_description(folder))
        if found is not None:
            step(lambda: _options(found.model, folder))  # type: ignore[attr-defined]
        step(lambda: _foreign(read_config(folder), folder))
        step(lambda: check_meaning(folder, peft))
        if refused:
            raise refused[0]

    return Reader([_wrapped(said, files)], read, change)


def _yaml_seeds(folder: str, most: int) -> list[bytes]:
    import yaml

    texts = [file.read_bytes() for file in sorted((ROOT / folder).glob("*.yaml"))[:most]]
    return texts + [json.dumps(yaml.safe_load(text)).encode() for text in texts]


def template(folder: Path) -> Reader:
    """Prompt templates."""
    from fs_fedmllm.data.template_file import load_template

    path = folder / "t.yaml"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return load_template(str(path))

    return Reader(_yaml_seeds("data_templates", 6), read, changed_text)


def config(folder: Path) -> Reader:
    """Configurations."""
    from fs_fedmllm.config import load

    path = folder / "c.yaml"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return load(path)

    return Reader(_yaml_seeds("configs", 3), read, changed_text)


def _own(folder: Path, name: str) -> Callable[[bytes], object]:
    from PIL import Image

    from fs_fedmllm.data import own
    from fs_fedmllm.data.template_file import load_template

    template = load_template("digits_triage")  # it is not what is fuzzed here
    for picture in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / picture)

    def read(data: bytes) -> object:
        (folder / name).write_bytes(data)
        with mock.patch.object(own, "load_template", lambda _: template):
            return own.load(folder, template="digits_triage", file=name)

    return read


def _rows() -> list[dict[str, Any]]:
    from fs_fedmllm.data.template_file import load_template

    option = load_template("digits_triage").options[0]
    return [
        {"id": "1", "image": "a.png", "text": "one", "label": 0, "split": "train"},
        {"id": "2", "image": None, "text": "two", "label": option, "split": "val"},
        {"id": "3", "image": "b.png", "text": None, "label": 1, "split": "test"},
    ]


def json_lines(folder: Path) -> Reader:
    """Your own data as JSON Lines."""
    data = "".join(json.dumps(row) + "\n" for row in _rows()).encode()
    return Reader([data], _own(folder, "d.jsonl"), changed_lines)


def json_list(folder: Path) -> Reader:
    """Your own data as a JSON list."""
    return Reader([json.dumps(_rows()).encode()], _own(folder, "d.json"), changed_text)


def _table(delimiter: str) -> bytes:
    import csv

    stream = io.StringIO()
    rows = [
        *_rows(),
        {"id": "4", "image": "a.png", "text": 'two "lines"; of\ntext, quoted', "label": "2", "split": "train"},
    ]
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def csv_table(folder: Path) -> Reader:
    """Your own data as CSV, whose delimiter is looked for."""
    seeds = [_table(mark) for mark in (",", ";", "\t")]
    seeds += [b"\xef\xbb\xbf" + seeds[0], b"sep=;\r\n" + seeds[1], seeds[0].replace(b"\r\n", b"\r")]
    return Reader(seeds, _own(folder, "d.csv"), changed_bytes)


def gzip_table(folder: Path) -> Reader:
    """Your own data as CSV packed with gzip: its content changed, or the packed bytes."""
    import gzip

    def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return changed_bytes(data, others, draw)
        return gzip.compress(changed_bytes(gzip.decompress(data), others, draw), mtime=0)

    return Reader([gzip.compress(_table(","), mtime=0)], _own(folder, "d.csv.gz"), change)


def _image(folder: Path) -> Callable[[bytes], object]:
    from fs_fedmllm.data.images import check_image, open_image

    path = folder / "i"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        check_image(str(path))
        open_image(str(path))

    return read


def dicom(folder: Path) -> Reader:
    """DICOM files: made here, and small ones that come with pydicom, without those that need the network."""
    from pydicom import config
    from pydicom.data import get_testdata_file

    config.settings.reading_validation_mode = config.WARN
    names = (
        *("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm", "CT_small.dcm"),
        *(
            "SC_rgb_small_odd.dcm",
            "SC_rgb_small_odd_jpeg.dcm",
            "SC_rgb_rle_2frame.dcm",
            "rtdose_1frame.dcm",
        ),
        *("SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm"),
    )
    found = [get_testdata_file(name, download=False) for name in names]
    seeds = [Path(str(name)).read_bytes() for name in found if name]

    def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
        """Mostly in what stands before the pixels, and behind the mark."""
        head, rest = (data[:132], data[132:]) if draw.random() < 0.9 else (b"", data)
        if draw.random() < 0.6:
            at = rest.rfind(b"\xe0\x7f\x10\x00")
            if at > 0:
                return head + changed_bytes(rest[:at], others, draw) + rest[at:]
        return head + changed_bytes(rest, others, draw)

    return Reader(seeds, _image(folder), change)


def heif(folder: Path) -> Reader:
    """HEIC files."""
    import pillow_heif
    from PIL import Image

    seeds = []
    for mode in ("RGB", "L", "RGBA"):
        stream = io.BytesIO()
        pillow_heif.from_pillow(Image.linear_gradient("L").resize((24, 16)).convert(mode)).save(stream, quality=50)
        seeds.append(stream.getvalue())
    return Reader(seeds, _image(folder), changed_bytes)


def parquet(folder: Path) -> Reader:
    """Your own data as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seeds = []
    rows = [{**row, "label": 0} for row in _rows()]
    for options in ({}, {"compression": "none", "use_dictionary": False}, {"compression": "zstd", "version": "1.0"}):
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream, **options)
        seeds.append(stream.getvalue())
    return Reader(seeds, _own(folder, "d.parquet"), changed_bytes)


def images(folder: Path) -> Reader:
    """Images of every format that is read."""
    from PIL import Image

    from fs_fedmllm.data.images import FORMATS

    seeds = []
    picture = Image.linear_gradient("L").resize((24, 16))
    for form in FORMATS:
        for mode in ("RGB", "L", "P"):
            stream = io.BytesIO()
            try:
                picture.convert(mode).save(stream, form)
            except (OSError, ValueError, KeyError):
                continue
            seeds.append(stream.getvalue())
    stream = io.BytesIO()
    picture.convert("I;16").save(stream, "PNG")
    seeds.append(stream.getvalue())
    return Reader(seeds, _image(folder), changed_bytes)


def ledger(folder: Path) -> Reader:
    """The record of what differential privacy has given away."""
    from fs_fedmllm.privacy.accountant import Release
    from fs_fedmllm.privacy.ledger import Ledger

    path = folder / "privacy.jsonl"
    written = Ledger(path, 0.01)
    for round_index in range(3):
        written.append(round_index, Release(1.5, 2, 4, "fixed"))
    seed = path.read_bytes()

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return [release.mechanism for release in Ledger(path, 0.01).releases]

    return Reader([seed], read, changed_lines)


def certificates(folder: Path) -> Reader:
    """Certificates, keys, requests and the list of the revoked."""
    from fs_fedmllm.distributed import authority as a
    from fs_fedmllm.distributed import identity as i
    from fs_fedmllm.errors import FedMLLMError

    a.create_authority(folder, "ward-study")
    a.create_identity(folder, 0, ["localhost"])
    a.create_identity(folder, 3)
    a.create_request(folder, "ward-study", 4)
    a.revoke(folder, folder / "client-3.crt")
    names = ("client-3.crt", "ca.crt", "client-3.key", "client-4.csr", "revoked.txt")
    good = {name: (folder / name).read_bytes() for name in names}

    def read(data: bytes) -> None:
        number, content = data[0] % len(names), data[1:]
        name = names[number]
        (folder / name).write_bytes(content)
        try:
            refused: list[FedMLLMError] = []
            steps: list[Callable[[], object]] = [lambda: 5 in i.Identity.load(folder, 3).revoked]
            if name == "client-3.crt":
                steps.append(lambda: i.role_of_pem(content))
            if name.endswith(".crt"):
                steps.append(lambda: a.fingerprint(i.load_certificate(folder / name)))
            if name.endswith(".csr"):
                steps = [lambda: a.key_fingerprint(folder / name), lambda: a.sign_request(folder, folder / name, 4)]
            for step in steps:
                try:
                    step()
                except FedMLLMError as error:
                    refused.append(error)
            if refused:
                raise refused[0]
        finally:
            (folder / name).write_bytes(good[name])
            (folder / "client-4.crt").unlink(missing_ok=True)

    def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
        text = data[0] % len(names) == 4
        return data[:1] + (changed_bytes if text else changed_pem)(data[1:], [o[1:] for o in others], draw)

    return Reader([bytes([number]) + good[name] for number, name in enumerate(names)], read, change)


def manifest(folder: Path) -> Reader:
    """The manifest of a split."""
    from fs_fedmllm.scenarios.manifest import ALGORITHM, ClientRecord, Manifest, read_manifest, write_manifest

    path = folder / "manifest.json"
    record = ClientRecord(("a", "b"), "bi", 0, {"0": 1, "1": 1}, {"both": 1, "image": 1}, {"text": 0.5}, 0.5)
    made = Manifest(ALGORITHM, "aligned", {"alpha": 1.0}, 0, "d", "f", 0, {1: record})
    write_manifest(made, path)
    seed = path.read_bytes()

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return read_manifest(path)

    return Reader([seed], read, changed_text)


def figures(folder: Path) -> Reader:
    """Figures of a sweep's runs as CSV."""
    from fs_fedmllm.tools.sweeps.figures_file import figures_csv, gathered, known_runs
    from fs_fedmllm.tools.sweeps.figures_line import MADE_BY
    from fs_fedmllm.tools.sweeps.table_file import parse_table

    table = parse_table({"axes": {"method": {"values": {"fedavg": {}, "=b": {}}}}, "metrics": ["test_acc"]}, "t")
    keys = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("fedavg", "=b")}
    rows = [
        {"method": name, "seed": 7, "metric": "test_acc", "value": 81.25, **dict.fromkeys(MADE_BY, "a"),
         "config": key, "folder": f"x-s7-{key[:12]}"}
        for key, name in keys.items()
    ]  # fmt: skip
    known = known_runs((key, 7, {"method": name}) for key, name in keys.items())
    seed, path = figures_csv(table, rows).encode(), folder / "figures.csv"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return gathered([path], folder / "none", table, known)

    return Reader([seed, b"\xef\xbb\xbf" + seed.replace(b"\n", b"\r\n")], read, changed_bytes)


READERS: dict[str, Callable[[Path], Reader]] = {
    made.__name__: made
    for made in (
        frames, site_store, checkpoint, ledger, certificates, manifest, images, json_lines, json_list, parquet,
        template, adapter, config, csv_table, gzip_table, dicom, heif, figures,
    )
}  # fmt: skip
