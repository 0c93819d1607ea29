"""Object ids in Docker's swarm form: 25 characters of [0-9a-z]."""

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25


def base36(number: int, width: int) -> str:
    """``number`` in base 36, zero-padded to ``width`` characters."""
    digits = []
    while number:
        number, rest = divmod(number, 36)
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits)).rjust(width, "0")


def new_id() -> str:
    """A random id of 25 characters: 128 bits, so no two ever meet."""
    return base36(secrets.randbits(128), ID_LENGTH)
