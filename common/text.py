"""Texts that other hosts wrote: what of them may be stored, and shown on a terminal."""

import re

# C0, DEL and C1, the separators that end a line, and the marks that turn the direction of writing.
_UNSAFE = r"\x00-\x1f\x7f-\x9f\u2028-\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_SPACES = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_REST = re.compile(f"[{_UNSAFE}]")
_HOSTNAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
MAX_HOSTNAME_CHARS = 253


def one_line(text: str, max_chars: int) -> str:
    """``text`` as one line without control characters, cut to ``max_chars``."""
    # Cut first as well, so that a huge text costs nothing.
    return _REST.sub("", _SPACES.sub(" ", text[: max_chars * 2])).strip()[:max_chars]


def escaped(text: str, keep: str = "") -> str:
    """``text`` with its control characters written out (``\\u001b``, which JSON reads back), but for ``keep``."""

    def written(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else f"\\u{ord(match[0]):04x}"

    return _REST.sub(written, text)


def is_hostname(text: str) -> bool:
    """Whether a host may be called so: letters, digits, ``-``, ``_`` and ``.``, as Linux hosts are."""
    return len(text) <= MAX_HOSTNAME_CHARS and _HOSTNAME.fullmatch(text) is not None
