"""Object ids in Docker's swarm form: 25 characters of [0-9a-z]."""

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
#: Two digits at a time: every object, request and session has an id.
_STEP = len(_ALPHABET) ** 2
_LAST_DIGITS = tuple(tens + ones for tens in _ALPHABET for ones in _ALPHABET)


def base36(number: int, width: int) -> str:
    """``number`` in base 36, zero-padded to ``width`` characters."""
    parts = []
    while number:
        number, rest = divmod(number, _STEP)
        parts.append(_LAST_DIGITS[rest])
    return "".join(reversed(parts)).lstrip("0").rjust(width, "0")


def new_id() -> str:
    """A random id of 25 characters: 128 bits, so no two ever meet."""
    return base36(secrets.randbits(128), ID_LENGTH)
