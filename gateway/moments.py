"""Points in time in a query: seconds[.fraction] since 1970, as Docker's clients send them."""

import re
from decimal import Decimal

from aiohttp import web

from pyswarm.common.errors import InvalidArgument

_EPOCH = re.compile(r"\d{1,12}(\.\d+)?")


def moment_of(request: web.Request, name: str) -> str:
    """The text of the parameter; empty when it is absent or zero. Raises InvalidArgument."""
    text = request.query.get(name, "")
    if text and not (text.isascii() and _EPOCH.fullmatch(text)):
        raise InvalidArgument(f'invalid value for "{name}": "{text}" is not a number of seconds since 1970')
    return "" if not text or Decimal(text) == 0 else text


def nanoseconds(text: str) -> int:
    """The same as a number, 0 for none."""
    return int(Decimal(text) * 10**9) if text else 0
