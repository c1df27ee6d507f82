"""What can go wrong between two sites; each error says what to change."""

from __future__ import annotations

from fs_fedmllm.errors import FedMLLMError


class TransportError(FedMLLMError):
    """Base of everything that goes wrong between two sites."""


class FrameError(TransportError):
    """Bytes are no message of ours: malformed, cut short, too large, or damaged."""


class ContractError(FrameError):
    """A well-formed message is not what was asked for: its kind, names, shapes, dtypes, size or values."""


class VersionError(TransportError):
    """The other side speaks another version of the protocol; the message names both."""


class IdentityError(TransportError):
    """A certificate or key is missing, expired, foreign, or belongs to somebody else."""


class CertificateError(IdentityError):
    """The two sides' certificates do not fit, as both have shown them: trying again would not help."""


class RefusedError(TransportError):
    """The server understood a message and does not accept it; sending it again would not help."""


class BusyError(RefusedError):
    """The server has too much in flight; the same message may be accepted later."""


class UnreachableError(TransportError):
    """There is no connection, or it broke before the answer was complete."""


class DeadlineError(TransportError):
    """The answer did not come within the time allowed."""
