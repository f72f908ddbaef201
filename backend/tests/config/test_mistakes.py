"""Each mistake in gateway.yaml is one fault, in its line, and the configuration is right once its cure is pasted."""

import re
from pathlib import Path

import pytest

from knowalledge.config.settings import Settings, SettingsError
from knowalledge.core.settings import Fault
from tests.support.paste import paste

GOOD = """\
redis_url: redis://127.0.0.1:6379/0
default_model: fast
models:
  fast:
    targets:
      - name: us
        provider: gemini
        api_key: ${GOOGLE_API_KEY}
        tier: 0
        quota: {rpm: 120, tpm: 60000}
      - name: eu
        provider: vertex
        project: mine
        location: europe-west1
        credentials: adc
        quota:
          - {count: requests, limit: 120, window: 60s}
          - {count: tokens, limit: 9000, window: day, resets_at: "00:00 Europe/Paris"}
    fallback: [slow]
    price: {input: 0.3, output: 2.5}
  slow:
    targets:
      - {name: local, provider: openai, base_url: "http://127.0.0.1:8000/v1"}
queue: {capacity: 100, timeout: 30s, holdback: {low: 0.998}}
cache:
  memory_bytes: 64MiB
  keep_warm: true
cdn: {kind: varnish, url: "http://varnish:6081"}
clients: {rate: 600/minute}
auth:
  mode: required
  jwt: {jwks_url: "https://issuer.example/jwks", issuer: "https://issuer.example", audience: us, leeway: 30s}
"""
# What is written in place of what, and where the fault is then: the line, and the key.
MISTAKES = [
    ("redis_url: redis:", "redis_urll: redis:", "redis_urll"),
    ("redis_url: redis://127.0.0.1:6379/0", "redis_url: localhost:6379", "redis_url"),
    ("redis_url: redis://127.0.0.1:6379/0", "redis_url: ${REDIS}", "redis_url"),
    ("default_model: fast", "default_model: fsat", "default_model"),
    ("default_model: fast", "default_model: [fast]", "default_model"),
    ("default_model: fast", "default_model: fast\ndefault_model: fast", "default_model"),
    ("default_model: fast", "nonsense: 1", "nonsense"),
    ("models:", "modles:", "modles"),
    ("    targets:\n      - name: us", "    target:\n      - name: us", "models.fast.target"),
    ("name: us", "name: u s", "models.fast.targets[0].name"),
    ("name: us", "nmae: us", "models.fast.targets[0].nmae"),
    ("name: us\n        ", "", "models.fast.targets[0].name"),
    ("name: eu", "name: us", "models.fast.targets[1].name"),
    ("provider: gemini", "provider: gemni", "models.fast.targets[0].provider"),
    ("provider: gemini", "provider: anthropic", "models.fast.targets[0].provider"),
    ("provider: gemini", "providr: gemini", "models.fast.targets[0].providr"),
    ("        provider: gemini\n", "", "models.fast.targets[0].provider"),
    ("        api_key: ${GOOGLE_API_KEY}\n", "", "models.fast.targets[0].api_key"),
    ("${GOOGLE_API_KEY}", "${GEMINI_KEY}", "models.fast.targets[0].api_key"),
    ("${GOOGLE_API_KEY}", "", "models.fast.targets[0].api_key"),
    ("${GOOGLE_API_KEY}", "[a]", "models.fast.targets[0].api_key"),
    ("tier: 0", "tier: -1", "models.fast.targets[0].tier"),
    ("tier: 0", "tier: first", "models.fast.targets[0].tier"),
    ("rpm: 120", "rqm: 120", "models.fast.targets[0].quota.rqm"),
    ("rpm: 120", "rpm: 0", "models.fast.targets[0].quota.rpm"),
    ("rpm: 120", "rpm: many", "models.fast.targets[0].quota.rpm"),
    ("rpm: 120", "rpm: 120, rpm: 7", "models.fast.targets[0].quota.rpm"),
    ("{rpm: 120, tpm: 60000}", "{}", "models.fast.targets[0].quota"),
    ("{rpm: 120, tpm: 60000}", "120", "models.fast.targets[0].quota"),
    ("        project: mine\n", "", "models.fast.targets[1]"),
    ("project: mine", "projet: mine", "models.fast.targets[1].projet"),
    ("tier: 0", "tier: ${TIER}", "models.fast.targets[0].tier"),
    ("project: mine", "project: ${PROJECT}", "models.fast.targets[1].project"),
    ("credentials: adc", "client: rset", "models.fast.targets[1].client"),
    ("credentials: adc", "credentials: anonymous", "models.fast.targets[1].credentials"),
    ("count: requests", "count: questions", "models.fast.targets[1].quota[0].count"),
    ("count: requests, ", "", "models.fast.targets[1].quota[0].count"),
    ("limit: 120, window: 60s", "window: 60s", "models.fast.targets[1].quota[0].limit"),
    ("limit: 120, window: 60s", "limit: 120", "models.fast.targets[1].quota[0].window"),
    ("window: 60s", "window: soon", "models.fast.targets[1].quota[0].window"),
    ("window: 60s", "window: 1.5s", "models.fast.targets[1].quota[0].window"),
    ("window: 60s", 'window: 60s, resets_at: "00:00 UTC"', "models.fast.targets[1].quota[0].resets_at"),
    ("{count: requests, limit: 120, window: 60s}", "120", "models.fast.targets[1].quota[0]"),
    (
        "{count: requests, limit: 120, window: 60s}",
        "{count: tokens, limit: 5, window: day}",
        "models.fast.targets[1].quota[1]",
    ),
    ("Europe/Paris", "Mars/North", "models.fast.targets[1].quota[1].resets_at"),
    ('"00:00 Europe/Paris"', "midnight", "models.fast.targets[1].quota[1].resets_at"),
    ("fallback: [slow]", "fallback: slow", "models.fast.fallback"),
    ("fallback: [slow]", "fallback: [solw]", "models.fast.fallback[0]"),
    ("fallback: [slow]", "fallback: [fast]", "models.fast.fallback[0]"),
    ("fallback: [slow]", "fallbak: [slow]", "models.fast.fallbak"),
    ("{input: 0.3, output: 2.5}", "0.3", "models.fast.price"),
    ("{input: 0.3, output: 2.5}", "{input: cheap, output: 1}", "models.fast.price"),
    ("  slow:\n", "  slow: {}\n  slower:\n", "models.slow.targets"),
    ("  slow:\n", "  slow: 5\n  slower:\n", "models.slow"),
    ("      - {name: local", "      - local\n      - {name: local", "models.slow.targets[0]"),
    ("      - {name: local", "      {name: local", "models.slow.targets"),
    ('"http://127.0.0.1:8000/v1"', "127.0.0.1:8000/v1", "models.slow.targets[0].base_url"),
    ('"http://127.0.0.1:8000/v1"', '"ftp://h/"', "models.slow.targets[0].base_url"),
    ("queue: {", "queu: {", "queu"),
    ("queue: {capacity: 100, timeout: 30s, holdback: {low: 0.998}}", "queue: 100", "queue"),
    ("capacity: 100", "capacity: many", "queue.capacity"),
    ("capacity: 100", "capcity: 100", "queue.capcity"),
    ("capacity: 100", "capacity: ", "queue.capacity"),
    ("timeout: 30s", "timeout: 30 seconds", "queue.timeout"),
    ("{low: 0.998}", "{lowest: 0.998}", "queue.holdback"),
    ("{low: 0.998}", "{low: 2}", "queue.holdback"),
    ("64MiB", "64 megabytes", "cache.memory_bytes"),
    ("keep_warm: true", "keep_warm: maybe", "cache.keep_warm"),
    ("kind: varnish", "kind: varnsh", "cdn.kind"),
    (', url: "http://varnish:6081"', "", "cdn.url"),
    ('"http://varnish:6081"', "varnish", "cdn.url"),
    ('kind: varnish, url: "http://varnish:6081"', "kind: fastly", "cdn"),
    ('kind: varnish, url: "http://varnish:6081"', "kind: fastly, zone: z", "cdn.token"),
    ("600/minute", "600 a minute", "clients.rate"),
    ("leeway: 30s", "leeway: a bit", "auth.jwt.leeway"),
    ("leeway: 30s", "leway: 30s", "auth.jwt.leway"),
    ("audience: us, ", "", "auth.jwt.audience"),
    ("leeway: 30s", "algorithms: [HS256]", "auth.jwt.algorithms"),
    ("leeway: 30s", "secret: 0123456789012345678901234567890123", "auth.jwt.secret"),
    ("  jwt: {", "  jtw: {", "auth.jtw"),
    ("  mode: required", "  mode: requird", "auth.mode"),
    ("  mode: required", "  mode: required\n  tenant_header: X-Tenant", "auth.tenant_header"),
    ("auth:\n", "database_url: postgresql://h/d\nauth:\n", "auth.secret"),
    ("clients: {", "queue.capacity: 7\nclients: {", "queue.capacity"),
]
ENVIRON = {"GOOGLE_API_KEY": "k"}


