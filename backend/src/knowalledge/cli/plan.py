"""``knowalledge plan``."""

from pathlib import Path

import click

from knowalledge.cli.common import config_option, load_settings
from knowalledge.cli.manners import example
from knowalledge.config.settings import Settings
from knowalledge.core.clock import SystemClock
from knowalledge.quota.feature import queue_rules
from knowalledge.quota.planner import trace as planner


@example("knowalledge plan --trace requests.csv --config gateway.yaml --times 1,2,5 --plot plan.svg")
@click.command()
@click.option("--trace", required=True, type=click.Path(path_type=Path), help="The CSV file.")
@config_option
@click.option(
    "--model", default="", help="The model whose first target is simulated; default: the default model."
)
@click.option("--times", default="1,2", show_default=True, help="Multiples of the quota to simulate.")
@click.option(
    "--speed", default=1.0, type=click.FloatRange(1e-3, 1e6), help="Arrivals come so many times as fast."
)
@click.option(
    "--requests", default=0, type=click.IntRange(0, 10**8), help="How many requests; default: the trace once."
)
@click.option(
    "--high",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="The fraction of priority high; others are low.",
)
@click.option("--input-price", default=0.30, show_default=True, help="USD per million tokens.")
@click.option("--output-price", default=2.50, show_default=True, help="USD per million tokens.")
@click.option("--alone", default="", help="Also so many replicas that share no Redis, such as 10,100.")
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
    """Simulate what the quota does to a trace of requests, in virtual time and without a network."""
    settings = load_settings(config)
    factors, replicas = _numbers(times, alone)
    assume = planner.Assumptions(
        speed=speed,
        requests=requests,
        high=high,
        input_price=input_price,
        output_price=output_price,
        isolated=replicas,
    )
    configured = _configured(settings, model)
    try:
        arrivals = planner.read(trace, assume)
    except planner.TraceError as error:
        raise click.ClickException(str(error)) from error
    results = list(planner.plan(configured, arrivals, assume, factors, SystemClock().now()))
    for line in planner.table(results):
        click.echo(line)
    if plot is not None:
        plot.write_text(planner.svg(results))


def _numbers(times: str, alone: str) -> tuple[list[float], tuple[int, ...]]:
    try:
        factors = [float(it) for it in times.split(",")]
        replicas = tuple(int(it) for it in alone.split(",") if it)
    except ValueError:
        factors, replicas = [], ()
    if (
        not factors
        or not all(0 < it <= 1e6 for it in factors)
        or not all(1 <= it <= 10_000 for it in replicas)
    ):
        raise click.BadParameter("write numbers such as 1,2,5", param_hint="--times, --alone")
    return factors, replicas


def _configured(settings: Settings, model: str) -> planner.ConfiguredQuota:
    """The quota of the first target of a model, by default of the default model."""
    models = {it.name: it for it in settings.models}
    if model and model not in models:
        raise click.BadParameter(f"no model {model!r}", param_hint="--model")
    target = (models[model] if model else settings.default).targets[0]
    return planner.ConfiguredQuota(
        target.windows, queue_rules(settings.queue), settings.queue.timeout, settings.cache.redis_ttl
    )
