"""``knowalledge warm``."""

import io
import json
import sys
from pathlib import Path

import click

from knowalledge.cli.manners import example, json_option
from knowalledge.core.clock import SystemClock
from knowalledge.core.parsers import is_http
from knowalledge.topics.warmer import Warmer, topics_of

# Failed topics that are printed.
MAX_PRINTED = 20


@example("knowalledge warm topics.txt --server http://127.0.0.1:8080")
@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--url",
    "--server",
    "url",
    envvar="KNOWALLEDGE_SERVER",
    default="http://127.0.0.1:8080",
    show_default=True,
    metavar="URL",
    help="The gateway to warm (KNOWALLEDGE_SERVER).",
)
@click.option(
    "--view",
    default="whole",
    show_default=True,
    type=click.Choice(["whole", "subtopics", "quiz", "related"]),
    help="Which view of each topic.",
)
@click.option("--query", default="", help="Parameters of the request, such as 'count=10&level=beginner'.")
@click.option("--key", default="", envvar="KNOWALLEDGE_KEY", help="Your API key (KNOWALLEDGE_KEY).")
@click.option("--again", is_flag=True, help="Also those that an earlier run has done.")
@json_option
def warm(file: Path, url: str, view: str, query: str, key: str, again: bool, as_json: bool) -> None:
    """Fill the caches with every topic in FILE, one a line; resumable."""
    if not is_http(url):
        raise click.BadParameter("write http://HOST:PORT", param_hint="--server")
    try:
        warmer = Warmer(url, file, view, query, key, SystemClock().sleep)
        topics = topics_of(file)
        pending = topics if again else warmer.pending(topics)
        quiet = io.StringIO() if as_json else None
        progress = click.progressbar(warmer.warm(pending), length=len(pending), label="warming", file=quiet)
        with progress as bar:
            failed = [it for it in bar if it.how == "failed"]
    except UnicodeDecodeError:
        raise click.ClickException(f"{file} is not UTF-8; save it as such") from None
    except OSError as error:  # what is done is noted beside it
        raise click.ClickException(f"{error.filename} cannot be used ({error.strerror})") from None
    warmed, earlier = len(pending) - len(failed), len(topics) - len(pending)
    if as_json:
        rows = [{"topic": it.topic, "why": it.why} for it in failed]
        click.echo(json.dumps({"warmed": warmed, "earlier": earlier, "failed": rows}, indent=1))
        sys.exit(1 if failed else 0)
    click.echo(f"{warmed} of {len(pending)} warm; {earlier} were done before")
    for topic in failed[:MAX_PRINTED]:
        click.echo(f"{topic.topic[:80]!r}: {topic.why}", err=True)
    if failed:
        sys.exit(1)
