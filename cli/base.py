"""How commands are declared: lazily loaded groups, Docker's option values, refusal of options not there yet."""

import importlib
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import Any, NamedTuple

import click

from pyswarm.cli.errors import DaemonError, UsageError, not_supported


class Entry(NamedTuple):
    """A command that is loaded when it runs: where it is, its one-line help, its other names (in one text)."""

    module: str
    name: str
    help: str
    alias: str = ""


class LazyGroup(click.Group):
    """Knows its commands' names and help without importing them."""

    def __init__(self, *args: Any, entries: dict[str, Entry] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = entries or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name, entry in self._entries.items():
            if cmd_name in (name, *entry.alias.split()):
                command = getattr(importlib.import_module(f"pyswarm.cli.{entry.module}"), entry.name)
                return command if isinstance(command, click.Command) else None
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.help) for name, entry in self._entries.items()]
        for name, command in self.commands.items():
            rows.append((name, command.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Command(click.Command):
    """A command with an example, whose switches also take ``=true`` and ``=false`` as Docker's do."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        with formatter.section("Example"):
            for line in self._example.splitlines():
                formatter.write(" " * formatter.current_indent + line + "\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, switches = self._without_switch_values(ctx, args)
        rest = super().parse_args(ctx, given)
        ctx.params.update(switches)
        return rest

    def _without_switch_values(self, ctx: click.Context, args: list[str]) -> tuple[list[str], dict[str, bool]]:
        """Take out ``--switch=VALUE``, but only before what belongs to the service's own command."""
        options = {opt: p for p in self.get_params(ctx) if isinstance(p, click.Option) for opt in p.opts}
        kept: list[str] = []
        switches: dict[str, bool] = {}
        position = 0
        while position < len(args):
            arg = args[position]
            if arg == "--" or (not arg.startswith("-") and not ctx.allow_interspersed_args):
                break
            position += 1
            name, separator, value = arg.partition("=")
            option = options.get(name)
            if separator and option is not None and option.is_flag and option.name is not None:
                if value.lower() not in ("true", "false", "1", "0", "t", "f"):
                    raise UsageError(
                        f'invalid argument "{value}" for "{flag_names(option)}" flag: '
                        f'strconv.ParseBool: parsing "{value}": invalid syntax'
                    )
                switches[option.name] = value.lower() in ("true", "1", "t")
                if switches[option.name]:
                    kept.append(name)
                continue
            kept.append(arg)
            last = options.get(arg if arg.startswith("--") else f"-{arg[-1]}") if arg.startswith("-") else None
            clustered = arg.startswith("-") and not arg.startswith("--") and self._takes_rest(options, arg)
            if last is not None and not last.is_flag and not separator and not clustered and position < len(args):
                kept.append(args[position])
                position += 1
        return kept + args[position:], switches

    @staticmethod
    def _takes_rest(options: dict[str, click.Option], arg: str) -> bool:
        """Whether a short option within ``-eX`` takes the rest of the word as its value."""
        return any(
            (option := options.get(f"-{letter}")) is not None and not option.is_flag for letter in arg[1:-1]
        )


def command(name: str, example: str, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command; every one has an example."""
    settings = {"help_option_names": ["--help"], **kwargs.pop("context_settings", {})}
    return click.command(name, cls=Command, example=example, context_settings=settings, **kwargs)


def pass_client(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call with a client of the chosen daemon first; nothing is connected before its first request."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # Not at the top: what is refused before it asks the daemon anything, and help, need no HTTP.
        from pyswarm.cli.client import Client, chosen_host

        host = click.get_current_context().find_root().params.get("host")
        return function(Client(chosen_host(host)), *args, **kwargs)

    return update_wrapper(run, function)


def may_be_stale(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a list the option ``--stale``: what this manager knows, not the leader. Below ``pass_client``."""

    def run(client: Any, *args: Any, stale: bool, **kwargs: Any) -> Any:
        client.stale = stale
        if stale:
            click.echo("WARNING: this is what this manager knows; it may be stale", err=True)
        try:
            return function(client, *args, **kwargs)
        except DaemonError as exc:
            if stale or not str(exc).startswith("no leader"):
                raise
            raise DaemonError(exc.status, f"{exc} To list what this manager last knew, add --stale.") from exc

    option = click.option("--stale", is_flag=True, help="What this manager knows, without asking the leader")
    return option(update_wrapper(run, function))


def flag_names(param: click.Parameter) -> str:
    """``-e, --env``, as error messages name an option."""
    return ", ".join(sorted(param.opts, key=len))


class Parsed(click.ParamType[Any]):
    """An option's value read by ``parse``; its ValueError becomes Docker's one line."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as exc:
            names = flag_names(param) if param is not None else ""
            raise UsageError(f'invalid argument "{value}" for "{names}" flag: {exc}') from None


class Refused(click.Option):
    """An option of Docker's that this version does not have yet."""

    def __init__(self, names: Iterable[str], switch: bool = False) -> None:
        kind: dict[str, Any] = {"is_flag": True} if switch else {"multiple": True, "type": str}
        super().__init__([*names], hidden=True, expose_value=False, callback=self._refuse, **kind)

    @staticmethod
    def _refuse(_ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            raise not_supported(max(param.opts, key=len))


def refused(*options: str) -> Callable[[click.Command], click.Command]:
    """Declare options that are refused by name: ``p/publish`` takes a value, ``autolock!`` does not."""

    def add(target: click.Command) -> click.Command:
        for text in options:
            *short, long = text.rstrip("!").split("/")
            names = [f"--{long}", *(f"-{letter}" for letter in short)]
            target.params.append(Refused(names, switch=text.endswith("!")))
        return target

    return add
