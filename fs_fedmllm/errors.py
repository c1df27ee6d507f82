"""Errors a user can act on.

Each message is one paragraph that names the file, line or key at fault and what to change.
The command line prints it without a traceback and exits with code 2.
"""

from typing import Self

#: Characters of a message; what a file says at fault can be a million.
_LONGEST = 4000


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor, turns its direction or cannot be printed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def readable(text: str) -> str:
    """As :func:`printable`, and of a length to read."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}"
    return printable(text)


class FedMLLMError(Exception):
    """Base of every error that the user, not the programmer, can put right.

    Attributes:
        told: what of it another site may read: part of a sentence, without a path of this machine and without
            anything out of a row; empty where there is nothing.
    """

    told = ""

    def telling(self, told: str) -> Self:
        """The same error, with what of it another site may read."""
        self.told = told
        return self

    def __str__(self) -> str:
        """The message, readable whatever the files at fault hold."""
        return readable(super().__str__())


class ConfigError(FedMLLMError):
    """A configuration key or value is wrong; the message names its full key path."""


class TemplateError(ConfigError):
    """A prompt template is wrong; the message names its file and key."""


class DataError(FedMLLMError):
    """A data file, row or image is wrong; the message names the file and the row."""

    told = "its rows or images (data.root) cannot be used"


class ScenarioError(FedMLLMError):
    """A scenario cannot be applied to these samples and clients."""


class ModelError(FedMLLMError):
    """A model cannot be loaded or does not have what the configuration asks of it."""

    told = "its base model (model.fedmllm.path) cannot be used"


class UpdateError(FedMLLMError):
    """A client's update cannot be aggregated, or no valid update is left in a round."""


class PrivacyError(FedMLLMError):
    """A privacy promise cannot be kept: no library, a spent budget, a damaged record, or too few clients left."""


class TooFewError(PrivacyError):
    """Fewer clients than the threshold were left of a round under secure aggregation; nothing of it was opened."""


class HostError(FedMLLMError):
    """A host framework is missing, is not what it should be, or cannot run the job."""


class PayloadWarning(UserWarning):
    """Most of what clients send is not LoRA; filter it by this name once you have decided to pay for it."""


class StorageError(FedMLLMError):
    """A file cannot be written (a full disk, a quota, a missing permission); the older one stands."""

    told = "it cannot write its files"


class LockedError(FedMLLMError):
    """Another process is using a folder that only one may use at a time."""

    told = "another process uses its run folder"


class HubError(FedMLLMError):
    """An adapter cannot be fetched, is not what it should be, or cannot be published."""
