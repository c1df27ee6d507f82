"""What each site of a distributed run may read: a client its own folder, the server its evaluation rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config
from fs_fedmllm.config.missing_modalities import told_of_rows
from fs_fedmllm.data.client_folders import HEAD, SERVER, SERVER_HEAD, head_of, read_client, read_server, template_of
from fs_fedmllm.data.content import rows_sha256
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template, template_content
from fs_fedmllm.distributed.agreement import agreed_keys
from fs_fedmllm.distributed.answering import Handler
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import whole
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.files.sealing import json_sha256
from fs_fedmllm.models.fingerprint import base_fingerprint, processor_files
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.runs.belongings import base_of
from fs_fedmllm.scenarios.federated_data import (
    FederatedData,
    counted,
    deal,
    missing_rate,
    scenario_params,
    with_clients,
)
from fs_fedmllm.scenarios.fitting import check_best, check_stand_ins, fitting_template
from fs_fedmllm.scenarios.manifest import ALGORITHM, Manifest
from fs_fedmllm.scenarios.rates import MOST
from fs_fedmllm.scenarios.reading import read_dataset
from fs_fedmllm.scenarios.test_sets import read_test_sets
from fs_fedmllm.version import VERSION

logger = logging.getLogger(__name__)


def server_data(config: Config) -> FederatedData:
    """The rows that the server evaluates on, and nobody's training rows.

    ``data.root`` is the folder ``server/`` that ``data split --per-client-folders`` writes, or the data set itself. Of
    its training rows nothing is kept but the sha256 of how the scenario deals them, which the clients' must equal.

    Raises:
        ConfigError: as for every run.
        DataError: a file is missing, was changed, or holds a bad row.
    """
    config, root = site_config(config), Path(config.data.root)
    if (root / HEAD).is_file():
        raise ConfigError(f"{root} (data.root) is a client's folder; the server's is named {SERVER!r}, beside it.")
    _check_level(root)
    if (root / SERVER_HEAD).is_file():
        rows, head = read_server(root)
        dataset = Dataset(str(head.get("dataset")), template_of(root, head), (), rows["val"], rows["test"])
        split = str(head.get("manifest_sha256") or "")
    else:
        dataset = read_dataset(config)
        split = ""
    template = fitting_template(config, dataset)
    if dataset.train and not config.fedmllm.network.own_rows:
        split = deal(config, dataset, template)[1].sha256
    dataset = dataclasses.replace(dataset, train=())
    check_best(config, dataset, template)
    check_stand_ins(config, dataset)
    further = read_test_sets(config, dataset, template)
    manifest = _manifest(config, dataset)
    return FederatedData(dataset, template, {}, manifest, split or _evaluated_on(dataset), test_sets=further)


def _evaluated_on(dataset: Dataset) -> str:
    """What a server knows its run by that has not the rows of a split."""
    return hashlib.sha256(f"evaluated on {dataset.name} {dataset.fingerprint}".encode()).hexdigest()


def split_of_clients(data: FederatedData) -> str:
    """sha256 of the manifest that clients' rows must come from; empty where the server does not know it."""
    return "" if data.split == _evaluated_on(data.dataset) else data.split


def client_data(config: Config, client: int = 0) -> tuple[int, FederatedData]:
    """The rows of one client; nothing outside its folder is read.

    ``data.root`` is the client's folder, as ``data split --per-client-folders`` writes it; or the whole data set, of
    which the client takes its share of the scenario, the same rows as on one machine; or, with
    ``fedmllm.network.own_rows``, a data set of the site's own, all of whose training rows are the client's.

    Args:
        config: of the site.
        client: id; 0 takes the folder's.

    Returns:
        The id and the rows.

    Raises:
        ConfigError: there is no id, or another one in the folder.
        DataError: a file is missing, was changed, or holds a bad row.
    """
    config, root, name = site_config(config), Path(config.data.root), ""
    rows: Sequence[Sample]
    if (root / SERVER_HEAD).is_file():
        raise ConfigError(
            f"{root} (data.root) is the server's folder; those of clients are client_1 ... beside it."
        ).telling("data.root is the server's folder, not a client's")
    _check_level(root)
    if (root / HEAD).is_file():
        rows, head = read_client(root)
        written = head.get("client")
        if type(written) is not int or (client and written != client):
            raise ConfigError(
                f"{root} (data.root) is the folder of client {written}, not of client {client}."
            ).telling(f"data.root is another client's folder, not client {client}'s")
        client = written
        dataset = Dataset(str(head.get("dataset")), template_of(root, head), rows, (), ())
        split, name = str(head.get("manifest_sha256") or ""), str(head.get("name") or "")
    elif not client:
        raise ConfigError(
            f"{root} (data.root) holds no {HEAD}, so it is not clear which client this is. Name a folder that "
            "fs-fedmllm data split --per-client-folders wrote, or give the id with --id (distribute.data_idx): the "
            "client then takes its share of the whole data set."
        )
    else:
        _check_id(config, client)
        own = config.fedmllm.network.own_rows
        dataset = read_dataset(config, by_client=not own)
        rows, split = dataset.train, ""
        if not own:
            clients, manifest = deal(config, dataset, fitting_template(config, dataset))
            rows, split, name = clients[client], manifest.sha256, manifest.names.get(client, "")
            logger.info("Client %d takes its share: %d of %d training rows.", client, len(rows), len(dataset.train))
        dataset = dataclasses.replace(dataset, train=tuple(rows), val=(), test=())
    _check_id(config, client)
    if not rows:
        raise ConfigError(f"{root} has no training rows for client {client}.").telling(
            f"data.root has no training rows for client {client}"
        )
    template = fitting_template(config, dataset)
    manifest, names = _manifest(config, dataset), {client: name} if name else {}
    return client, FederatedData(dataset, template, {client: rows}, manifest, split or "own", names)


