"""A suite that tells a correct federated algorithm from one that only runs; use it on your own.

    from fs_fedmllm.conformance import certify
    print(certify(MyServerOptimizer(lr=1.0)))

or ``python -m fs_fedmllm.conformance my_package.my_module:MyServerOptimizer``, or one pytest parameter per check:

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_mine(check):
        check(MyServerOptimizer(lr=1.0), RunningMean)

``CHECKS`` are for a server optimizer and the mean that feeds it, ``CLIENT_CHECKS`` for a client's penalty,
``FEDERATED_CHECKS`` for algorithms whose clients keep something between their rounds.
"""

from fs_fedmllm.conformance.client import CLIENT_CHECKS, toy_training
from fs_fedmllm.conformance.examples import aggregate, example_params, example_round, same_bits
from fs_fedmllm.conformance.federated import FEDERATED_CHECKS, OurAlgorithm, federate
from fs_fedmllm.conformance.references import FEDAVG_LIMIT, REFERENCES, WEIGHTING, Hyper
from fs_fedmllm.conformance.server import (
    CHECKS,
    NotApplicable,
    certify,
    check_centralised,
    check_equals_fedavg,
    check_noop,
    check_order,
    check_precision,
    check_pure,
    check_resume,
    check_single_client,
    check_trajectory,
    check_weights,
    fedavg_limit,
)

__all__ = [
    "CHECKS",
    "CLIENT_CHECKS",
    "FEDAVG_LIMIT",
    "FEDERATED_CHECKS",
    "REFERENCES",
    "WEIGHTING",
    "Hyper",
    "NotApplicable",
    "OurAlgorithm",
    "aggregate",
    "certify",
    "check_centralised",
    "check_equals_fedavg",
    "check_noop",
    "check_order",
    "check_precision",
    "check_pure",
    "check_resume",
    "check_single_client",
    "check_trajectory",
    "check_weights",
    "example_params",
    "example_round",
    "fedavg_limit",
    "federate",
    "same_bits",
    "toy_training",
]
