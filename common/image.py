"""Names of images."""

import re

# The grammar of image references, as the registry protocol's own library has it.
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH_PART}(?:/{_PATH_PART})*"
    r"(?::[\w][\w.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_MAX_REFERENCE_CHARS = 4096


def is_image_reference(text: str) -> bool:
    """Whether ``text`` can name an image: ``busybox``, ``registry.example:5000/team/web:1.2@sha256:...``."""
    return len(text) <= _MAX_REFERENCE_CHARS and _REFERENCE.fullmatch(text) is not None
