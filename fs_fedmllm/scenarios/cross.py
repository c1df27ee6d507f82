"""Cross: each client keeps one modality, images here and text there (FedMLLM, section 3.1: I3T7 and so on)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import CROSS, generator, python_stream
from fs_fedmllm.scenarios.partition import partition
from fs_fedmllm.scenarios.rows import IMAGE, TEXT, Assignment, Rows, whole, without_blind
from fs_fedmllm.scenarios.switches import ScenarioParams
from fs_fedmllm.scenarios.unpaired import dealt_by_modality


def cross(rows: Rows, clients: int, params: ScenarioParams, run_seed: int) -> Assignment:
    """The Dirichlet partition with one modality per client; unpaired sets go to the clients that can see them."""
    count = image_count(params, clients)
    seed = params.seed_of(run_seed, unpaired=rows.unpaired)
    if rows.unpaired:
        return _unpaired(rows, clients, count, params, seed)
    chosen = set(image_clients(clients, count, params, seed))
    full = whole(rows, partition(rows, clients, params, seed), seed)
    shows = tuple(own & np.uint8(IMAGE if client in chosen else TEXT) for client, own in enumerate(full.shows))
    return without_blind(replace(full, shows=shows))


def image_count(params: ScenarioParams, clients: int) -> int:
    """How many clients keep images, checked against the number of clients."""
    image, text = params.image_clients, params.text_clients
    if image is None and text is None:
        raise ScenarioError(
            f"scenario cross needs image_clients and text_clients, {clients} in sum, such as "
            f"image_clients: {clients // 2} and text_clients: {clients - clients // 2}"
        )
    image = clients - text if image is None and text is not None else image
    assert image is not None
    text = clients - image if text is None else text
    if image + text != clients or min(image, text) < 0:
        raise ScenarioError(
            f"{image} image + {text} text clients of {clients}: the two must sum to federate.client_num; "
            "change image_clients, text_clients or federate.client_num"
        )
    return image


def image_clients(clients: int, count: int, params: ScenarioParams, seed: int) -> list[int]:
    """The clients (from 0) that keep images, in the order drawn."""
    if params.cross_draw == "upstream":
        return python_stream(seed).sample(range(clients), count)
    return sorted(generator(seed, CROSS).permutation(clients)[:count].tolist())


def _unpaired(rows: Rows, clients: int, count: int, params: ScenarioParams, seed: int) -> Assignment:
    if not 0 < count < clients:
        raise ScenarioError(
            f"{count} image + {clients - count} text clients: the rows have either an image or a text, so some "
            "would belong to nobody; use at least one client of each"
        )
    # the authors draw the clients and then shuffle the rows with the same stream
    stream = python_stream(seed) if params.cross_draw == "upstream" else None
    image = stream.sample(range(clients), count) if stream else image_clients(clients, count, params, seed)
    text = [client for client in range(clients) if client not in set(image)]
    return dealt_by_modality(rows, clients, image, text, params, seed, stream)
