"""``knowalledge serve``."""

import sys

import click

from knowalledge.cli.common import config_option, fail, load_settings
from knowalledge.identity.exposure import exposed
from knowalledge.identity.feature import unprepared
from knowalledge.server import Server


@click.command()
@config_option
@click.option("--bind", default="127.0.0.1:8080", show_default=True, help="HOST:PORT to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
def serve(config: str, bind: str, workers: int) -> None:
    """Serve; prints one line when ready."""
    settings = load_settings(config)
    if workers > 1 and not settings.redis_url:
        fail("--workers", "more than one worker needs redis_url", "set it, or --workers 1")
        sys.exit(2)
    fault = exposed(settings.auth, bind) or unprepared(settings.auth, settings.database_url)
    if fault is not None:
        fail(*fault)
        sys.exit(2)
    Server(settings, bind, workers).run()
