"""Names for services created without one, in the manner of Docker."""

import secrets
from collections.abc import Callable

_MOODS = (
    "able", "amber", "bold", "brave", "bright", "calm", "clear", "clever", "cosy", "eager", "fair", "fond",
    "frank", "gentle", "glad", "happy", "jolly", "keen", "kind", "lively", "lucid", "merry", "mild", "neat",
    "nimble", "patient", "quick", "quiet", "sharp", "steady", "sunny", "swift", "upbeat", "vivid", "warm", "wise",
)  # fmt: skip
_NAMES = (
    "babbage", "bell", "curie", "darwin", "diffie", "dijkstra", "einstein", "euler", "faraday", "fermat", "floyd",
    "gauss", "goodall", "hamilton", "hopper", "hypatia", "kepler", "knuth", "lamport", "liskov", "lovelace",
    "meitner", "newton", "noether", "pascal", "perlman", "ramanujan", "ritchie", "shannon", "tesla", "turing",
)  # fmt: skip
_TRIES = 20


def new_service_name(is_taken: Callable[[str], bool]) -> str:
    """A name like ``keen_hopper``; with a number when luck does not find a free one."""
    name = ""
    for _ in range(_TRIES):
        name = f"{secrets.choice(_MOODS)}_{secrets.choice(_NAMES)}"
        if not is_taken(name):
            return name
    return f"{name}{secrets.randbelow(10**9)}"
