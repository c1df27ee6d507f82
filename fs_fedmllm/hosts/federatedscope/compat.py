"""What FederatedScope 0.3.0 needs to run beside today's packages, put right from outside its checkout.

FederatedScope's last release pins packages of 2022.  Each ``Fix`` below names one thing that breaks without them,
where, and why; it is applied only when this environment needs it, and a fix that has been applied is no longer needed,
so ``apply_fixes`` may be called any number of times.  No fix changes a number that FederatedScope computes.

Nothing here imports torch: ``--help`` and configuration errors must not pay for it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fs_fedmllm.extras import is_installed

logger = logging.getLogger(__name__)

LOGGING_MODULE = "federatedscope.core.auxiliaries.logging"
UTILS_MODULE = "federatedscope.core.auxiliaries.utils"
MESSAGES_MODULE = "federatedscope.core.proto.gRPC_comm_manager_pb2"
SPARSE_MODULE = "scipy.sparse.csc"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Fix:
    """One thing that breaks FederatedScope in this environment.

    Attributes:
        name: short and stable, for logs and the doctor.
        reason: what happens without it.
        where: the file of FederatedScope that breaks.
        needed: whether this environment has the problem and it has not been put right yet.
        apply: puts it right in this process.
    """

    name: str
    reason: str
    where: str
    needed: Callable[[], bool]
    apply: Callable[[], None]


def apply_fixes() -> list[str]:
    """Apply what this environment needs.

    Returns:
        The names of the fixes that this call applied; empty when all was well or had been put right before.
    """
    names = []
    for fix in FIXES:
        if fix.needed():
            fix.apply()
            names.append(fix.name)
            logger.debug("FederatedScope fix %s applied (%s): %s", fix.name, fix.where, fix.reason)
    return names


def _package_folder() -> Path | None:
    """FederatedScope's package folder, without importing FederatedScope."""
    try:
        spec = importlib.util.find_spec("federatedscope")
    except ValueError:  # a half-made module in sys.modules
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


# --- protobuf: the generated message module -------------------------------------------------------------------------


def _messages_needed() -> bool:
    folder = _package_folder()
    if folder is None or MESSAGES_MODULE in sys.modules or not is_installed("google.protobuf"):
        return False
    generated = folder / "core" / "proto" / "gRPC_comm_manager_pb2.py"
    # A checkout whose messages were generated again with a newer protoc makes no descriptors by hand: leave it alone.
    return generated.is_file() and "_descriptor.FieldDescriptor(" in generated.read_text(encoding="utf-8")


def _apply_messages() -> None:
    from fs_fedmllm.hosts.federatedscope.protobuf_messages import build_module

    sys.modules[MESSAGES_MODULE] = build_module()


# --- numpy 2 --------------------------------------------------------------------------------------------------------


def _numpy_repr_needed() -> bool:
    import numpy

    return repr(numpy.float64(0.5)) != "0.5"


def _apply_numpy_repr() -> None:
    import numpy

    numpy.set_printoptions(legacy="1.25")


def _numpy_int_needed() -> bool:
    import numpy

    return not hasattr(numpy, "int")


def _apply_numpy_int() -> None:
    import numpy

    numpy.int = int  # type: ignore[attr-defined]


# --- scipy 2 --------------------------------------------------------------------------------------------------------


def _sparse_needed() -> bool:
    return SPARSE_MODULE not in sys.modules and importlib.util.find_spec(SPARSE_MODULE) is None


def _apply_sparse() -> None:
    import scipy.sparse

    alias = ModuleType(SPARSE_MODULE, "The old home of csc_matrix, which FederatedScope imports it from.")
    vars(alias)["csc_matrix"] = scipy.sparse.csc_matrix
    sys.modules[SPARSE_MODULE] = alias


# --- TensorFlow 2 ---------------------------------------------------------------------------------------------------


def _tensorflow_needed() -> bool:
    if _package_folder() is None or importlib.util.find_spec("tensorflow") is None:
        return False
    if UTILS_MODULE in sys.modules:
        found = getattr(sys.modules[UTILS_MODULE], "tf", None)
        return found is not None and not hasattr(found, "set_random_seed")
    return True


def _apply_tensorflow() -> None:
    # FederatedScope imports this module, and TensorFlow with it, in every run.
    utils = importlib.import_module(UTILS_MODULE)
    if not hasattr(utils.tf, "set_random_seed"):
        vars(utils)["tf"] = None


# --- host name ------------------------------------------------------------------------------------------------------


@functools.cache
def _own_name_resolves() -> bool:
    """Looked up once: without a name server it may take seconds to fail."""
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return False
    return True


def _hostname_needed() -> bool:
    if _package_folder() is None or _own_name_resolves():
        return False
    wrapped = getattr(sys.modules.get(LOGGING_MODULE), "update_logger", None)
    return not getattr(wrapped, "_fs_fedmllm", False)


def _apply_hostname() -> None:
    """Wrap ``update_logger``, the only function that looks the name up; it imports ``socket`` inside its body."""
    module = importlib.import_module(LOGGING_MODULE)
    original = module.update_logger

    @functools.wraps(original)
    def update_logger(*args: Any, **kwargs: Any) -> Any:
        with _loopback_for_own_name():
            return original(*args, **kwargs)

    vars(update_logger)["_fs_fedmllm"] = True
    vars(module)["update_logger"] = update_logger


@contextmanager
def _loopback_for_own_name() -> Iterator[None]:
    """While active, this machine's own name resolves to the loopback address."""
    original = socket.gethostbyname

    def gethostbyname(name: str) -> str:
        return LOOPBACK if name == socket.gethostname() else original(name)

    socket.gethostbyname = gethostbyname
    try:
        yield
    finally:
        socket.gethostbyname = original


#: In the order in which they are applied; FederatedScope's own modules are imported by the last two only.
FIXES = (
    Fix(
        "protobuf-messages",
        "protobuf 4 and later refuse its generated module: TypeError: Descriptors cannot be created directly.",
        "core/proto/gRPC_comm_manager_pb2.py",
        _messages_needed,
        _apply_messages,
    ),
    Fix(
        "numpy-repr",
        "numpy 2 writes np.float64(0.5) into eval_results.log, which its own log parser cannot read; this sets"
        " numpy.set_printoptions(legacy='1.25') for the whole process.",
        "core/auxiliaries/logging.py",
        _numpy_repr_needed,
        _apply_numpy_repr,
    ),
    Fix(
        "numpy-int",
        "numpy 1.24 and later have no np.int, which federate.sampler: group uses.",
        "core/sampler.py",
        _numpy_int_needed,
        _apply_numpy_int,
    ),
    Fix(
        "scipy-sparse-csc",
        "scipy 2 has no module scipy.sparse.csc.",
        "core/data/base_data.py",
        _sparse_needed,
        _apply_sparse,
    ),
    Fix(
        "tensorflow-seed",
        "TensorFlow 2 has no set_random_seed, which every run calls where TensorFlow is installed.",
        "core/auxiliaries/utils.py",
        _tensorflow_needed,
        _apply_tensorflow,
    ),
    Fix(
        "hostname",
        "this machine's own name does not resolve (socket.gaierror), and every run logs its address.",
        "core/auxiliaries/logging.py",
        _hostname_needed,
        _apply_hostname,
    ),
)
