"""The command line: ``knowalledge serve | doctor | plan | warm | config check | config show | provider-sim``."""

import knowalledge.patched  # noqa: F401 - before anything else

# isort: split
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import click

from knowalledge.cli.doctor import examine, table
from knowalledge.cli.reference import pages, rendered_document
from knowalledge.config.settings import SETTINGS, Settings, SettingsError
from knowalledge.core.clock import SystemClock
from knowalledge.core.parsers import is_http
from knowalledge.providers.targets import unusable_targets
from knowalledge.quota.feature import queue_rules
from knowalledge.quota.planner import trace as planner
from knowalledge.server import Server
from knowalledge.topics.warmer import Warmer, topics_of


def _load(config: str) -> Settings:
    try:
        settings = Settings.load(config=config)
        faults = list(unusable_targets(settings.models, settings.provider.proxy, SystemClock()))
    except SettingsError as error:
        faults = error.faults
    if faults:
        for fault in faults:
            click.echo(f"{fault.key}: {fault.wrong}\n    cure: {fault.cure}", err=True)
        sys.exit(2)
    return settings


@click.group()
def main() -> None:
    """A quota-aware LLM gateway."""


@main.command()
@click.option("--config", default="", help="The YAML file.")
@click.option("--bind", default="127.0.0.1:8080", show_default=True, help="HOST:PORT to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
def serve(config: str, bind: str, workers: int) -> None:
    """Serve; prints one line when ready."""
    settings = _load(config)
    if workers > 1 and not settings.redis_url:
        click.echo(
            "--workers: more than one worker needs redis_url\n    cure: set it, or --workers 1", err=True
        )
        sys.exit(2)
    Server(settings, bind, workers).run()


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The gateway to warm.")
@click.option(
    "--view",
    default="whole",
    show_default=True,
    type=click.Choice(["whole", "subtopics", "quiz", "related"]),
    help="Which question about each topic.",
)
@click.option("--query", default="", help="Parameters of the question, such as 'count=10&level=beginner'.")
@click.option("--key", default="", envvar="KNOWALLEDGE_KEY", help="Your API key, where one is required.")
@click.option("--again", is_flag=True, help="Also those that an earlier run has done.")
def warm(file: Path, url: str, view: str, query: str, key: str, again: bool) -> None:
    """Fill the caches with every topic in FILE, one a line; resumable."""
    if not is_http(url):
        raise click.BadParameter("write http://HOST:PORT", param_hint="--url")
    failed = []
    try:
        warmer = Warmer(url, file, view, query, key, SystemClock().sleep)
        topics = topics_of(file)
        todo = topics if again else warmer.pending(topics)
        with click.progressbar(warmer.warm(todo), length=len(todo), label="warming") as bar:
            for found in bar:
                if found.how == "failed":
                    failed.append(found)
    except UnicodeDecodeError:
        raise click.ClickException(f"{file} is not UTF-8; save it as such") from None
    except OSError as error:  # what is done is noted beside it
        raise click.ClickException(f"{error.filename} cannot be used ({error.strerror})") from None
    click.echo(f"{len(todo) - len(failed)} of {len(todo)} warm; {len(topics) - len(todo)} were done before")
    for found in failed[:20]:
        click.echo(f"{found.topic[:80]!r}: {found.why}", err=True)
    if failed:
        sys.exit(1)


@main.command(
    "provider-sim",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.pass_context
def provider_sim(context: click.Context) -> None:
    """A strict provider for tests and benchmarks; --help lists its knobs."""
    # It runs on asyncio, which a patched process would slow down: in this process' place, not inside it.
    os.execv(sys.executable, [sys.executable, "-m", "knowalledge_simulator", *context.args])  # nosec B606


@main.command()
@click.option("--config", default="", help="The YAML file.")
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 600.0),
    help="Seconds a check may take.",
)
def doctor(config: str, timeout: float) -> None:
    """Look at Redis, the clock, the disk, the store of traces and every provider target; exit 1 if anything is down."""
    findings = examine(_load(config), SystemClock(), timeout)
    for line in table(findings):
        click.echo(line)
    sys.exit(0 if all(it.ok for it in findings) else 1)


