"""Exceptions of ecgtwin_fast. Each message names the file, the lead or field, what was expected and what came."""

from __future__ import annotations


class ECGTwinError(ValueError):
    """Base of every error that bad input can cause.

    reason: a few words that are the same for every record with this defect, by which a prepared data set counts them.
    """

    def __init__(self, message: str, reason: str = "unusable"):
        super().__init__(message)
        self.reason = reason


class RecordError(ECGTwinError):
    """A record cannot be read or its signal cannot be used (missing file, NaNs, flat lead, length)."""


class LeadError(RecordError):
    """Leads are missing, unknown, doubled or not derivable."""


class ConditionError(ECGTwinError):
    """A condition (report, heart rate, age, sex) is missing or outside its range."""


class CheckpointError(ECGTwinError):
    """A model directory, configuration or weight file is missing, truncated or does not fit."""


class StoreError(ECGTwinError):
    """A store of records is missing, unfinished, damaged, of another version, or holds other work than asked for."""


class TextEncoderError(ECGTwinError):
    """A text encoder is unknown, unavailable or of the wrong width."""


class BackendError(ECGTwinError, RuntimeError):
    """A backend asked for by name cannot run; the message lists every reason."""
