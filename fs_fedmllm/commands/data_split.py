"""``fs-fedmllm data split | export``: a scenario applied, and the clients' rows written for whoever reads them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fs_fedmllm.commands.tables import client_table
from fs_fedmllm.commands.targets import target_config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.quoting import shell_word

if TYPE_CHECKING:
    from fs_fedmllm.config import Config
    from fs_fedmllm.data.template import Template
    from fs_fedmllm.scenarios.federated_data import FederatedData


def federated(config: Config, manifest: str | None = None) -> FederatedData:
    """The data after the scenario: drawn, or as a manifest records it; further test sets are no part of it.

    Raises:
        ScenarioError: the manifest was made from other files or rows.
    """
    import dataclasses

    from fs_fedmllm.scenarios.federated_data import counted, prepare_data, recorded_data

    config = dataclasses.replace(config, fedmllm=dataclasses.replace(config.fedmllm, test_sets={}))
    return prepare_data(*counted(config)) if manifest is None else recorded_data(config, manifest)


def _dealt(args: argparse.Namespace) -> tuple[Config, FederatedData, Path]:
    """The rows of every client, and a folder for them that holds no other split; its manifest is written."""
    from fs_fedmllm.files.atomic import private_folder
    from fs_fedmllm.scenarios.manifest import read_manifest, write_manifest

    config = target_config(args.config, args.overrides)
    data = federated(config, args.from_manifest)
    out = Path(args.out)
    private_folder(out)
    kept = out / "manifest.json"
    if kept.exists() and read_manifest(kept).sha256 != data.manifest.sha256:
        raise ConfigError(f"{out} holds another split; name another folder with --out, or remove it.")
    write_manifest(data.manifest, kept)
    return config, data, out


def split(args: argparse.Namespace) -> int:
    """Write the manifest and the clients' files."""
    from fs_fedmllm.data.client_folders import SERVER, place_template, write_client, write_server
    from fs_fedmllm.data.records import write_records
    from fs_fedmllm.scenarios.reading import template_of

    config, data, out = _dealt(args)
    asked = template_of(config, data.dataset)
    for client, rows in data.clients.items():
        if args.per_client_folders:
            record = data.manifest.clients.get(client)
            head = {
                "client": client,
                **({"name": data.names[client]} if client in data.names else {}),
                "clients": len(data.manifest.clients),
                "dataset": data.dataset.name,
                "scenario": data.manifest.scenario,
                "beta": record.beta if record else None,
                "manifest_sha256": data.manifest.sha256,
            }
            write_client(out / f"client_{client}", rows, data.template, head, images=args.images,
                         variant=config.fedmllm.prompt)  # fmt: skip
            place_template(out / f"client_{client}", asked)
        else:
            write_records(rows, out / f"client_{client}.json", data.template, config.fedmllm.prompt)
    if args.per_client_folders:
        head = {
            "dataset": data.dataset.name,
            "clients": len(data.manifest.clients),
            "manifest_sha256": data.manifest.sha256,
        }
        splits = {"val": data.dataset.val, "test": data.dataset.test}
        write_server(out / SERVER, splits, data.template, head, images=args.images)
        place_template(out / SERVER, asked)
    print(client_table(data.clients, data.names))
    print(f"scenario {data.manifest.scenario}, seed {data.manifest.seed}, manifest sha256 {data.manifest.sha256}")
    print(f"written to {out}")
    return 0


def export(args: argparse.Namespace) -> int:
    """Write the clients' rows in another program's form."""
    from fs_fedmllm.sft.export import write_split

    config, data, out = _dealt(args)
    variant = config.fedmllm.prompt
    for client, rows in data.clients.items():
        write_split(out / f"client_{client}", "train", rows, data.template, variant)
    for split, rows in (("val", data.dataset.val), ("test", data.dataset.test)):
        if rows:
            write_split(out / "server", split, rows, data.template, variant)
    print(client_table(data.clients, data.names))
    for said in _beside_trl(config, data.template):
        print(said)
    first = shell_word(out / "client_1")
    print(f"written to {out}; for example: trl sft --dataset_name {first} --model_name_or_path ...")
    return 0


def _beside_trl(config: Config, template: Template) -> list[str]:
    """In what TRL's own script would train the configuration's model on other tokens than a run here does."""
    from fs_fedmllm.errors import ModelError
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.skeleton import skeleton
    from fs_fedmllm.sft.export import differences

    path = config.model.fedmllm.path
    try:
        encoder = Encoder(skeleton(config.model.fedmllm), template, config.fedmllm.prompt, None)
    except ModelError as error:
        return [f"What TRL makes of these rows was not compared with what a run trains on: {error}"]
    told = differences(encoder.completions, encoder.mllm.tokenizer)
    return [f"With {path}, TRL's own script {said}." for said in told]
