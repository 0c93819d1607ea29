"""Where the ``pyswarm`` command begins: Ctrl-C ends it quietly from its first moment on."""

import signal


def main() -> int:
    """Run the command line."""
    # Until it is there to be told of an interruption, the command has begun nothing that would have to be ended.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pyswarm.cli.main import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
