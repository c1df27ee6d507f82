"""Extras of the installation: what each brings, and the one sentence for what is missing.

Nothing is imported to find out, so a run asks before it reads data or loads a model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from fs_fedmllm.config import Config
from fs_fedmllm.config.metric_paths import check_metric_files, metric_paths
from fs_fedmllm.errors import ConfigError, FedMLLMError, HostError, ModelError, PrivacyError

#: Extra -> the modules that it is for, by the name to import, and the name on the index.
EXTRAS: dict[str, dict[str, str]] = {
    "fs": {"google.protobuf": "protobuf", "grpc": "grpcio", "pympler": "pympler", "scipy": "scipy"},
    "distributed": {"grpc": "grpcio", "cryptography": "cryptography"},
    "quant": {"bitsandbytes": "bitsandbytes"},
    "smolvlm": {"num2words": "num2words"},
    "judge": {"openai": "openai"},
    "evaluate": {"evaluate": "evaluate"},
    "trl": {"trl": "trl"},
    "plot": {"matplotlib": "matplotlib"},
    "dicom": {"pydicom": "pydicom"},
    "heif": {"pillow_heif": "pillow-heif"},
    "nvflare": {"nvflare": "nvflare"},
    "wandb": {"wandb": "wandb"},
    "mlflow": {"mlflow": "mlflow-skinny"},
    "completion": {"argcomplete": "argcomplete"},
    "real": {"gguf": "gguf", "onnx": "onnx"},
    "privacy": {"dp_accounting": "dp-accounting", "cryptography": "cryptography"},
}


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported.

    Args:
        module: its name, with the packages that it lies in.
    """
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is missing, or somebody put a half-made module in its place
        return False


def require_extra(extra: str, what: str, *modules: str, error: type[FedMLLMError] = ConfigError) -> None:
    """Say what to install where something is missing.

    Args:
        extra: the name in ``pip install 'fs-fedmllm[...]'``.
        what: what needs it, to begin the sentence with.
        modules: those of the extra that are needed; all where none is named.
        error: the kind of error to raise.

    Raises:
        FedMLLMError: of the kind ``error``; a module is missing.
    """
    missing = [EXTRAS[extra][module] for module in modules or EXTRAS[extra] if not is_installed(module)]
    if missing:
        raise error(f"{what} needs {_listed(missing)} not installed: pip install 'fs-fedmllm[{extra}]'.")


def _listed(names: list[str]) -> str:
    kind, verb = ("package", "is") if len(names) == 1 else ("packages", "are")
    return f"the {kind} {' and '.join(names)}, which {verb}"


def check_extras(config: Config, *, evaluates: bool = True) -> None:
    """Everything that a configuration needs beside the base installation is there: packages, and files of metrics.

    What the model's own files ask for (their quantisation, a family's package) is told when its config.json is read.

    Args:
        config: of the run.
        evaluates: whether this process evaluates; a site that is a client does not, and needs no metric.

    Raises:
        FedMLLMError: a package or a file is missing.
    """
    for extra, what, modules, error in _needed(config):
        require_extra(extra, what, *modules, error=error)
    for name in config.fedmllm.report_to if evaluates else ():
        if name in EXTRAS:
            require_extra(name, f"fedmllm.report_to: {name}")
    metrics = config.fedmllm.eval.metrics
    if evaluates and (paths := metric_paths(metrics)):
        require_extra("evaluate", f"fedmllm.eval.metrics: {paths[0]}")
        check_metric_files(metrics)


def _needed(config: Config) -> Iterator[tuple[str, str, tuple[str, ...], type[FedMLLMError]]]:
    privacy, kind = config.fedmllm.privacy, config.model.fedmllm.quantization.type
    if config.federate.mode == "distributed":
        yield "distributed", "federate.mode: distributed", (), HostError
    if privacy.dp.enabled:
        yield "privacy", "fedmllm.privacy.dp", ("dp_accounting",), PrivacyError
    if privacy.secure_aggregation.enabled:
        yield "privacy", "fedmllm.privacy.secure_aggregation", ("cryptography",), PrivacyError
    if kind != "none":
        yield "quant", f"model.fedmllm.quantization.type: {kind}", (), ModelError
    if config.fedmllm.train.backend == "trl":
        yield "trl", "fedmllm.train.backend: trl", (), ConfigError
