"""What watchers are told. Pure."""

from typing import Literal

import msgspec

from pyswarm.manager.state.entry import Stored


class Event(msgspec.Struct, frozen=True):
    """One object changed: ``old`` is None on create, ``new`` on remove."""

    action: Literal["create", "update", "remove"]
    old: Stored | None
    new: Stored | None

    @property
    def obj(self) -> Stored:
        """The object as it is now, or as it last was."""
        found = self.new if self.new is not None else self.old
        assert found is not None  # noqa: S101 - one of them is always set
        return found
