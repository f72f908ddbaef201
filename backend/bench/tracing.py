"""What tracing costs a worker: the same gateway with tracing off, with one request in ten sampled, and with all.

``python -m bench.tracing collector PORT`` is the process that takes the spans.
"""

import asyncio
import json
import statistics
import sys
from typing import Any

from bench.overhead import ASK, CONFIG, IN_FLIGHT
from bench.ports import free_port
from bench.processes import Child, Stage
from bench.report import Row

TITLE = "What tracing costs"
WHY = (
    "Three `knowalledge serve` workers that differ in `tracing` alone: quota in Redis, a zero-latency provider, "
    f"{IN_FLIGHT} requests in flight, measured in turns.\n"
    "CPU is user and system time of the worker process, and includes sending the spans.\n"
    "A round's ratio is taken within the round; the table has the median of the ratios."
)
SAMPLED = {"off": "", "10%": "0.1", "100%": "1"}


def run(quick: bool) -> list[Row]:
    with Stage() as stage:
        return _rows(stage, 3 if quick else 30, 1.0 if quick else 1.5)


def _rows(stage: Stage, rounds: int, seconds: float) -> list[Row]:
    collector = free_port()
    stage.start(sys.executable, "-m", "bench.tracing", "collector", str(collector), ready="ready")
    config = CONFIG.format(redis=stage.redis().port, sim=stage.simulator("--output-tokens", "90").port)
    gateways = {
        name: stage.gateway(config + _tracing(collector, share) if share else config)
        for name, share in SAMPLED.items()
    }
    idle = {name: gateway.rss_mb() for name, gateway in gateways.items()}
    loader = stage.loader()

    def cpu_us(gateway: Child) -> float:
        """CPU microseconds a request in the worker."""
        before = gateway.cpu()
        order: dict[str, Any] = {"mode": "closed", "concurrency": IN_FLIGHT, "seconds": seconds}
        seen = loader.run(port=gateway.port, path="/api/v1/generate", body=json.dumps(ASK), **order)
        if seen["statuses"] != {"200": seen["count"]}:
            raise RuntimeError(f"answers were not 200: {seen['statuses']} {seen['sample']}")
        return (gateway.cpu() - before) * 1e6 / float(seen["count"])

    for gateway in gateways.values():
        cpu_us(gateway)  # warm
    # Each comes first, second and third equally often: what a round does to the processor's speed hits all alike.
    names = list(gateways)
    measured: list[dict[str, float]] = []
    for number in range(rounds):
        turn = number % len(names)
        measured.append({name: cpu_us(gateways[name]) for name in names[turn:] + names[:turn]})
    off = statistics.median(it["off"] for it in measured)
    rows = [Row("tracing off: CPU a request", f"{off:.0f} us; idle worker {idle['off']:.0f} MB")]
    for name in ("10%", "100%"):
        ratios = sorted(it[name] / it["off"] for it in measured)
        ratio = statistics.median(ratios)
        spread = f"rounds {ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f}"
        told = f"{ratio:.3f} x off ({(ratio - 1) * off:+.0f} us; {spread}; idle worker {idle[name]:.0f} MB)"
        rows.append(Row(f"{name} sampled: CPU a request", told, "<= 1.03 x off" if name == "10%" else ""))
    return rows


def _tracing(collector: int, share: str) -> str:
    return f'tracing: {{endpoint: "http://127.0.0.1:{collector}", sample: {share}}}\n'


async def _collect(port: int) -> None:
    """Take whatever is posted."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", port) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_collect(int(sys.argv[2])))
