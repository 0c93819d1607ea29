"""``--secret`` and ``--config``: read in their short and long form, and resolved to the ids the API wants."""

import csv
import re
from typing import Any

from pyswarm.cli.base import Parsed
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError

Reference = dict[str, Any]

_DEFAULT_MODE = 0o444
_NUMBER = re.compile(r"0[xX](?P<x>[0-9a-fA-F]+)|0[bB](?P<b>[01]+)|0[oO]?(?P<o>[0-7]+)|(?P<d>0|[1-9][0-9]*)")
_BASES = {"x": 16, "b": 2, "o": 8, "d": 10}


def _mode(text: str) -> int:
    """As Go reads numbers: octal ones begin with 0."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f'invalid mode specified: strconv.ParseUint: parsing "{text}": invalid syntax')
    base, digits = next((name, digits) for name, digits in match.groupdict().items() if digits)
    mode = int(digits, _BASES[base])
    if mode >= 2**32:
        raise ValueError(f'invalid mode specified: strconv.ParseUint: parsing "{text}": value out of range')
    return mode


def _reference(kind: str, text: str) -> Reference:
    """``tok`` or ``source=tok,target=x,uid=0,gid=0,mode=0400`` -> what the API takes, but for the id."""
    name_field = f"{kind.capitalize()}Name"
    file: dict[str, Any] = {"Name": "", "UID": "0", "GID": "0", "Mode": _DEFAULT_MODE}
    try:
        fields = next(csv.reader([text]), [])
    except csv.Error as exc:
        raise ValueError(str(exc)) from exc
    if not fields:
        raise ValueError("EOF")
    if len(fields) == 1 and "=" not in fields[0]:
        return {"File": {**file, "Name": fields[0]}, name_field: fields[0]}
    source = ""
    for field in fields:
        key, separator, value = field.partition("=")
        if not separator or not key:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        match key.lower():
            case "source" | "src":
                source = value
            case "target":
                file["Name"] = value
            case "uid" | "gid":
                file[key.upper()] = value
            case "mode":
                file["Mode"] = _mode(value)
            case _:
                raise ValueError(f"invalid field in {kind} request: {key}")
    if not source:
        raise ValueError("source is required")
    return {"File": {**file, "Name": file["Name"] or source}, name_field: source}


SECRET = Parsed("secret", lambda text: _reference("secret", text))
CONFIG = Parsed("config", lambda text: _reference("config", text))


def resolved(client: Client, kind: str, given: tuple[Reference, ...]) -> list[Reference]:
    """``given`` with the ids of what they name. Raises CliError for what is not there, and for a target twice."""
    if not given:
        return []
    name_field, id_field = f"{kind.capitalize()}Name", f"{kind.capitalize()}ID"
    targets = set()
    for reference in given:
        if reference["File"]["Name"] in targets:
            raise CliError(f"duplicate {kind} target for {reference[name_field]} not allowed")
        targets.add(reference["File"]["Name"])
    # The filter finds more: it matches the beginnings of names.
    found = client.listed(f"{kind}s", {"name": [reference[name_field] for reference in given]})
    ids = {obj["Spec"]["Name"]: obj["ID"] for obj in found}
    for reference in given:
        if reference[name_field] not in ids:
            raise CliError(f"{kind} not found: {reference[name_field]}")
    return [{**reference, id_field: ids[reference[name_field]]} for reference in given]


def change(
    client: Client, container: dict[str, Any], kind: str, remove: tuple[str, ...], add: tuple[Reference, ...]
) -> None:
    """Take away references by the names of what they name, and add others, in a container's spec in place."""
    field, name_field = f"{kind.capitalize()}s", f"{kind.capitalize()}Name"
    if remove or add:
        kept = [reference for reference in container.get(field) or [] if reference[name_field] not in remove]
        container[field] = kept + resolved(client, kind, add)
