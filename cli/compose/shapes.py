"""What may stand at a place of a stack file, and what it means: shapes check and read in one go.

Reading a value gives plain Python: defaults filled in nowhere, short forms in their long form, units in numbers
(durations in nanoseconds, sizes in bytes). What says nothing ("", 0, false, an empty list) is left out, as docker
leaves it out, unless saying so means something.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from pyswarm.cli.compose.scalars import cast_boolean, resolve
from pyswarm.cli.compose.value import ComposeError, Value, member

_NAME = re.compile(r"[a-zA-Z0-9._-]+")


class Version(NamedTuple):
    """Of the file's format; what came with a later one is refused, as docker does."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Shape(Protocol):
    """``kinds`` are the kinds of values it takes, in the words of error messages."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def read(self, value: Value, path: str, version: Version) -> Any:
        """What the value means; raises ComposeError."""


def kind_of(data: Any) -> str:
    """The kind of a value."""
    if data is None:
        return "empty"
    if isinstance(data, bool):
        return "boolean"
    if isinstance(data, int) or (isinstance(data, float) and data.is_integer()):
        return "integer"
    return {float: "number", str: "string", list: "list", dict: "mapping"}[type(data)]


def _with_article(kind: str) -> str:
    return kind if kind == "empty" else f"an {kind}" if kind == "integer" else f"a {kind}"


def _wrong(value: Value, path: str, kinds: tuple[str, ...]) -> ComposeError:
    wanted = [_with_article(kind) for kind in kinds]
    text = " or ".join(filter(None, (", ".join(wanted[:-1]), wanted[-1])))
    found = kind_of(value.data)
    hint = "; put it in quotes" if "string" in kinds and found in ("boolean", "integer", "number") else ""
    return ComposeError(value, path, f"must be {text}, not {_with_article(found)}{hint}")


class Scalar:
    """A single value of one of ``kinds``; ``convert`` may refuse it with a ValueError."""

    def __init__(self, *kinds: str, convert: Callable[[Any], Any] | None = None) -> None:
        self.kinds = kinds
        self._convert = convert

    def read(self, value: Value, path: str, version: Version) -> Any:
        data = value.data
        if isinstance(data, str) and value.substituted and "string" not in self.kinds:
            data = self._cast(value, path)
        kind = kind_of(data)
        if kind not in self.kinds and not (kind == "integer" and "number" in self.kinds):
            raise _wrong(value._replace(data=data), path, self.kinds)
        if kind == "integer" and "integer" in self.kinds:
            data = int(data)
        return data if self._convert is None else converted(self._convert, data, value, path)

    def _cast(self, value: Value, path: str) -> Any:
        """A variable's text where something else than text is wanted."""
        if "boolean" in self.kinds:
            return converted(cast_boolean, value.data, value, path)
        return resolve(value.data)


def converted(convert: Callable[[Any], Any], data: Any, value: Value, path: str) -> Any:
    """``convert(data)``, its ValueError told with the place of ``value``."""
    try:
        return convert(data)
    except ValueError as exc:
        raise ComposeError(value, path, str(exc)) from exc


STRING = Scalar("string")
BOOLEAN = Scalar("boolean")
INTEGER = Scalar("integer")
NUMBER = Scalar("number")


class Items:
    """A list. ``flat``: each item is read as a list, and those are joined."""

    kinds = ("list",)

    def __init__(self, item: Shape, *, unique: bool = False, flat: bool = False) -> None:
        self._item = item
        self._unique = unique
        self._flat = flat

    def read(self, value: Value, path: str, version: Version) -> list[Any]:
        if not isinstance(value.data, list):
            raise _wrong(value, path, self.kinds)
        found: list[Any] = []
        for number, item in enumerate(value.data):
            here = member(path, number)
            one = self._item.read(item, here, version)
            if self._unique and one in found:
                raise ComposeError(item, here, "this is given twice")
            if self._flat:
                found += one
            else:
                found.append(one)
        return found


