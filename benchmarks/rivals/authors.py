"""The loop of the authors' code and of OpenFedLLM, on the plan: (a) of the comparison.

One process; for each sampled client the global adapter is copied in by PEFT's function, a new ``Trainer`` runs with
batch 1 and accumulation, and the adapter is copied out; the vision tower and the processor see every image every
time; the evaluation samples up to 32 tokens, one row at a time.

    RIVALS_FOLDER=... RIVALS_NAME=authors python benchmarks/rivals/authors.py plan.json
"""

from __future__ import annotations

import copy
import sys

import hf_client
import turnstile
from peft import get_peft_model_state_dict, set_peft_model_state_dict


def main(plan_file: str) -> None:
    """Run the plan."""
    plan = hf_client.read_plan(plan_file)
    model, processor = hf_client.build(plan)
    shared = copy.deepcopy(get_peft_model_state_dict(model))
    for index, turns in enumerate(plan["rounds"][: plan["counted"]]):
        with turnstile.turn(str(index)):
            local, sizes = [], []
            for client in turns:
                set_peft_model_state_dict(model, shared)
                print(index, client, hf_client.train(model, processor, plan, index, client, micro=1), flush=True)
                local.append(copy.deepcopy(get_peft_model_state_dict(model)))
                sizes.append(len(plan["clients"][client]))
            shared = {
                name: sum(state[name] * size for state, size in zip(local, sizes, strict=True)) / sum(sizes)
                for name in shared
            }
            set_peft_model_state_dict(model, shared)
        with turnstile.turn(f"{index}-evaluation"):
            hf_client.generate_one_by_one(model, processor, plan["test"])


if __name__ == "__main__":
    main(*sys.argv[1:])
