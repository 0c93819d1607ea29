"""Tables, ``--format`` and ``--quiet`` of the list and inspect commands.

Names and messages may have been written by anybody: no control character in them reaches the terminal.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyswarm.cli.errors import CliError, DaemonError, Reported, UsageError
from pyswarm.common.text import escaped

if TYPE_CHECKING:
    from pyswarm.cli.template import Template

_MIN_WIDTH = 10
_PADDING = 3
Row = dict[str, Any]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned as Go's tabwriter does for Docker; the last one is not padded."""
    if not rows:
        return ""
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths: list[int] = []
    for column in range(max(len(row) for row in rows)):
        cells = [len(row[column]) for row in rows if column < len(row) - 1]
        widths.append(max([_MIN_WIDTH, *(cell + _PADDING for cell in cells)]))
    return "\n".join("".join(c.ljust(w) for c, w in zip(row[:-1], widths, strict=False)) + row[-1] for row in rows)


def truncated_id(text: str, no_trunc: bool = False) -> str:
    """The first twelve characters of an id."""
    return text if no_trunc else text[:12]


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``web.10`` after ``web.9``."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]


def emit(text: str) -> None:
    """Print one line, or several that end without a newline."""
    if sys.stdout is None:  # closed by whoever started us
        return
    sys.stdout.write(escaped(text, keep="\n\t") + "\n")


def template_of(form: str) -> "Template":
    """The template a ``--format`` text stands for. Loaded here, since most commands run without one."""
    from pyswarm.cli.template import Template

    return Template("{{json .}}" if form == "json" else form)


def list_rows(rows: list[Row], columns: dict[str, str], form: str | None, default: Sequence[str]) -> None:
    """Print ``rows`` as a table or by the ``--format`` text; ``columns`` are field -> heading."""
    if not form or form == "table":
        emit(table([[columns[c] for c in default], *([str(row[c]) for c in default] for row in rows)]))
        return
    with_head = form.startswith("table ")
    template = template_of(form.removeprefix("table ").lstrip() if with_head else form)
    for name in template.fields():
        if name not in columns:
            raise CliError(f"template: can't evaluate field {name}: there are {', '.join(sorted(columns))}")
    lines = [template.render({k: row.get(k) for k in sorted(columns)}) for row in rows]
    if with_head:
        emit(table([line.split("\t") for line in [template.render(columns), *lines]]))
    else:
        for line in lines:
            emit(line)


def inspect(refs: Sequence[str], get: Callable[[str], Any], form: str | None, missing: str | None) -> None:
    """Print what ``get`` finds for each of ``refs``; those not found fail the command, and are told at its end: as
    "No such ``missing``", or in the daemon's words."""
    found: list[Any] = []
    errors: list[str] = []
    template = template_of(form) if form else None
    for ref in refs:
        try:
            found.append(get(ref))
        except DaemonError as exc:
            # Docker's words for what is not there; any other failure ends the command.
            if exc.status != 404:
                raise
            errors.append(f"{exc.prefix}{exc}" if missing is None else f"Error: No such {missing}: {ref}")
    if template is not None:
        for obj in found:
            emit(template.render(obj))
    else:
        emit(json.dumps(found, indent=4, ensure_ascii=False))
    fail_with(errors)


def fail_with(errors: Sequence[str]) -> None:
    """End the command if there were ``errors``, after printing them."""
    for error in errors:
        print(escaped(error, keep="\n\t"), file=sys.stderr)
    if errors:
        raise Reported


def parse_filters(given: Sequence[str]) -> dict[str, list[str]]:
    """``--filter name=web`` options."""
    filters: dict[str, list[str]] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f'invalid argument "{text}" for "-f, --filter" flag: expected name=value')
        filters.setdefault(name.strip().lower(), []).append(value.strip())
    return filters


def each(refs: Sequence[str], act: Callable[[str], Any]) -> None:
    """Do ``act`` for each, print what it says or else the ones done, and go on after an error."""
    errors = []
    for ref in refs:
        try:
            if not ref:
                raise CliError("invalid empty name")
            said = act(ref)
        except CliError as exc:
            errors.append(f"{exc.prefix}{exc}")
        else:
            emit(said if isinstance(said, str) else ref)
    fail_with(errors)
