"""How long a broker lets a worker hold a job, in words."""

from __future__ import annotations

from taskyard.shared.errors import ConfigurationError


def held_too_long(job_id: str, max_ttr_s: float) -> ConfigurationError:
    """Return the error of a touch that would hold a job for longer than `max_ttr_s` seconds."""
    return ConfigurationError(
        f"job {job_id}: the broker takes a job back that a worker has held for {max_ttr_s:g} s; its "
        "deadline cannot be moved that far. Split the job, or raise the broker's consumer timeout "
        "(TASKYARD_CONSUMER_TIMEOUT)"
    )
