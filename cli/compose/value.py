"""A value of a stack file that knows where it stands, and the error that says so."""

from typing import Any, NamedTuple

from pyswarm.cli.errors import CliError


class Value(NamedTuple):
    """``data`` is None, a bool, a number, text, a list of values or a dict of text to values. ``line`` is that of
    its key or list item. ``substituted``: its text came from variables, so it may also mean a number."""

    data: Any
    file: str
    line: int
    substituted: bool = False

    def items(self) -> list[tuple[str, "Value"]]:
        """The members of a mapping; of anything else none."""
        return list(self.data.items()) if isinstance(self.data, dict) else []

    def get(self, *keys: str) -> "Value | None":
        """What stands under ``keys``, one within the other; None where there is no such mapping or member."""
        found: Value | None = self
        for key in keys:
            if found is None or not isinstance(found.data, dict):
                return None
            found = found.data.get(key)
        return found


class ComposeError(CliError):
    """A stack file is wrong: ``file:line: key: what is wrong``."""

    def __init__(self, where: Value, key: str, message: str) -> None:
        super().__init__(f"{where.file}:{where.line}: " + (f"{key}: {message}" if key else message))


def member(path: str, key: str | int) -> str:
    """The dotted path of a member."""
    return f"{path}.{key}" if path else str(key)


def place(files: list[Value], *keys: str) -> Value:
    """Where the last of the files that have it says what is under ``keys``, or under as many of them as it can."""
    for count in range(len(keys), 0, -1):
        for file in reversed(files):
            found: Value | None = file.get(*keys[:count])
            if found is not None:
                return found
    return files[0]
