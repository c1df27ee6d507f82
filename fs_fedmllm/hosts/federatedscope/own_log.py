"""FederatedScope's own log, hundreds of lines, in the run folder's ``exp_print.log`` and not on the terminal too."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import sys
from typing import Any

from fs_fedmllm.hosts.federatedscope.compat import LOGGING_MODULE
from fs_fedmllm.runs.verbosity import is_verbose, takes_colour


def keep_log_in_file() -> None:
    """For runs that our command line starts; a plugged checkout's own main.py logs as it always does.

    With ``--verbose`` the log is shown, coloured on terminals only. Call it before FederatedScope's main is run.
    """
    module = importlib.import_module(LOGGING_MODULE)
    original = module.update_logger
    logger = logging.getLogger("federatedscope")

    @functools.wraps(original)
    def update_logger(*args: Any, **kwargs: Any) -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # the handler that it makes is used at once
            result = original(*args, **kwargs)
        _settle(logger)
        return result

    vars(module)["update_logger"] = update_logger
    _settle(logger)


def _settle(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        if type(handler) is not logging.StreamHandler:
            continue
        if not is_verbose():
            logger.removeHandler(handler)
            continue
        handler.setStream(sys.stderr)
        if not takes_colour():
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # What it says without a handler, Python would print.
    logger.addHandler(logging.NullHandler())
