"""``knowalledge doctor``: what it sees of things that are well, and of each that is not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import click
import pytest
from redis import Redis

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # isort: skip

from bench.ports import free_port
from knowalledge.cli import doctor
from knowalledge.cli.doctor import Finding, examine, table
from knowalledge.config.settings import Settings
from knowalledge.core.clock import SystemClock
from tests.support.otlp import store as traces


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        key = self.headers.get("x-goog-api-key") or self.headers.get("authorization")
        body = json.dumps({"name": "models/m", "error": {"code": 401}}).encode()
        self.send_response(401 if key and "wrong" in key else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    """A real provider, in threads: a child process asks it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def written(path: Path, redis_url: str, *targets: tuple[str, str, str, str]) -> Path:
    lines = [f"redis_url: {redis_url}"] if redis_url else []
    lines += ["models:", "  m:", "    targets:"]
    for name, provider, url, key in targets:
        lines.append(f"      - {{name: {name}, provider: {provider}, base_url: '{url}', api_key: {key}}}")
    path.write_text("\n".join(lines))
    return path


def run(config: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "knowalledge.cli", "doctor", "--config", str(config), "--timeout", "5"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


def rows(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {it.name: it for it in findings}


def test_all_is_well(tmp_path: Path, redis_url: str, redis_client: "Redis", upstream: str) -> None:
    config = written(
        tmp_path / "c.yaml", redis_url, ("one", "gemini", upstream, "k"), ("two", "openai", upstream, "k")
    )
    done = run(config)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line[: line.index("  ")] for line in done.stdout.splitlines()]
    assert names == ["redis", "clock", "disk", "target one", "target two"]
    assert "DOWN" not in done.stdout


def test_each_thing_that_is_down_is_named_and_the_exit_says_so(tmp_path: Path, upstream: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    config = written(
        tmp_path / "c.yaml",
        f"redis://:secret@127.0.0.1:{free_port()}/0",
        ("well", "gemini", upstream, "k"),
        ("wrong-key", "gemini", upstream, "wrong-secret"),
        ("gone", "openai", nowhere, "k"),
    )
    done = run(config)
    assert done.returncode == 1
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "DOWN" in lines["redis"]
    assert "  ok  " in lines["target well"]
    assert "DOWN" in lines["target wrong-key"]
    assert "provider_auth" in lines["target wrong-key"]
    assert "provider_unavailable" in lines["target gone"]
    assert "secret" not in done.stdout + done.stderr


def test_a_configuration_with_faults_is_no_patient(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("nonsense: 1")
    assert run(config).returncode == 2


@pytest.fixture
def settings(tmp_path: Path, upstream: str, redis_url: str) -> Settings:
    return Settings.load(
        environ={}, config=str(written(tmp_path / "c.yaml", redis_url, ("t", "gemini", upstream, "k")))
    )


def test_without_redis_there_is_none_to_be_down(tmp_path: Path, upstream: str) -> None:
    path = written(tmp_path / "c.yaml", "", ("t", "gemini", upstream, "k"))
    found = rows(examine(Settings.load(environ={}, config=str(path)), SystemClock(), 5.0))
    assert found["redis"].ok
    assert "clock" not in found


@pytest.mark.parametrize(("ahead", "ok"), [(0.0, True), (-4.0, True), (60.0, False), (-60.0, False)])
def test_a_clock_that_is_off_is_seen(ahead: float, ok: bool, settings: Settings) -> None:
    class Off(SystemClock):
        def now(self) -> float:
            return super().now() + ahead

    found = rows(examine(settings, Off(), 5.0))["clock"]
    assert found.ok is ok
    assert found.note.startswith("-" if ahead > 1 else "+") or abs(ahead) < 1


def test_a_redis_that_may_forget_is_not_well(settings: Settings, redis_client: "Redis") -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = rows(examine(settings, SystemClock(), 5.0))["redis"]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert not found.ok
    assert "noeviction" in found.note


def test_a_disk_that_is_full_or_closed_is_seen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert rows(examine(settings, SystemClock(), 5.0))["disk"].ok
    monkeypatch.setattr(doctor, "MIN_FREE", 10**18)
    assert not rows(examine(settings, SystemClock(), 5.0))["disk"].ok
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "gone"))
    assert not rows(examine(settings, SystemClock(), 5.0))["disk"].ok


def test_a_key_that_cannot_be_sent_is_told_of_not_thrown(tmp_path: Path, upstream: str) -> None:
    settings = Settings.load(
        environ={"KEY": "secret\nx"},
        config=str(written(tmp_path / "c.yaml", "", ("t", "gemini", upstream, "'${KEY}'"))),
    )
    found = rows(examine(settings, SystemClock(), 5.0))["target t"]
    assert not found.ok
    assert "secret" not in found.note


def test_a_store_of_traces_is_asked_to_take_no_spans(tmp_path: Path, upstream: str) -> None:
    config = written(tmp_path / "c.yaml", "", ("t", "gemini", upstream, "k"))

    def seen(endpoint: str) -> Finding:
        environ = {"KNOWALLEDGE_TRACING__ENDPOINT": endpoint, "KNOWALLEDGE_TRACING__TIMEOUT": "300ms"}
        return rows(examine(Settings.load(environ=environ, config=str(config)), SystemClock(), 5.0))[
            "tracing"
        ]

    with traces() as store:
        well = seen(store.url)
        assert (well.ok, well.note) == (True, "takes spans")
        assert store.spans == []
        store.status = 404
        assert not seen(store.url).ok
        store.status = 503
        assert "503" in seen(store.url).note
        store.status = 200
        store.held.clear()
        assert "Timeout" in seen(store.url).note
        store.held.set()
    assert "no answer" in seen(f"http://127.0.0.1:{free_port()}").note
    assert "tracing" not in rows(examine(Settings.load(environ={}, config=str(config)), SystemClock(), 5.0))


def test_a_cluster_that_is_away_is_told_of_not_thrown(tmp_path: Path, upstream: str) -> None:
    path = written(
        tmp_path / "c.yaml", f"redis+cluster://127.0.0.1:{free_port()}", ("t", "gemini", upstream, "k")
    )
    found = rows(examine(Settings.load(environ={}, config=str(path)), SystemClock(), 5.0))
    assert not found["redis"].ok
    assert found["target t"].ok


def test_a_redis_that_may_not_speak_of_itself_is_well(
    tmp_path: Path, upstream: str, redis_url: str, redis_client: "Redis"
) -> None:
    redis_client.acl_setuser(
        "guest",
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-config", "-info"],
    )
    try:
        url = redis_url.replace("//", "//guest:pw@")
        path = written(tmp_path / "c.yaml", url, ("t", "gemini", upstream, "k"))
        found = rows(examine(Settings.load(environ={}, config=str(path)), SystemClock(), 5.0))
    finally:
        redis_client.acl_deluser("guest")
    assert found["redis"].ok
    assert "noeviction" in found["redis"].note
    assert found["clock"].ok


def test_the_table_is_aligned() -> None:
    findings = (Finding("a", True, "x", 1.25), Finding("longer", False, "y", cure="mend it"))
    lines = [click.unstyle(it) for it in table(findings)]
    assert lines == ["a       ok        1.2 ms  x", "longer  DOWN              y", "    cure: mend it"]
