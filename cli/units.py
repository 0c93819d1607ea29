"""Sizes, durations, numbers of CPUs: as Docker reads and shows them."""

import re
from datetime import UTC, datetime

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_NS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_MAX_INT64 = 2**63 - 1
_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)


def parse_size(text: str) -> int:
    """``64m`` -> bytes, in powers of 1024; raises ValueError with Docker's words."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    size = float(match[1]) * 1024 ** _POWERS[match[2].lower()]
    if size > _MAX_INT64:  # infinity included
        raise ValueError(f"invalid size: '{text[:40]}' is too large")
    return int(size)


def parse_duration(text: str) -> int:
    """``1m30s`` -> nanoseconds; raises ValueError with Go's words."""
    if text == "0":
        return 0
    total, end = 0.0, 0
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    for match in _DURATION_PART.finditer(rest):
        if match.start() != end:
            break
        total += float(match[1]) * _UNIT_NS[match[2]]
        end = match.end()
    if not rest or end != len(rest):
        missing = bool(re.fullmatch(r"\d+(\.\d+)?", rest))
        raise ValueError(f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    if total > _MAX_INT64:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * round(total)


def parse_cpus(text: str) -> int:
    """``0.5`` -> billionths of a core; raises ValueError."""
    if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", text):
        raise ValueError(f"failed to parse {text} as a rational number")
    whole, _, fraction = text.partition(".")
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    return int(whole or 0) * 10**9 + int(fraction[:9].ljust(9, "0"))


def parse_uint(text: str) -> int:
    """A whole number that is not negative; raises ValueError with Go's words."""
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    value = int(text)
    if value >= 2**64:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return value


def parse_int(text: str) -> int:
    """A whole number; raises ValueError with Go's words."""
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def parse_ratio(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None
    if not 0 <= value <= 1:
        raise ValueError("the ratio must be between 0 and 1")
    return value


def human_duration(seconds: float) -> str:
    """About how long: ``5 seconds``, ``About a minute``, ``3 hours``."""
    whole = int(seconds)
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    for limit, text in (
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 14, f"{hours // 24} days"),
        (hours < 24 * 60, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    ):
        if limit:
            return text
    return f"{int(seconds / 3600) // 24 // 365} years"


def parse_time(text: str) -> datetime:
    """An RFC 3339 time of the API; Go's zero time for an absent one, or one that cannot be read."""
    try:
        # Python reads six digits of a second, Docker writes up to nine.
        found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))
    except (ValueError, OverflowError, AttributeError):
        return _ZERO_TIME
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def ago(text: str, now: datetime) -> str:
    """How long before ``now`` the API's time ``text`` was."""
    return f"{human_duration((now - parse_time(text)).total_seconds())} ago"


def human_bytes(size: int) -> str:
    """``67108864`` -> ``64MiB``."""
    value, unit = float(size), 0
    names = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    while value >= 1024 and unit < len(names) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g}{names[unit]}"


def go_duration(nanoseconds: int) -> str:
    """``90000000000`` -> ``1m30s``, as Go writes it."""
    seconds = nanoseconds / 10**9
    if 0 < seconds < 1:
        return f"{nanoseconds / 10**6:g}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{int(hours)}h" if hours else ""
    return f"{text}{int(minutes)}m{rest:g}s" if hours or minutes else f"{rest:g}s"
