"""Every exception that loopnest raises on purpose, each with one sentence that a user can act on."""

from __future__ import annotations

MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What reading data raises that are not as they were written."""


class LoopnestError(Exception):
    """Base class of all errors raised by loopnest."""


class ModelError(LoopnestError, ValueError):
    """The model is malformed: names the node, the tensor, what was expected and what is there."""


class UnsupportedOperatorError(LoopnestError, NotImplementedError):
    """The model uses operators that loopnest does not have; lists all of them."""


class InputError(LoopnestError, ValueError):
    """An input array does not fit the model: names the input, what was expected and what was given."""


class ConfigError(LoopnestError, ValueError):
    """A configuration key or value is not known; names the nearest known one."""


class TargetError(LoopnestError, ValueError):
    """The target is not known, or the host cannot run it; lists the known ones."""


class KernelError(LoopnestError, RuntimeError):
    """A kernel stopped on bad data (an index out of range, say): names the ONNX node and the value."""


class ArtifactError(LoopnestError, ValueError):
    """A saved model cannot be written or read: says what is wrong with it."""


class IncompatibleArtifactError(ArtifactError):
    """A saved model is for another processor: names the features that this machine lacks."""


class VerificationError(LoopnestError, AssertionError):
    """A stage of the compiler produced an invalid result: a defect of loopnest, not of the model."""
