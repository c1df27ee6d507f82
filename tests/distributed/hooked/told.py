"""Sites write down what they compute, in the folder ``TOLD`` that no kit has, and client 1 waits where a test says.

What a client was sent and what it made of that is in ``ROUND-CLIENT.safetensors``; its numbers before they were masked
in ``ROUND-CLIENT.numbers``, and after it in ``ROUND-CLIENT.masked``. While there is a file ``hold-PHASE-ROUND``,
client 1 answers nothing in that phase.
"""

import os
import shutil
import sys
from pathlib import Path

FOLDER = Path(os.environ["TOLD"])
#: Seconds; a test scans what the server holds meanwhile.
PATIENCE = 2400.0


def _updates(client):
    update = client.ClientSide.update

    def telling(self, number, index, message, *rest):
        from safetensors.torch import save_file

        done = update(self, number, index, message, *rest)
        tensors = {f"sent/{name}": message[name] for name in done.state}
        tensors |= {f"made/{name}": tensor for name, tensor in done.state.items()}
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, FOLDER / f"{index}-{number}.part")
        (FOLDER / f"{index}-{number}.part").rename(FOLDER / f"{index}-{number}.safetensors")
        return done

    client.ClientSide.update = telling


def _numbers(secure_client):
    phase = secure_client.SecureRoundClient
    update = phase._update

    def telling(self, task):
        answer = update(self, task)
        name = f"{task.header['round']}-{self._client}"
        shutil.copy(self._memory._folder / "update.bin", FOLDER / f"{name}.numbers")
        answer.tensors["masked"].numpy().tofile(FOLDER / f"{name}.masked")
        return answer

    phase._update = telling


def _waits(site):
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from waiting import wait_until

    work = site.Site._work

    def waiting(self, client, own, task):
        hold = FOLDER / f"hold-{task.header['phase']}-{task.header['round']}"
        wait_until(lambda: client != 1 or not hold.exists(), PATIENCE, pause=0.1)
        return work(self, client, own, task)

    site.Site._work = waiting


CHANGES = {
    "fs_fedmllm.rounds.client": _updates,
    "fs_fedmllm.distributed.secure_client": _numbers,
    "fs_fedmllm.hosts.nvflare.site": _waits,
}
