"""``python -m knowalledge_simulator``, also ``knowalledge provider-sim``: one process on one core."""

import asyncio
import gc
import signal
import sys
import time
from typing import Any

import click
import msgspec

from knowalledge_simulator.knobs import FAULTS, KNOBS, Knobs, patched
from knowalledge_simulator.provider import Provider
from knowalledge_simulator.server import serve
from knowalledge_simulator.window import Limits

# Knobs with options of their own, which may be repeated.
_REPEATED = ("models", "faults")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def _model(text: str) -> tuple[str, dict[str, str]]:
    name, _, limits = text.partition(":")
    return name, dict(_pair(it) for it in limits.split(",") if it)


def _options(command: Any) -> Any:
    """One option per knob, so that the options and ``/_control`` cannot differ."""
    for field in reversed(msgspec.structs.fields(Knobs)):
        if field.name in _REPEATED:
            continue
        flag, words = f"--{field.name.replace('_', '-')}", KNOBS[field.name]
        if isinstance(field.default, bool):
            flags = f"{flag}/--no-{flag[2:]}"
            option = click.option(flags, default=field.default, show_default=True, help=words)
        else:
            kind = type(field.default)
            option = click.option(flag, default=field.default, type=kind, show_default=True, help=words)
        command = option(command)
    return command


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="A strict provider simulator: the APIs of Gemini, Vertex AI and OpenAI, exact quotas, faults.",
    epilog="\b\nExample:\n  knowalledge provider-sim --rpm 120 --tpm 60000 --model gemini-2.5-pro:rpm=5,rpd=100",
)
@click.option("--bind", default="127.0.0.1:9900", show_default=True, help="HOST:PORT to listen on.")
@click.option("--seed", default=0, show_default=True, help="Of latencies, lengths and faults.")
@click.option("--model", "models", multiple=True, help="NAME[:rpm=N,tpm=N,rpd=N,tpd=N]; may be repeated.")
@click.option("--fault", "faults", multiple=True, help=f"KIND=SHARE; may be repeated. {', '.join(FAULTS)}.")
@_options
def main(bind: str, seed: int, models: tuple[str, ...], faults: tuple[str, ...], **knobs: Any) -> None:
    host, _, port = bind.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"--bind {bind!r} is not HOST:PORT")
    try:
        initial = patched(
            Knobs(),
            knobs
            | {
                "faults": dict(map(_pair, faults)),
                "models": {
                    name: msgspec.convert(limits, Limits, strict=False)
                    for name, limits in map(_model, models)
                },
            },
        )
    except msgspec.ValidationError as error:
        click.echo(f"provider-sim: {error}", err=True)
        sys.exit(2)
    try:
        asyncio.run(_run(initial, host.strip("[]") or "127.0.0.1", int(port), seed))
    except OSError as error:
        click.echo(f"provider-sim: {bind} cannot be used ({error.strerror}); choose another --bind", err=True)
        sys.exit(2)


async def _run(knobs: Knobs, host: str, port: int, seed: int) -> None:
    provider = Provider(knobs, time.monotonic, seed)
    server = await serve(provider, host, port)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    gc.freeze()
    bound = server.sockets[0].getsockname()[1]
    print(f"provider-sim ready on http://{host}:{bound}", flush=True)  # noqa: T201 - tells the caller that it serves
    await stop.wait()
    server.close()


if __name__ == "__main__":
    main()
