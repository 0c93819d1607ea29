"""Entry point of the ``pyswarm`` command."""

import sys
from typing import Any, cast

import click

from pyswarm.cli.base import Entry, LazyGroup
from pyswarm.cli.errors import CliError
from pyswarm.common.text import escaped

_HELP = {"help_option_names": ["--help"]}


def _group(name: str, text: str, example: str, entries: dict[str, Entry]) -> LazyGroup:
    epilog = f"\b\nExample:\n  pyswarm {name} {example}"
    return LazyGroup(name, entries=entries, help=text, epilog=epilog, context_settings=_HELP, no_args_is_help=True)


_SWARM = {
    "init": Entry("swarm", "init", "Initialize a swarm"),
    "join": Entry("swarm", "join", "Join a swarm as a node and/or manager"),
    "join-token": Entry("swarm", "join_token", "Manage join tokens"),
    "leave": Entry("swarm", "leave", "Leave the swarm"),
    "update": Entry("swarm", "update", "Update the swarm"),
}
_NODE = {
    "demote": Entry("node", "demote", "Demote one or more nodes from manager in the swarm"),
    "inspect": Entry("node", "inspect", "Display detailed information on one or more nodes"),
    "ls": Entry("node", "ls", "List nodes in the swarm", "list"),
    "promote": Entry("node", "promote", "Promote one or more nodes to manager in the swarm"),
    "ps": Entry("node", "ps", "List tasks running on one or more nodes"),
    "rm": Entry("node", "rm", "Remove one or more nodes from the swarm", "remove"),
    "update": Entry("node", "update", "Update a node"),
}
_SERVICE = {
    "create": Entry("service_create", "create", "Create a new service"),
    "inspect": Entry("service", "inspect", "Display detailed information on one or more services"),
    "logs": Entry("service_logs", "logs", "Fetch the logs of a service or task"),
    "ls": Entry("service", "ls", "List services", "list"),
    "ps": Entry("service", "ps", "List the tasks of one or more services"),
    "rm": Entry("service", "rm", "Remove one or more services", "remove"),
    "rollback": Entry("service_update", "rollback", "Revert changes to a service's configuration"),
    "scale": Entry("service", "scale", "Scale one or multiple replicated services"),
    "update": Entry("service_update", "update", "Update a service"),
}
_NETWORK = {
    "create": Entry("network", "create", "Create a network"),
    "inspect": Entry("network", "inspect", "Display detailed information on one or more networks"),
    "ls": Entry("network", "ls", "List networks", "list"),
    "rm": Entry("network", "rm", "Remove one or more networks", "remove"),
}
_SECRET = {
    "create": Entry("files", "secret_create", "Create a secret from a file or STDIN as content"),
    "inspect": Entry("files", "secret_inspect", "Display detailed information on one or more secrets"),
    "ls": Entry("files", "secret_ls", "List secrets", "list"),
    "rm": Entry("files", "secret_rm", "Remove one or more secrets", "remove"),
}
_CONFIG = {
    "create": Entry("files", "config_create", "Create a config from a file or STDIN"),
    "inspect": Entry("files", "config_inspect", "Display detailed information on one or more configs"),
    "ls": Entry("files", "config_ls", "List configs", "list"),
    "rm": Entry("files", "config_rm", "Remove one or more configs", "remove"),
}
_STACK = {
    "config": Entry("stack", "config", "Outputs the final config file, after doing merges and interpolations"),
    "deploy": Entry("stack_deploy", "deploy", "Deploy a new stack or update an existing stack", "up"),
    "ls": Entry("stack", "ls", "List stacks", "list"),
    "ps": Entry("stack", "ps", "List the tasks in the stack"),
    "rm": Entry("stack_rm", "rm", "Remove one or more stacks", "remove down"),
    "services": Entry("stack", "services", "List the services in the stack"),
}


@click.group(
    "pyswarm",
    cls=LazyGroup,
    entries={
        "events": Entry("events", "events", "Get real time events from the swarm and from this host's engine"),
        "info": Entry("system", "info", "Display system-wide information"),
        "version": Entry("system", "version", "Show the version information"),
    },
    context_settings=_HELP,
    epilog="\b\nExample:\n  pyswarm swarm init --advertise-addr 192.0.2.1",
)
@click.option("-H", "--host", metavar="URL", help="The daemon's socket [PYSWARM_HOST, DOCKER_HOST or default]")
def root(host: str | None) -> None:
    """Turn Docker hosts into one cluster."""


for _name, _text, _example, _entries in (
    ("config", "Manage configs", "create nginx.conf ./nginx.conf", _CONFIG),
    ("network", "Manage networks", "create -d overlay app", _NETWORK),
    ("node", "Manage swarm nodes", "ls", _NODE),
    ("secret", "Manage secrets", "create password ./password.txt", _SECRET),
    ("service", "Manage services", "create --name web --replicas 6 busybox:latest httpd -f", _SERVICE),
    ("stack", "Manage Swarm stacks", "deploy -c stack.yml app", _STACK),
    ("swarm", "Manage the swarm", "init --advertise-addr 192.0.2.1", _SWARM),
):
    root.add_command(_group(_name, _text, _example, _entries))


def main() -> int:
    """Run the command line; errors are one line on stderr."""
    # http.client does without TLS when it cannot import it; loading it would be a tenth of the start-up time.
    sys.modules.setdefault("ssl", cast(Any, None))
    try:
        root.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CliError as exc:
        if str(exc):
            _complain(f"{exc.prefix}{exc}")
        return exc.exit_code
    except click.exceptions.NoArgsIsHelpError as exc:
        _complain(exc.format_message())
        return 2
    except click.UsageError as exc:
        where = f"\nSee '{exc.ctx.command_path} --help'." if exc.ctx else ""
        text = f"unknown flag: {exc.option_name}" if isinstance(exc, click.NoSuchOption) else exc.format_message()
        _complain(f"Error: {text}{where}")
        return 2
    except click.ClickException as exc:
        _complain(f"Error: {exc.format_message()}")
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not complain about it at its end.
        sys.stdout = None
        return 141
    except Exception as exc:  # noqa: BLE001 - the last resort: a person gets one line, never a traceback
        _complain(f"Error: internal error of this command: {type(exc).__name__}: {exc}"[:400])
        return 1
    return 0


def _complain(text: str) -> None:
    print(escaped(text, keep="\n\t"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
