"""What the model makes of the clients' images and texts, one vector a row (Figure 4 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import configured_lengths
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.vision import VisionEntry, VisionFeatures
from fs_fedmllm.scenarios.federated_data import FederatedData


@dataclass(frozen=True)
class Features:
    """Vectors and the client of each.

    Attributes:
        vision: of the rows that show an image: the vision tower's output, averaged over its tokens.
        text: of the rows that show a text or ask a question: its token embeddings, averaged.
    """

    vision: tuple[np.ndarray, list[int]]
    text: tuple[np.ndarray, list[int]]


def client_features(config: Config, data: FederatedData, rows: int) -> Features:
    """Features of at most ``rows`` rows of each client, evenly spaced, as the client may see them."""
    mllm = load_mllm(config.model.fedmllm, use_gpu=config.use_gpu, device_index=config.device)
    vision = VisionFeatures(mllm, config.fedmllm.vision_cache.memory_mib << 20)
    encoder = Encoder(mllm, data.template, config.fedmllm.prompt, vision, configured_lengths(config, mllm))
    seen: list[np.ndarray] = []
    read: list[np.ndarray] = []
    seen_by: list[int] = []
    read_by: list[int] = []
    for client, own in sorted(data.clients.items()):
        limit = min(rows, len(own))
        for row in (own[i * len(own) // limit] for i in range(limit)):
            if row.image is not None:
                seen.append(_image(row, encoder))
                seen_by.append(client)
            words = text_of(row)
            if words:
                read.append(_text(words, encoder, mllm))
                read_by.append(client)
    return Features((_stack(seen), seen_by), (_stack(read), read_by))


def text_of(row: Sample) -> str:
    """What the client reads of a row: its text, or its question where rows ask their own."""
    return " ".join(part for part in (row.text, row.question) if part)


def _stack(vectors: list[np.ndarray]) -> np.ndarray:
    return np.stack(vectors) if vectors else np.zeros((0, 1), dtype=np.float32)


def _image(row: Sample, encoder: Encoder) -> np.ndarray:
    (encoded,) = encoder.encode([row])
    return _pooled(encoder.images.entry(encoded))


def _pooled(entry: VisionEntry) -> np.ndarray:
    features = torch.cat(entry.features) if isinstance(entry.features, list) else entry.features
    return features.reshape(-1, features.shape[-1]).float().mean(0).cpu().numpy()


def _text(words: str, encoder: Encoder, mllm: MLLM) -> np.ndarray:
    ids = torch.tensor(encoder.text_tokens(words) or (0,), device=mllm.device)
    with torch.no_grad():
        return mllm.inner.get_input_embeddings()(ids).float().mean(0).cpu().numpy()
