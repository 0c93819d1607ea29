"""Shared ground: types, errors, ids, clock, logs, TLS. Imports nothing else of pyswarm."""

import os

# gRPC reads this at its first import. Children are exec'd, never forked to run on, so gRPC need not prepare for
# forks; with its preparation on, it logs a line at each child's start, and forks under its threads have died.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
