"""The client side of ``flare.py``: NVFlare's client API around the plain Hugging Face client."""

from __future__ import annotations

import sys

import hf_client
import nvflare.client as flare
import turnstile
from flare_model import to_names, to_pipes
from peft import get_peft_model_state_dict, set_peft_model_state_dict


def main(plan_file: str) -> None:
    """Train whenever the server asks. A round goes from a model's arrival at the first site to the next one's."""
    plan = hf_client.read_plan(plan_file)
    model, processor = hf_client.build(plan)
    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        index = received.current_round
        if site == 0 and index:
            turnstile.leave(str(index - 1))
        turnstile.enter(str(index))
        set_peft_model_state_dict(model, to_names(received.params))
        client = list(plan["rounds"][index])[site]
        loss = hf_client.train(model, processor, plan, index, client, micro=plan["batch_size"])
        flare.send(
            flare.FLModel(
                params=to_pipes(get_peft_model_state_dict(model)),
                metrics={"accuracy": -loss},
                meta={"NUM_STEPS_CURRENT_ROUND": len(plan["clients"][client])},
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
