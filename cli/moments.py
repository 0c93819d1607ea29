"""Points in time on the command line, as ``--since`` and ``--until`` take them."""

import re
from datetime import datetime

from pyswarm.cli.units import parse_duration

_EPOCH = re.compile(r"\d+(\.\d{1,9})?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")


def parse_moment(text: str, now_s: float) -> str:
    """``10m`` (before now), ``2026-01-02T15:04``, with or without a time zone, or seconds since 1970 -> those
    seconds, as the API takes them. Raises ValueError with Docker's words."""
    if _EPOCH.fullmatch(text):
        return text
    try:
        if _DATE.fullmatch(text):
            return f"{datetime.fromisoformat(text).timestamp():.9f}"
        return f"{max(now_s - parse_duration(text) / 10**9, 0):.9f}"
    except (ValueError, OverflowError):
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
