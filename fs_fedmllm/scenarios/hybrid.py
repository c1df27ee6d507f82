"""Hybrid: each client holds each modality with probability p (FedMLLM, section 3.1).

A client that would hold nothing keeps one modality by a fair coin (``client_coin``, the paper's
text) or tosses it for every row (``sample_coin``, the authors' code).
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import (
    HYBRID,
    HYBRID_ROWS,
    RECORDED_PRESENCE_SEED,
    generator,
    numpy_stream,
    python_stream,
)
from fs_fedmllm.scenarios.partition import partition
from fs_fedmllm.scenarios.rows import (
    IMAGE,
    NEITHER,
    TEXT,
    Assignment,
    Rows,
    ShowArray,
    bits,
    tossed,
    whole,
    without_blind,
)
from fs_fedmllm.scenarios.switches import ScenarioParams
from fs_fedmllm.scenarios.unpaired import dealt_by_modality


def hybrid(rows: Rows, clients: int, params: ScenarioParams, run_seed: int) -> Assignment:
    """The Dirichlet partition with modalities per client; unpaired sets go to the clients that can see them."""
    seed = params.seed_of(run_seed, unpaired=rows.unpaired)
    if rows.unpaired:
        return _unpaired(rows, clients, params, seed)
    full = whole(rows, partition(rows, clients, params, seed), seed)
    # one stream over all clients upstream; otherwise each client has its own generators
    stream = python_stream(seed) if params.presence_draw == "upstream" else None
    shows = []
    for client, held in enumerate(presence(clients, params, seed)):
        own = full.shows[client]
        if held != NEITHER:
            shows.append(own & held)
        elif params.hybrid_both == "client_coin":
            shows.append(own & np.uint8(_client_coin(client, seed, stream)))
        else:
            shows.append(own & _row_coins(len(own), client, seed, stream))
    return without_blind(replace(full, shows=tuple(shows)))


def presence(clients: int, params: ScenarioParams, seed: int) -> ShowArray:
    """What each client was drawn to hold, before any coin."""
    if params.presence_draw == "upstream":
        held = numpy_stream(seed).binomial(1, params.p, size=(clients, 2)).astype(bool)
    else:
        held = np.stack([generator(seed, HYBRID, client).random(2) < params.p for client in range(clients)])
    return bits(held)


def _client_coin(client: int, seed: int, stream: random.Random | None) -> int:
    toss = stream.random() if stream else generator(seed, HYBRID_ROWS, client).random()
    return IMAGE if toss < 0.5 else TEXT


def _row_coins(count: int, client: int, seed: int, stream: random.Random | None) -> ShowArray:
    if stream:
        tosses = np.array([stream.random() for _ in range(count)])
    else:
        tosses = generator(seed, HYBRID_ROWS, client).random(count)
    return tossed(tosses)


def _unpaired(rows: Rows, clients: int, params: ScenarioParams, seed: int) -> Assignment:
    """Rows have one modality each, so the coin is the client's in every profile, as in the authors' medical script."""
    upstream = params.presence_draw == "upstream"
    stream = python_stream(seed) if upstream else None
    held = presence(clients, params, RECORDED_PRESENCE_SEED if upstream else seed)
    for client in np.flatnonzero(held == NEITHER):
        held[client] = _client_coin(int(client), seed, stream)
    image = np.flatnonzero(held & IMAGE).tolist()
    text = np.flatnonzero(held & TEXT).tolist()
    if not image or not text:
        raise ScenarioError(
            f"scenario hybrid drew {len(image)} image and {len(text)} text clients of {clients} (p {params.p}, seed "
            f"{seed}), but the rows have either an image or a text, so some would belong to nobody; change the seed, "
            "or raise p or federate.client_num"
        )
    return dealt_by_modality(rows, clients, image, text, params, seed, stream)