def faults(file: Path, environ: dict[str, str]) -> list[Fault]:
    try:
        Settings.load(environ=environ, config=str(file))
    except SettingsError as error:
        return error.faults
    return []


def test_the_configuration_has_no_mistake_to_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(GOOD)
    assert faults(file, dict(ENVIRON)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "key"), MISTAKES, ids=[f"{it[2]}-{n}" for n, it in enumerate(MISTAKES)]
)
def test_a_mistake_is_one_fault_with_its_line_and_a_cure_that_pastes(
    tmp_path: Path, right: str, wrong: str, key: str
) -> None:
    file, environ = tmp_path / "gateway.yaml", dict(ENVIRON)
    text = GOOD.replace(right, wrong, 1)
    file.write_text(text)
    (fault,) = faults(file, environ)
    assert (fault.key, fault.file) == (key, str(file))
    line = text.splitlines()[fault.line - 1]
    names = [*re.findall(r"[A-Za-z_]+", key)[-2:], "- "]  # the key itself, its parent, or an item of a list
    assert any(it in line for it in names)
    file.write_text(paste(text, fault, environ))
    assert faults(file, environ) == [], file.read_text()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n\tapi_key: hunter2", 2),
        ("api_key: hunter2: x", 1),
        ("api_key: 'hunter2\nb: 1\n", 1),
        ("api_key: @hunter2", 1),
        ("api_key: !hunter2 x", 1),
        ("api_key: *hunter2", 1),
        ("api_key: &hunter2", 1),
        ("b: 1\napi_key: &hunter2 1\nc: &hunter2 2\nd: *hunter2", 2),
        ("a: 1\napi_key: [hunter2", 2),
        ("a: {api_key: hunter2\nb: 1", 1),
        ("a:\n  b: 1\n api_key: hunter2", 3),
        ("api_key hunter2\na: 1", 2),
        ("? [hunter2]\n: 2", 1),
        ("a: 1\n---\napi_key: hunter2", 2),
        ('api_key: "hunter2\\q"', 1),
        ("api_key: %hunter2", 1),
        ("a: 1\napi_key: 2026-99-99 # hunter2", 2),
        ("api_key: !!int hunter2", 1),
        ("api_key: |hunter2\n  x", 1),
        ("api_key: hunter2 }\n  b: 1", 2),
        ("api_key: `hunter2`", 1),
        ("- hunter2", 1),
        ("hunter2", 1),
    ],
)
def test_a_file_that_is_no_yaml_is_one_fault_that_quotes_nothing_of_it(
    tmp_path: Path, text: str, line: int
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    (fault,) = faults(file, {})
    assert "hunter2" not in str(fault)
    assert (fault.file, fault.line) == (str(file), line)
    assert fault.cure


def test_what_the_environment_says_wrongly_is_cured_in_the_shell(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("")
    for name, value in (
        ("KNOWALLEDGE_QUEUE__CAPACITY", "many"),
        ("KNOWALLEDGE_QUEUE__CAPCITY", "5"),
        ("KNOWALLEDGE_REDIS_URL_FILE", "/nowhere"),
        ("KNOWALLEDGE_REDIS_URL", "localhost"),
    ):
        environ = {name: value}
        (fault,) = faults(file, environ)
        assert (fault.file, fault.line) == ("environment", 0)
        paste("", fault, environ)
        assert faults(file, environ) == []
