"""How a run's updates become vectors, and the unmasked sum a mean: alone, or with differential privacy on top.

With differential privacy every update has weight 1 and an L2 norm of at most ``clip_norm``, so that is the range of a
value too. Rounding to whole numbers may lengthen a vector, so the client clips to a bound that is shorter by as much:
what is summed is never longer than ``clip_norm``. The server cannot check one client's norm any more. A client that
does not clip gives up its own protection and can harm the model; the epsilon of those that do clip stands.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.config.privacy import PrivacyConfig, threshold_of
from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.privacy.clipping import clip
from fs_fedmllm.privacy.secure_aggregation.fixed_point import FixedPoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """What all sides of a round agree on.

    Attributes:
        codec: values to whole numbers.
        threshold: clients that must be there at the end.
        clip_norm: of differential privacy; 0 without.
        expected: what the sum is divided by under differential privacy.
    """

    codec: FixedPoint
    threshold: int
    clip_norm: float = 0.0
    expected: int = 0

    @classmethod
    def of(
        cls,
        privacy: PrivacyConfig,
        expected: int,
        params: Mapping[str, torch.Tensor],
        clients: int,
        weight_bound: int,
    ) -> Policy:
        """For a round.

        Args:
            privacy: ``fedmllm.privacy``.
            expected: clients in a round by configuration.
            params: the federated tensors.
            clients: how many begin the round.
            weight_bound: the largest weight of a client; 1 where all weigh the same.

        Raises:
            PrivacyError: rounding would eat up the clipping bound, or rows cannot be added up.
        """
        clip_norm = privacy.dp.clip_norm
        codec = FixedPoint.of(
            params,
            clients,
            clip_norm if privacy.dp.enabled else privacy.secure_aggregation.value_range,
            1 if privacy.dp.enabled else weight_bound,
        )
        if privacy.dp.enabled and codec.rounding > clip_norm / 10:
            raise PrivacyError(
                f"{codec.words - 1} parameters of {clients} clients are too many for 32-bit words under differential "
                "privacy: rounding alone may change an update by a tenth of fedmllm.privacy.dp.clip_norm."
            )
        # A share of those that the configuration says, whatever number of them is there to begin.
        threshold = threshold_of(privacy.secure_aggregation.threshold, expected)
        return cls(codec, threshold, clip_norm, expected)

    def vector(
        self, client: int, params: Mapping[str, torch.Tensor], update: Mapping[str, torch.Tensor], weight: int
    ) -> np.ndarray:
        """A client's update as a vector, before any mask.

        Args:
            client: id, for the log.
            params: the global adapter.
            update: the client's.
            weight: rows, or 1.

        Raises:
            UpdateError: the update does not fit the adapter or is not finite.
        """
        delta = {
            name: tensor.detach().cpu().double() - params[name].double()
            for name, tensor in update.items()
            if name in params
        }
        if len(delta) == len(update) and self.clip_norm:
            delta = clip(delta, self.clip_norm - self.codec.rounding)
        vector, beyond = self.codec.encode(delta, weight)
        if beyond:
            logger.warning(
                "Client %d: %d values were beyond fedmllm.privacy.secure_aggregation.value_range = %g and set to its "
                "end; raise it.",
                *(client, beyond, self.codec.value_range),
            )
        return vector

    def mean(self, total: np.ndarray) -> State:
        """The mean, from the unmasked sum."""
        if self.clip_norm:
            return self.codec.decode(total, divisor=self.expected)
        return {name: tensor.float() for name, tensor in self.codec.decode(total).items()}
