"""What a FederatedScope checkout is, and where this machine has one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from fs_fedmllm.errors import HostError

ENVIRONMENT_VARIABLE = "FEDERATEDSCOPE_HOME"
PACKAGE = "federatedscope"
#: Enough to tell FederatedScope from anything else, and all that the plug relies on.
LANDMARKS = (
    "__init__.py",
    "main.py",
    "register.py",
    "core/configs/config.py",
    "contrib/configs/__init__.py",
)


def is_checkout(folder: Path) -> bool:
    """Whether the folder holds FederatedScope's package."""
    return all((folder / PACKAGE / landmark).is_file() for landmark in LANDMARKS)


def require_checkout(folder: str | Path) -> Path:
    """The folder's absolute path.

    Raises:
        HostError: it is not FederatedScope.
    """
    path = Path(folder).expanduser().resolve()
    if is_checkout(path):
        return path
    if not path.is_dir():
        raise HostError(f"{path} is not a folder: give the folder of a FederatedScope checkout.")
    if path.name == PACKAGE and is_checkout(path.parent):
        raise HostError(f"{path} is the package inside a FederatedScope checkout: give the checkout, {path.parent}.")
    missing = next(landmark for landmark in LANDMARKS if not (path / PACKAGE / landmark).is_file())
    raise HostError(
        f"{path} is not a FederatedScope checkout: it has no {PACKAGE}/{missing}. Give the folder made by"
        " git clone https://github.com/alibaba/FederatedScope."
    )


def is_importable() -> bool:
    """Whether ``import federatedscope`` finds FederatedScope; a mere folder of that name is found as a namespace."""
    spec = importlib.util.find_spec(PACKAGE)
    return spec is not None and spec.origin is not None


def find_federatedscope() -> Path | None:
    """The checkout to use when none is named.

    In this order: the environment variable FEDERATEDSCOPE_HOME, the package that ``import federatedscope`` would
    find, ``~/FederatedScope``.

    Raises:
        HostError: FEDERATEDSCOPE_HOME is set to something else; another checkout would be a surprise.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        try:
            return require_checkout(named)
        except HostError as error:
            raise HostError(f"The environment variable {ENVIRONMENT_VARIABLE} is wrong: {error}") from error
    spec = importlib.util.find_spec(PACKAGE)
    places = [Path(spec.origin).parent.parent] if spec and spec.origin else []
    for place in [*places, Path.home() / "FederatedScope"]:
        if is_checkout(place):
            return place.resolve()
    return None
