"""The client side of ``flower.py``; a module of its own, because Flower's actors import it."""

from __future__ import annotations

import functools
from typing import Any

import hf_client
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

app = ClientApp()


@functools.cache
def _kept(plan_file: str) -> tuple[Any, Any]:
    return hf_client.build(hf_client.read_plan(plan_file))


@app.train()
def train(message: Message, context: Context) -> Message:
    """A client's turn. The strategy draws the nodes; which of them holds which client's rows does not matter here."""
    settings = message.content["config"]
    plan = hf_client.read_plan(settings["plan"])
    model, processor = _kept(settings["plan"]) if settings["keep"] == "actor" else hf_client.build(plan)
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    client = settings[f"node-{message.metadata.dst_node_id}"]
    round_index = int(settings["server-round"]) - 1
    loss = hf_client.train(model, processor, plan, round_index, client, micro=plan["batch_size"])
    metrics = MetricRecord({"loss": loss, "num-examples": len(plan["clients"][client])})
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
