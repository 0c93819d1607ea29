"""``python -m pyswarm.daemon``."""

from pyswarm.daemon.main import main

main()
