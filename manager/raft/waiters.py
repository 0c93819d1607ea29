"""Callers waiting for the Raft thread. Each is in exactly one state, decided by whoever is first."""

import asyncio
from typing import Any

from pyswarm.manager.raft.types import Member


class Waiter:
    """One caller. The future belongs to the loop; only the loop resolves it."""

    __slots__ = ("_token", "future")

    def __init__(self, future: "asyncio.Future[Any]") -> None:
        self.future = future
        self._token = [None]

    def claim(self) -> bool:
        """The Raft thread claims before it acts, the caller when its time is up. One of them gets True.

        After the Raft thread has claimed, the outcome of a call that runs out of time is unknown; before,
        nothing happened and nothing will.
        """
        try:
            self._token.pop()  # atomic
        except IndexError:
            return False
        return True


class Proposal(Waiter):
    """A command to commit."""

    __slots__ = ("command",)

    def __init__(self, future: "asyncio.Future[Any]", command: bytes) -> None:
        super().__init__(future)
        self.command = command


class Barrier(Waiter):
    """A reader that must see everything committed before it asked."""

    __slots__ = ("index", "mark")

    def __init__(self, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.mark = 0
        self.index = 0


class Change(Waiter):
    """A change of membership: ``add``, or remove the member with that id."""

    __slots__ = ("add", "catch_up_to", "deadline", "learning", "member")

    def __init__(self, future: "asyncio.Future[Any]", member: Member, add: bool, deadline: float) -> None:
        super().__init__(future)
        self.member = member
        self.add = add
        self.deadline = deadline
        self.learning = False
        self.catch_up_to = 0


class HandOver(Waiter):
    """The leader wants another member to lead."""

    __slots__ = ("asked_at", "deadline")

    def __init__(self, future: "asyncio.Future[Any]", deadline: float) -> None:
        super().__init__(future)
        self.deadline = deadline
        self.asked_at = float("-inf")
