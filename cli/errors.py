"""What ends a command: one line on stderr and an exit code."""


class CliError(Exception):
    """Something this command found wrong itself. Usage errors exit with 2, the rest with 1."""

    prefix = "Error: "
    exit_code = 1


class UsageError(CliError):
    """The command line is wrong."""

    exit_code = 2


class DaemonError(CliError):
    """The daemon answered with an error; its text is shown as it is."""

    prefix = "Error response from daemon: "

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoDaemon(CliError):
    """Nobody answers on the socket."""

    prefix = ""


class Reported(CliError):
    """Every error was printed as it happened; only the exit code is left."""

    prefix = ""


def not_supported(what: str) -> CliError:
    """An option Docker has and this version has not: refused by name, never ignored."""
    return CliError(f"{what} is not supported by this version of pyswarm")
