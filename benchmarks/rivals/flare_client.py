"""The client side of ``flare.py``: NVFlare's client API around the plain Hugging Face client.

flare_client.py PLAN TIMES
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import hf_client
import nvflare.client as flare
from flare_model import to_names, to_pipes
from peft import get_peft_model_state_dict, set_peft_model_state_dict


def main(plan_file: str, times_file: str) -> None:
    """Train whenever the server asks; the first site notes when each round began."""
    plan = hf_client.read_plan(plan_file)
    model, processor = hf_client.build(plan)
    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    stamps, losses = [], []
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        stamps.append(time.perf_counter())
        index = received.current_round
        set_peft_model_state_dict(model, to_names(received.params))
        client = list(plan["rounds"][index])[site]
        losses.append(hf_client.train(model, processor, plan, index, client, micro=plan["batch_size"]))
        flare.send(
            flare.FLModel(
                params=to_pipes(get_peft_model_state_dict(model)),
                metrics={"accuracy": -losses[-1]},
                meta={"NUM_STEPS_CURRENT_ROUND": len(plan["clients"][client])},
            )
        )
        if site == 0:
            times = [{"round": later - earlier} for earlier, later in itertools.pairwise(stamps)]
            with open(times_file, "w", encoding="utf-8") as stream:
                json.dump({"times": times, "losses": losses}, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
