"""``knowalledge warm``."""

import sys
from pathlib import Path

import click

from knowalledge.core.clock import SystemClock
from knowalledge.core.parsers import is_http
from knowalledge.topics.warmer import Warmer, topics_of

# Failed topics that are printed.
MAX_PRINTED = 20


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The gateway to warm.")
@click.option(
    "--view",
    default="whole",
    show_default=True,
    type=click.Choice(["whole", "subtopics", "quiz", "related"]),
    help="Which view of each topic.",
)
@click.option("--query", default="", help="Parameters of the request, such as 'count=10&level=beginner'.")
@click.option("--key", default="", envvar="KNOWALLEDGE_KEY", help="Your API key, where one is required.")
@click.option("--again", is_flag=True, help="Also those that an earlier run has done.")
def warm(file: Path, url: str, view: str, query: str, key: str, again: bool) -> None:
    """Fill the caches with every topic in FILE, one a line; resumable."""
    if not is_http(url):
        raise click.BadParameter("write http://HOST:PORT", param_hint="--url")
    try:
        warmer = Warmer(url, file, view, query, key, SystemClock().sleep)
        topics = topics_of(file)
        pending = topics if again else warmer.pending(topics)
        with click.progressbar(warmer.warm(pending), length=len(pending), label="warming") as bar:
            failed = [it for it in bar if it.how == "failed"]
    except UnicodeDecodeError:
        raise click.ClickException(f"{file} is not UTF-8; save it as such") from None
    except OSError as error:  # what is done is noted beside it
        raise click.ClickException(f"{error.filename} cannot be used ({error.strerror})") from None
    warmed, earlier = len(pending) - len(failed), len(topics) - len(pending)
    click.echo(f"{warmed} of {len(pending)} warm; {earlier} were done before")
    for topic in failed[:MAX_PRINTED]:
        click.echo(f"{topic.topic[:80]!r}: {topic.why}", err=True)
    if failed:
        sys.exit(1)
