"""The ``pyswarm`` command. It speaks HTTP on the daemon's socket; modules load when their command runs."""
