"""Which Raft group a data folder belongs to: the swarm's first, or one that ``--force-new-cluster`` made of it.

A rescue makes one manager the only member, on the word of a person. The other managers have not agreed to it, and
their logs and votes know nothing of it: were they to talk to the new group with their old data, two histories of
one log would meet. Hence every group has a generation, kept beside the log and compared before the first message
of a stream. Managers of two generations never hear each other; the one with the lower number is told that it has
been left behind.
"""

import msgspec


class Generation(msgspec.Struct, frozen=True):
    """``number`` counts the rescues; ``id`` tells two rescues apart that knew nothing of each other."""

    number: int = 0
    id: str = ""

    def __str__(self) -> str:
        return f"{self.number}.{self.id}"

    @property
    def encoded(self) -> str:
        """As it travels; nothing for a swarm that was never rescued, as releases before it sent."""
        return str(self) if self.number else ""


def parse_generation(text: str) -> Generation:
    """What ``encoded`` made. Raises ValueError."""
    if not text:
        return Generation()
    number, _, group_id = text.partition(".")
    return Generation(int(number), group_id)


class Forced(msgspec.Struct, frozen=True):
    """A rescue: the entry that makes one node the only member. Everything before it counts as committed."""

    index: int
    term: int
