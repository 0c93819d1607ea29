"""Docker's HTTP API on the daemon's unix socket: cluster objects served here, the rest by the local engine."""
