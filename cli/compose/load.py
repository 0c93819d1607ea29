"""Stack files from disk to one configuration. The only module here that reads files."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pyswarm.cli.compose import document, schema, support
from pyswarm.cli.compose.interpolation import Interpolation
from pyswarm.cli.compose.merge import Config, merged
from pyswarm.cli.compose.shapes import Version
from pyswarm.cli.compose.value import ComposeError, Value
from pyswarm.cli.errors import CliError, UsageError
from pyswarm.cli.service_options import environment_files


class Loaded(NamedTuple):
    """``config`` is what all files say together; ``files`` are their values with their places."""

    config: Config
    files: list[Value]
    warnings: list[str]


def load(names: tuple[str, ...], environment: Mapping[str, str], *, interpolate: bool = True) -> Loaded:
    """Read and merge the files; paths within them are relative to the first one's folder. Raises CliError."""
    paths = [part for name in names for part in name.split(",") if part]
    if not paths:
        raise UsageError("specify a Compose file (with --compose-file)")
    folder = Path.cwd() if paths == ["-"] else Path(paths[0]).absolute().parent
    interpolation = Interpolation(environment)
    warnings: list[str] = []
    files: list[Value] = []
    configs: list[Config] = []
    for path in paths:
        file = document.parse(_content(path), "stdin" if path == "-" else path)
        version = _version(file)
        if configs and configs[0]["version"] != str(version):
            raise CliError(f"version mismatched between two composefiles : {configs[0]['version']} and {version}")
        support.check_forbidden(file)
        if interpolate:
            file = interpolation.apply(file)
        config = schema.FILE.read(file, "", version)
        config = {**config, "version": str(version), "services": config.get("services", {})}
        _Objects(file, version, folder, warnings).complete(config)
        for name, service in config["services"].items():
            _resolve_paths(service, file, name, folder, environment)
        files.append(file)
        configs.append(config)
    warnings += [
        f'The "{name}" variable is not set. Defaulting to a blank string.'
        for name in sorted(interpolation.missing)
    ]
    return Loaded(merged(configs), files, warnings)


def _content(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as exc:
        raise CliError(f"cannot read the stack file {path}: {exc.strerror}") from exc


def _version(file: Value) -> Version:
    given = file.get("version")
    if given is None:
        return schema.NEWEST
    if not isinstance(given.data, str):
        raise ComposeError(given, "version", f'must be a string: write version: "{given.data}"')
    if given.data in ("", "3"):
        return schema.NEWEST
    major, _, minor = given.data.partition(".")
    if major == "3" and minor.isdecimal() and len(minor) < 3 and int(minor) <= schema.NEWEST.minor:
        return Version(3, int(minor))
    raise ComposeError(
        given, "version", f"unsupported Compose file version: {given.data}; 3.0 to {schema.NEWEST} are"
    )


class _Objects:
    """The networks, volumes, secrets and configs of a file, completed: names of external ones, paths of files."""

    #: The minor version since which an external object's name stands beside ``external``.
    _NAME_SINCE = {"networks": 5, "volumes": 4, "secrets": 5, "configs": 5}

    def __init__(self, file: Value, version: Version, folder: Path, warnings: list[str]) -> None:
        self._file = file
        self._version = version
        self._folder = folder
        self._warnings = warnings

    def complete(self, config: Config) -> None:
        """Change ``config`` in place."""
        for kind, since in self._NAME_SINCE.items():
            for name, obj in config.get(kind, {}).items():
                self._external(kind, name, obj, since)
                if kind in ("secrets", "configs") and "external" not in obj and "driver" not in obj:
                    if "file" not in obj:
                        raise self._error(kind, name, "must have file or external")
                    obj["file"] = os.path.normpath(self._folder / obj["file"])

    def _external(self, kind: str, name: str, obj: Config, name_since: int) -> None:
        external = obj.pop("external", {})
        if not external.get("external"):
            return
        what = kind.removesuffix("s")
        if kind == "volumes":
            for key in ("driver", "driver_opts", "labels"):
                if key in obj:
                    raise self._error(
                        kind, name, f'conflicting parameters "external" and "{key}" specified for volume "{name}"'
                    )
        if "name" in external:
            if "name" in obj:
                raise self._error(
                    kind, name, f"{what}.external.name and {what}.name conflict; only use {what}.name"
                )
            if self._version.minor >= name_since:
                self._warnings.append(f"{what} {name}: {what}.external.name is deprecated in favor of {what}.name")
        obj["name"] = external.get("name") or obj.get("name") or name
        obj["external"] = True

    def _error(self, kind: str, name: str, message: str) -> ComposeError:
        return ComposeError(self._file.get(kind, name) or self._file, f"{kind}.{name}", message)


def _resolve_paths(service: Config, file: Value, name: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Read the service's environment files and make its paths absolute, in place."""
    variables: dict[str, str | None] = {}
    paths = tuple(str(folder / path) for path in service.get("env_file", []))
    for line in environment_files(paths, environment):
        key, _, value = line.partition("=")
        variables[key] = value
    variables.update(service.get("environment", {}))
    if variables:
        # A name alone, or without a value, takes that of this process.
        service["environment"] = {
            key: environment.get(key, variables[key]) if not variables[key] else variables[key]
            for key in sorted(variables)
        }
    for volume in service.get("volumes", []):
        if volume.get("type") == "bind" and "source" in volume:
            source = volume["source"]
            if source.startswith("~"):
                source = environment.get("HOME", "~") + source[1:]
            if not source.startswith("/"):
                source = os.path.normpath(folder / source)
            volume["source"] = source
