"""Names that a stack file uses and must define, and dependencies that lead back to themselves. Pure."""

from collections.abc import Iterator

from pyswarm.cli.compose.value import ComposeError, Value, member

#: Every stack has it without saying so.
DEFAULT_NETWORK = "default"


def check(files: list[Value]) -> None:
    """Raise ComposeError for what no file of a stack defines, or what depends on itself."""
    defined = {
        kind: {name for file in files if (found := file.get(kind)) is not None for name, _ in found.items()}
        for kind in ("networks", "volumes", "secrets", "configs")
    }
    defined["networks"].add(DEFAULT_NETWORK)
    dependencies: dict[str, list[tuple[str, Value, str]]] = {}
    for path, service, name in _services(files):
        for kind, names in defined.items():
            for used, where, key in _used(service, kind, member(path, kind)):
                if used not in names:
                    raise ComposeError(where, key, f'undefined {kind.removesuffix("s")} "{used}"')
        dependencies.setdefault(name, []).extend(_used(service, "depends_on", member(path, "depends_on")))
    _check_cycles(dependencies)


def _services(files: list[Value]) -> Iterator[tuple[str, Value, str]]:
    for file in files:
        for name, service in (file.get("services") or file).items():
            yield member("services", name), service, name


def _used(service: Value, kind: str, path: str) -> list[tuple[str, Value, str]]:
    """What the service names: the name, where it stands, and its key."""
    found = service.get(kind)
    if found is None:
        return []
    if isinstance(found.data, dict):
        return [(name, where, member(path, name)) for name, where in found.items()]
    used: list[tuple[str, Value, str]] = []
    for number, item in enumerate(found.data or []):
        source = item.get("source") or item
        if kind == "volumes" and not _names_volume(item):
            continue
        name = source.data.partition(":")[0] if kind == "volumes" else source.data
        used.append((name, source, member(path, number)))
    return used


def _names_volume(item: Value) -> bool:
    kind, source = item.get("type"), item.get("source")
    if isinstance(item.data, str):
        return ":" in item.data and item.data[0] not in "./~"
    return kind is not None and kind.data == "volume" and source is not None


def _check_cycles(dependencies: dict[str, list[tuple[str, Value, str]]]) -> None:
    done: set[str] = set()
    for start in dependencies:
        # By hand rather than by recursion: a chain may be as long as the file.
        trail: list[str] = [start]
        pending = [iter(dependencies[start])] if start not in done else []
        while pending:
            step = next(pending[-1], None)
            if step is None:
                done.add(trail.pop())
                pending.pop()
                continue
            name, where, key = step
            if name in trail:
                cycle = [*trail[trail.index(name) :], name]
                raise ComposeError(where, key, f"services depend on one another: {' -> '.join(cycle)}")
            if name not in done and name in dependencies:
                trail.append(name)
                pending.append(iter(dependencies[name]))
