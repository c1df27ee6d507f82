"""How a round's updates become one mean delta: plain, robust, exact for LoRA, or weighted by modalities."""

from fs_fedmllm.aggregators.aggregator import Aggregator, BufferedAggregator
from fs_fedmllm.aggregators.build import build_aggregator, federated_names
from fs_fedmllm.aggregators.mean import RunningMean, check_update

__all__ = ["Aggregator", "BufferedAggregator", "RunningMean", "build_aggregator", "check_update", "federated_names"]
