"""What plain YAML text means: the rules of YAML 1.2's core schema and the octal numbers of 1.1, as docker has it.

``yes``, ``on`` and ``12:30`` are text, which they are not to PyYAML.
"""

import math
import re
from typing import Any

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NANS = frozenset({".nan", ".NaN", ".NAN"})
_SWITCHES = {
    "y": True, "yes": True, "true": True, "on": True, "n": False, "no": False, "false": False, "off": False,
}  # fmt: skip


def resolve(text: str) -> Any:
    """The value of plain text: None, a bool, an int, a float or the text itself."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "+-.0123456789":
        return text
    return _number(text)


def _number(text: str) -> Any:
    plain = text.replace("_", "")
    if match := _INT.fullmatch(plain):
        sign, *digits = match.groups()
        for base, found in zip((16, 2, 8, 10), digits, strict=True):
            # Longer ones are no numbers of anybody's, and slow to read.
            if found is not None and len(found) <= 64:
                return int(sign + found, base)
    if _FLOAT.fullmatch(plain):
        return float(plain)
    if match := _INFINITE.fullmatch(text):
        return -math.inf if match[1] == "-" else math.inf
    return math.nan if text in _NANS else text


def cast_boolean(text: str) -> bool:
    """What a variable's text means where only true or false may stand; raises ValueError."""
    value = _SWITCHES.get(text.lower())
    if value is None:
        raise ValueError(f"invalid boolean: {text}")
    return value


def as_text(value: Any) -> str:
    """A scalar as text, a number as Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    mantissa, _, exponent = repr(value).partition("e")
    if exponent and not -4 <= int(exponent) < 21:
        return f"{mantissa.removesuffix('.0')}e{int(exponent):+03d}"
    if exponent or value.is_integer():
        return f"{value:.0f}" if value.is_integer() else f"{value:.25f}".rstrip("0")
    return repr(value)
