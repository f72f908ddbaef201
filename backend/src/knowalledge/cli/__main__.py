"""``python -m knowalledge.cli``."""

from knowalledge.cli.main import main

main(prog_name="knowalledge")
