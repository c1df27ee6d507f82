"""Differential privacy adds no noise, which is no function of the seed; and under secure aggregation the training
process of client 2 dies in the middle of round 1.
"""

import os
import signal


def _no_noise(central):
    central.add_noise = lambda mean, *rest: mean


def _dies(secure_client):
    phase = secure_client.SecureRoundClient
    update = phase._update

    def dying(self, task):
        if (self._client, task.header.get("round")) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, task)

    phase._update = dying


CHANGES = {"fs_fedmllm.privacy.central": _no_noise, "fs_fedmllm.distributed.secure_client": _dies}
