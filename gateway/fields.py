"""From a client's JSON to a typed object, refusing by name whatever would otherwise be silently ignored.

Stock clients send every field they know, most of them empty. A field that the target type does not have is
accepted while its value is empty (null, zero, "", {} or [], however nested) or one of the values that change
nothing, listed by the caller as ``harmless``. Names match whatever their case, as Go's decoder does.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

from pyswarm.common.errors import InvalidArgument

T = TypeVar("T")
#: No request of Docker's API goes beyond a dozen.
MAX_DEPTH = 64
_TOO_DEEP = "invalid JSON: it is nested too deeply"
#: Path of a field -> whether this value of it changes nothing.
Harmless = Mapping[str, Callable[[Any], bool]]


def not_supported(what: str) -> InvalidArgument:
    """The one text for everything Docker has and this version has not."""
    return InvalidArgument(f"{what} is not supported by this version of pyswarm")


def is_empty(value: Any) -> bool:
    """Whether a field with this value says nothing."""
    if isinstance(value, dict):
        return all(is_empty(item) for item in value.values())
    if isinstance(value, list):
        return all(is_empty(item) for item in value)
    return value is None or value is False or value == 0 or value == ""


def decode_json(body: bytes) -> Any:
    """The JSON of a request body; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise InvalidArgument(f"invalid JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidArgument(_TOO_DEEP) from exc
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise InvalidArgument for what is nested too deeply for those who walk through it by recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise InvalidArgument(_TOO_DEEP)


def convert(value: Any, target: type[T], what: str, harmless: Harmless | None = None) -> T:
    """Build ``target`` from decoded JSON. ``what`` names the whole in errors (``service spec``)."""
    cleaned = _clean(value, _type_info(cast(Hashable, target)), "", harmless or {}, what)
    try:
        return msgspec.convert({} if cleaned is None else cleaned, target)
    except msgspec.ValidationError as exc:
        raise InvalidArgument(f"invalid {what}: {exc}") from exc


@cache
def _type_info(target: Any) -> inspect.Type:
    return inspect.type_info(target)


def _clean(value: Any, info: inspect.Type, path: str, harmless: Harmless, what: str) -> Any:
    if value is None:
        return None
    if isinstance(info, inspect.UnionType):
        info = next((t for t in info.types if not isinstance(t, inspect.NoneType)), info)
    if isinstance(info, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
        return [_clean(item, info.item_type, path, harmless, what) for item in value]
    if not isinstance(info, inspect.StructType):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidArgument(f"invalid {what}: {shown(path)} is out of range")
        return value
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid {what}: {shown(path) or 'it'} must be an object")
    known = {field.encode_name.lower(): field for field in info.fields}
    cleaned = {}
    for name, item in value.items():
        field = known.get(name.lower())
        here = f"{path}.{name}" if path else name
        if field is None:
            _refuse(item, here, harmless)
        elif item is not None:
            here = f"{path}.{field.encode_name}" if path else field.encode_name
            cleaned[field.encode_name] = _clean(item, field.type, here, harmless, what)
    return cleaned


def _refuse(value: Any, path: str, harmless: Harmless) -> None:
    """Raise for an unknown field that says something, naming the innermost one that does."""
    accept = harmless.get(path)
    if is_empty(value) or (accept is not None and accept(value)):
        return
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse(item, f"{path}.{name}", harmless)
        return
    raise not_supported(shown(path))


def shown(path: str) -> str:
    """A path as users know it: the task template's parts go by their own names."""
    return path.removeprefix("TaskTemplate.")
