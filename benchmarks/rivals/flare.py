"""NVFlare's simulator with the plain Hugging Face client: (c) of the comparison.

There are as many sites as clients in a round, and each takes the rows of the client whose turn it is: NVFlare keeps
a process for each site, and this way every process loads the model once.

    RIVALS_FOLDER=... RIVALS_NAME=nvflare python benchmarks/rivals/flare.py plan.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = HERE + os.pathsep + os.environ.get("PYTHONPATH", "")
sys.path.insert(0, HERE)


def main(plan_file: str) -> None:
    """Run the plan in the simulator."""
    from flare_model import Adapter
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe import SimEnv

    with open(plan_file, encoding="utf-8") as stream:
        rounds = json.load(stream)["rounds"]
    recipe = FedAvgRecipe(
        name="plan",
        model=Adapter(os.path.abspath(plan_file)),
        min_clients=len(rounds[0]),
        num_rounds=len(rounds),
        train_script=os.path.join(HERE, "flare_client.py"),
        train_args=os.path.abspath(plan_file),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = recipe.execute(SimEnv(num_clients=len(rounds[0]), num_threads=len(rounds[0]), workspace_root=folder))
        print("status:", run.get_status())


if __name__ == "__main__":
    main(*sys.argv[1:])
