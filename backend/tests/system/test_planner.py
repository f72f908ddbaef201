"""``knowalledge plan`` as it is typed."""

import subprocess
import sys
from pathlib import Path

CONFIG = "models: {m: {targets: [{name: t, provider: gemini, api_key: k, quota: {rpm: 10}}]}}"


def planned(folder: Path, trace: str, *args: str) -> "subprocess.CompletedProcess[str]":
    (folder / "c.yaml").write_text(CONFIG)
    (folder / "t.csv").write_text(trace)
    command = [sys.executable, "-m", "knowalledge.cli", "plan", "--config", str(folder / "c.yaml")]
    return subprocess.run(
        [*command, "--trace", str(folder / "t.csv"), *args], capture_output=True, text=True, timeout=60
    )


def test_a_plan_is_a_table_and_a_picture(tmp_path: Path) -> None:
    rows = "".join(f"{i * 1000},p{i},100,50\n" for i in range(200))
    trace = "arrival_ms,prompt_id,input_tokens,output_tokens\n" + rows
    found = planned(tmp_path, trace, "--plot", str(tmp_path / "plan.svg"), "--high", "0.2")
    assert found.returncode == 0, found.stderr
    assert "1 x quota (rpm 10)" in found.stdout
    assert "2 x quota (rpm 20)" in found.stdout
    assert "waited       high" in found.stdout
    assert (tmp_path / "plan.svg").read_text().count("<polyline") == 4


def test_a_trace_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    assert "no column output_tokens" in planned(tmp_path, "arrival_ms,prompt_id,input_tokens\n").stderr
    bad = "arrival_ms,prompt_id,input_tokens,output_tokens\n0,a,1,1\n5,b,-3,1\n"
    assert "line 3" in planned(tmp_path, bad).stderr