class Field(NamedTuple):
    """A key of a mapping. ``since``: the minor version of the format that brought it. ``keep``: an empty value
    differs from none."""

    shape: Shape
    since: int = 0
    keep: bool = False


class Fields:
    """A mapping with known keys, read in the order of this table. ``extra``: keys ``x-...`` are anybody's own.
    ``any_other``: unknown keys are passed over."""

    kinds = ("mapping",)

    def __init__(
        self, fields: Mapping[str, Field | Shape], *, extra: int | None = None, any_other: bool = False
    ) -> None:
        self._fields = {name: f if isinstance(f, Field) else Field(f) for name, f in fields.items()}
        self._extra = extra
        self._any_other = any_other

    @property
    def keys(self) -> tuple[str, ...]:
        """The known ones, in their order."""
        return tuple(self._fields)

    def read(self, value: Value, path: str, version: Version) -> dict[str, Any]:
        if not isinstance(value.data, dict):
            raise _wrong(value, path, self.kinds)
        for key, item in value.items():
            self._check_known(key, item, path, version)
        found: dict[str, Any] = {}
        for key, field in self._fields.items():
            member_value = value.data.get(key)
            if member_value is None:
                continue
            one = field.shape.read(member_value, member(path, key), version)
            if field.keep or one not in (None, False, 0, "", [], {}):
                found[key] = one
        for key, item in sorted(value.items()):
            if key.startswith("x-") and key not in self._fields:
                found[key] = plain(item)
        return found

    def _check_known(self, key: str, item: Value, path: str, version: Version) -> None:
        field = self._fields.get(key)
        if field is not None:
            if field.since > version.minor:
                raise ComposeError(
                    item, member(path, key), f"this needs version 3.{field.since}, and the file says {version}"
                )
            return
        if self._any_other or (key.startswith("x-") and self._extra is not None and version.minor >= self._extra):
            return
        raise ComposeError(item, member(path, key), "unknown key" + _suggestion(key, self._fields))


def _suggestion(key: str, known: Mapping[str, Any]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


class Table:
    """A mapping whose keys are names of the user's; ``named`` ones are names of objects."""

    kinds = ("mapping",)

    def __init__(self, item: Shape, *, named: bool = False) -> None:
        self._item = item
        self._named = named

    def read(self, value: Value, path: str, version: Version) -> dict[str, Any]:
        if not isinstance(value.data, dict):
            raise _wrong(value, path, self.kinds)
        for key, item in value.items():
            if not (_NAME.fullmatch(key) if self._named else key):
                raise ComposeError(
                    item, member(path, key), "a name may have the characters a-z A-Z 0-9 . _ - only"
                )
        return {key: self._item.read(item, member(path, key), version) for key, item in value.items()}


class Either:
    """One of several shapes, chosen by the kind of the value."""

    def __init__(self, *shapes: Shape) -> None:
        self._shapes = shapes

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(kind for shape in self._shapes for kind in shape.kinds)

    def read(self, value: Value, path: str, version: Version) -> Any:
        kind = kind_of(value.data)
        for shape in self._shapes:
            if kind in shape.kinds or (kind == "integer" and "number" in shape.kinds):
                return shape.read(value, path, version)
        # A variable's text may yet be what one of them takes.
        if value.substituted and isinstance(value.data, str):
            return self._shapes[0].read(value, path, version)
        raise _wrong(value, path, self.kinds)


class Meaning:
    """A shape whose result goes through ``convert``, which may refuse it with a ValueError."""

    def __init__(self, shape: Shape, convert: Callable[[Any], Any]) -> None:
        self._shape = shape
        self._convert = convert

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the shape."""
        return self._shape.kinds

    def read(self, value: Value, path: str, version: Version) -> Any:
        return converted(self._convert, self._shape.read(value, path, version), value, path)


def plain(value: Value) -> Any:
    """The value without its places."""
    if isinstance(value.data, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value.data, list):
        return [plain(item) for item in value.data]
    return value.data
