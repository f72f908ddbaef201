"""``python -m knowalledge.cli``."""

from knowalledge.cli.main import main

main()