@main.command()
@click.option("--trace", required=True, type=click.Path(path_type=Path), help="The CSV file.")
@click.option("--config", default="", help="The YAML file.")
@click.option("--model", default="", help="Whose first target; default: the default model's.")
@click.option("--times", default="1,2", show_default=True, help="Try so many times the quota.")
@click.option(
    "--speed", default=1.0, type=click.FloatRange(1e-3, 1e6), help="Arrivals so many times as fast."
)
@click.option(
    "--requests", default=0, type=click.IntRange(0, 10**8), help="So many; default: the trace once."
)
@click.option("--high", default=0.0, type=click.FloatRange(0, 1), help="This share HIGH, the rest LOW.")
@click.option("--input-price", default=0.30, show_default=True, help="Dollars for a million tokens.")
@click.option("--output-price", default=2.50, show_default=True, help="Dollars for a million tokens.")
@click.option("--alone", default="", help="Also so many replicas that cannot ask each other, such as 10,100.")
@click.option("--plot", default=None, type=click.Path(path_type=Path), help="Write a picture (SVG) here.")
def plan(
    trace: Path,
    config: str,
    model: str,
    times: str,
    speed: float,
    requests: int,
    high: float,
    input_price: float,
    output_price: float,
    alone: str,
    plot: Path | None,
) -> None:
    """What the quota would do to a trace of requests, in virtual time, without a network."""
    settings = _load(config)
    try:
        factors = [float(it) for it in times.split(",")]
        replicas = tuple(int(it) for it in alone.split(",") if it)
        if not all(0 < it <= 1e6 for it in factors) or not all(1 <= it <= 10_000 for it in replicas):
            raise ValueError
    except ValueError:
        raise click.BadParameter("write numbers such as 1,2,5", param_hint="--times, --alone") from None
    assume = planner.Assumptions(
        speed=speed,
        requests=requests,
        high=high,
        input_price=input_price,
        output_price=output_price,
        alone=replicas,
    )
    if model and model not in {it.name for it in settings.models}:
        raise click.BadParameter(f"no model {model!r}", param_hint="--model")
    try:
        found = planner.read(trace, assume)
    except planner.TraceError as error:
        raise click.ClickException(str(error)) from error
    target = next(it for it in settings.models if it.name == (model or settings.default.name)).targets[0]
    configured = planner.Configured(
        target.windows, queue_rules(settings.queue), settings.queue.timeout, settings.cache.redis_ttl
    )
    plans = list(planner.plan(configured, found, assume, factors, SystemClock().now()))
    for line in planner.table(plans):
        click.echo(line)
    if plot is not None:
        plot.write_text(planner.svg(plans))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def reference(folder: Path) -> None:
    """Write the reference pages of the documentation into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages(main).items():
        (folder / name).write_text(text)


@main.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    click.echo(rendered_document(), nl=False)


@main.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@click.option("--config", "path", default="", help="The YAML file.")
def check(path: str) -> None:
    """Validate everything; print every fault with its cure; exit 2 on any."""
    settings = _load(path)
    click.echo(f"no fault found: {len(settings.models)} models")


@config.command()
@click.option("--config", "path", default="", help="The YAML file.")
def show(path: str) -> None:
    """What is in force, secrets masked, and where each value came from."""
    settings = _load(path)
    for row in SETTINGS:
        value = row.value_in(settings)
        shown = _masked(value) if row.secret else value
        click.echo(f"{row.key} = {shown}    # {settings.origins[row.key]}")
    for model in settings.models:
        for target in model.targets:
            key = "***" if target.spec.api_key else ""
            quota = ", ".join(f"{it.name}={it.limit}" for it in target.windows) or "unlimited"
            click.echo(
                f"models.{model.name}.{target.name} = {target.spec.provider}:{target.spec.model} "
                f"tier={target.tier} quota=({quota}) api_key={key}    # {settings.origins['models']}"
            )


def _masked(secret: str) -> str:
    """Of an address where it is, without who we are there; of anything else nothing."""
    if "://" not in secret:
        return "***" if secret else ""
    parts = urlsplit(secret)
    host = parts.netloc.rpartition("@")[2]
    known = f"***@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=known, query="***" if parts.query else ""))


if __name__ == "__main__":
    main()
