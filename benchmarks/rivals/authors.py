"""The loop of the authors' code and of OpenFedLLM, on the plan: (a) of the comparison.

One process; for each sampled client the global adapter is copied in by PEFT's function, a new ``Trainer`` runs with
batch 1 and accumulation, and the adapter is copied out; the vision tower and the processor see every image every
time; the evaluation samples up to 32 tokens, one row at a time.

    python benchmarks/rivals/authors.py plan.json times.json
"""

from __future__ import annotations

import copy
import json
import sys
import time

import hf_client
from peft import get_peft_model_state_dict, set_peft_model_state_dict


def main(plan_file: str, times_file: str) -> None:
    """Run the plan and write each round's seconds."""
    plan = hf_client.read_plan(plan_file)
    model, processor = hf_client.build(plan)
    shared = copy.deepcopy(get_peft_model_state_dict(model))
    times, losses = [], []
    for index, turns in enumerate(plan["rounds"]):
        started = time.perf_counter()
        local, sizes = [], []
        for client in turns:
            set_peft_model_state_dict(model, shared)
            losses.append(hf_client.train(model, processor, plan, index, client, micro=1))
            local.append(copy.deepcopy(get_peft_model_state_dict(model)))
            sizes.append(len(plan["clients"][client]))
        shared = {
            name: sum(state[name] * size for state, size in zip(local, sizes, strict=True)) / sum(sizes)
            for name in shared
        }
        set_peft_model_state_dict(model, shared)
        trained = time.perf_counter()
        hf_client.generate_one_by_one(model, processor, plan["test"])
        ended = time.perf_counter()
        times.append({"round": trained - started, "evaluated": ended - started})
    with open(times_file, "w", encoding="utf-8") as stream:
        json.dump({"times": times, "losses": losses}, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
