"""``python -m pyswarm.manager``."""

from pyswarm.manager.main import main

main()