def site_config(config: Config) -> Config:
    """The configuration with its number of clients, where that is for the rows to say (``fedmllm_given``).

    A site's folder has it from whoever wrote it; a site that has the whole data set reads it there.

    Raises:
        ConfigError: the site has but its own rows, and nobody told it.
    """
    if not config.counts_clients:
        return config
    root = Path(config.data.root)
    _check_level(root)
    found = next((name for name in (HEAD, SERVER_HEAD) if (root / name).is_file()), "")
    if found:
        clients = head_of(root, found).get("clients")
        if type(clients) is not int or not 1 <= clients <= MOST:
            raise ConfigError(
                f"{root / found} does not say how many clients there are. Write the folders again with data split, or "
                "set federate.client_num, the same on every site."
            )
        return with_clients(config, clients)
    if config.fedmllm.network.own_rows:
        raise ConfigError(
            "federate.client_num is not set, and a site with rows of its own (fedmllm.network.own_rows) cannot know "
            "how many clients there are. Set it, the same on every site."
        )
    return counted(config)[0]


def _check_id(config: Config, client: int) -> None:
    if not 1 <= client <= config.federate.client_num:
        raise ConfigError(f"There is no client {client}: federate.client_num is {config.federate.client_num}.")


def _check_level(root: Path) -> None:
    """Refuse the folder above the sites' own: an embedded data set would be taken in their place."""
    if (root / SERVER / SERVER_HEAD).is_file() or (root / "client_1" / HEAD).is_file():
        raise ConfigError(
            f"{root} (data.root) holds the folders of all sites; name the one of this site, such as "
            f"{root / 'client_1'} or {root / SERVER}, and give no site another's."
        ).telling("data.root holds the folders of all sites, not that of this one")


def _manifest(config: Config, dataset: Dataset) -> Manifest:
    """The scenario's parameters, without any row: a site knows but its own."""
    params = scenario_params(config, dataset).as_dict()
    return Manifest(ALGORITHM, config.scenario, params, config.seed, dataset.name, dataset.fingerprint, 0, {})


def agreement(config: Config, template: Template) -> dict[str, Any]:
    """What server and clients must have alike: keys of the configuration, and the prompts' content."""
    keys = agreed_keys(config)
    keys.pop("fedmllm.template", None)  # a path, perhaps; what is in it counts
    content = json.dumps({"name": template.name, **template_content(template)}, sort_keys=True, default=str)
    return {**keys, "the prompt template": f"{template.name} {hashlib.sha256(content.encode()).hexdigest()[:16]}"}


def introduction(config: Config, client: int, data: FederatedData) -> dict[str, Any]:
    """What a client says when it joins; nothing about any single row."""
    rows = data.clients[client]
    told = told_of_rows(config)
    counts = Counter(row.presence for row in rows)
    presence = {name: count if told == "counts" else 1 for name, count in sorted(counts.items())}
    return {
        "rows": len(rows),
        "missing_rate": missing_rate(rows),
        **({"presence": presence} if told else {}),
        "version": VERSION,
        "agreed": agreement(config, data.template),
        "manifest": data.split if data.split != "own" else "",
        "base": base_fingerprint(config.model.fedmllm),
        "processor": processor_files(config.model.fedmllm),
        **({"name": data.names[client]} if client in data.names else {}),
    }


def site_identity(config: Config, client: int, rows: Sequence[Sample], template: Template | None = None) -> str:
    """What a client's state on disk belongs to: its id, its rows and images, the agreed keys, prompts and base."""
    agreed = agreed_keys(config) if template is None else agreement(config, template)
    return f"{client}-{json_sha256(agreed)}-{rows_sha256(rows)}-{base_of(config)[:16]}"


#: Client, round, what the server sent, what the client has kept -> its update.
Train = Callable[[int, int, Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], ClientUpdate]


def update_handler(client: int, train: Train) -> Handler:
    """The handler of the phase ``turn``: train, and answer with the client's adapter.

    Args:
        client: id.
        train: gives the update; :meth:`fs_fedmllm.rounds.client.ClientSide.update` does.
    """

    def handle(task: Message, client_state: State) -> tuple[Message, State]:
        try:
            update = train(client, whole(task.header, "round"), dict(task.tensors), client_state)
        except UpdateError as error:
            return Message("answer", {"failed": f"client {client}: {error}"}), client_state
        log = dataclasses.asdict(update.log)
        return Message("answer", {"rows": update.rows, "log": log}, update.state), update.client_state

    return handle


def checked(clients: ClientSide) -> Train:
    """Training behind a check that the server's adapter is one of this model's."""
    names = clients.adapter.names

    def train(
        client: int, round_index: int, message: Mapping[str, torch.Tensor], client_state: Mapping[str, torch.Tensor]
    ) -> ClientUpdate:
        missing = [name for name in names if name not in message]
        if missing:
            raise ConfigError(
                f"The server's adapter lacks {len(missing)} tensors of this model, the first {missing[0]!r}. Use the "
                "same model.fedmllm on every site."
            )
        return clients.update(client, round_index, message, client_state)

    return train
