"""CPU time of the capacity planner for a trace of a million requests."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Row

TITLE = "The capacity planner"
WHY = """\
`knowalledge plan` replays the trace of the quota bench, repeated, against one quota.
The figure is the whole command with its start, in user and system time of one core."""
TRACE = Path(__file__).with_name("data") / "llm_trace.csv"
CONFIG = """
models:
  m:
    targets:
      - {name: one, provider: gemini, api_key: none, quota: %s}
"""
QUOTAS = {
    "two windows": "{rpm: 120, tpm: 60000}",
    "four windows": "{rpm: 120, tpm: 60000, rpd: 50000, tpd: 20000000}",
    "two windows, two thirds of it served or cached": "{rpm: 2000, tpm: 1000000}",
}
MAX_S = 60.0


def run(quick: bool) -> list[Row]:
    requests = 100_000 if quick else 1_000_000
    rows = []
    for name, quota in QUOTAS.items():
        seconds = _cpu_seconds(quota, requests)
        rows.append(
            Row(
                f"{requests:,} requests, {name}: CPU",
                f"{seconds:.1f} s",
                "" if quick else f"< {MAX_S:.0f} s",
            )
        )
    return rows


def _cpu_seconds(quota: str, requests: int) -> float:
    """User and system time of the command."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(CONFIG % quota)
        config.flush()
        program = Path(sys.executable).with_name("knowalledge")
        command = [str(program), "plan", "--trace", str(TRACE), "--config", config.name]
        options = ["--requests", str(requests), "--times", "1"]
        with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"knowalledge plan ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime
