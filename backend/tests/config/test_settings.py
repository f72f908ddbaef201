"""The settings table: every mistake found at once, each with its key and its cure."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from knowalledge.config.settings import Settings, SettingsError
from knowalledge.providers.embedded import provider as embedded
from knowalledge.quota.domain.window import Count

TARGET = "name: us, provider: gemini, api_key: k"


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return Settings.load(environ=environ, config=str(file))


def faults(tmp_path: Path, text: str, **environ: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, text, **environ)
    return {fault.key: f"{fault.wrong}; {fault.cure}" for fault in raised.value.faults}


def test_without_configuration_the_embedded_model_answers() -> None:
    settings = Settings.load(environ={})
    assert settings.default.name == embedded.MODEL
    assert settings.queue.capacity == 100


def test_the_command_line_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("queue: {capacity: 1, timeout: 5s, aging: 9s}")
    environ = {"KNOWALLEDGE_QUEUE__CAPACITY": "2", "KNOWALLEDGE_QUEUE__TIMEOUT": "6s"}
    settings = Settings.load({"queue.capacity": 3}, environ, str(file))
    assert [settings.queue.capacity, settings.queue.timeout, settings.queue.aging] == [3, 6.0, 9.0]
    assert settings.origins["queue.timeout"] == "environment"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "redis"
    secret.write_text("redis://:hush@127.0.0.1:6379/0\n")
    settings = Settings.load(environ={"KNOWALLEDGE_REDIS_URL_FILE": str(secret)})
    assert settings.redis_url == "redis://:hush@127.0.0.1:6379/0"


def test_a_variable_in_the_file_may_come_from_a_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hush\n")
    text = "models: {g: {targets: [{name: us, provider: openai, api_key: '${KEY}'}]}}"
    assert load(tmp_path, text, KEY_FILE=str(tmp_path / "key")).models[0].targets[0].spec.api_key == "hush"
    assert load(tmp_path, text, KEY="told", KEY_FILE="/nowhere").models[0].targets[0].spec.api_key == "told"
    found = faults(tmp_path, text, KEY_FILE=str(tmp_path / "gone"))
    assert "KEY_FILE cannot be read" in found["models.g.targets[0].api_key"]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, "queue: {capacity: -1, timeout: soon}\nredis_url: http://x\nquue: {}")
    assert set(found) == {"queue.capacity", "queue.timeout", "redis_url", "quue"}
    assert "'queue'" in found["quue"]


def test_the_short_form_of_a_quota_means_what_its_provider_counts(tmp_path: Path) -> None:
    settings = load(tmp_path, "models: {g: {targets: [{" + TARGET + ", quota: {rpm: 5, tpm: 100, rpd: 9}}]}}")
    windows = settings.models[0].targets[0].windows
    assert [(it.name, it.count, it.span_s) for it in windows] == [
        ("rpm", Count.REQUESTS, 60),
        ("tpm", Count.INPUT, 60),
        ("rpd", Count.REQUESTS, 86_400),
    ]
    assert windows[2].zone == "America/Los_Angeles"


def test_the_long_form_of_a_quota_takes_any_window(tmp_path: Path) -> None:
    quota = (
        "[{count: output_tokens, limit: 7, window: 10s},"
        ' {count: requests, limit: 8, window: day, resets_at: "06:30 Europe/Paris"}]'
    )
    settings = load(tmp_path, "models: {g: {targets: [{" + TARGET + f", quota: {quota}" + "}]}}")
    short, day = settings.models[0].targets[0].windows
    assert (short.count, short.limit, short.span_s, short.calendar) == (Count.OUTPUT, 7, 10, False)
    assert (day.zone, day.reset_s) == ("Europe/Paris", 6 * 3600 + 1800)


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ("models: {}", "models", "write models"),
        ("models: {g: {}}", "models.g.targets", "at least one"),
        ("models: {g: {targets: [{name: a, provider: azure}]}}", "models.g.targets[0].provider", "vertex"),
        (
            "models: {g: {targets: [{name: a, provider: vertex}]}}",
            "models.g.targets[0]",
            "project and location",
        ),
        (
            "models: {g: {targets: [{name: a, provider: openai, client: aiplatform}]}}",
            "models.g.targets[0].client",
            "write rest",
        ),
        (
            "models: {g: {targets: [{name: a, provider: gemini}]}}",
            "models.g.targets[0].api_key",
            "GOOGLE_API_KEY",
        ),
        (
            "models: {g: {targets: [{name: a, provider: gemini, credentials: anonymous}]}}",
            "models.g.targets[0].credentials",
            "loopback",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: {rpm: 0}}]}}",
            "models.g.targets[0].quota.rpm",
            "above 0",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: {rpm: -3}}]}}",
            "models.g.targets[0].quota.rpm",
            "above 0",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: {rqm: 3}}]}}",
            "models.g.targets[0].quota.rqm",
            "'rpm'",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: [{count: requests, limit: 1, window: soon}]}]}}",
            "models.g.targets[0].quota[0].window",
            "duration",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: [{count: requests, limit: 1, window: day, "
            "resets_at: '00:00 Mars/X'}]}]}}",
            "models.g.targets[0].quota[0].resets_at",
            "IANA",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: [{count: requests, limit: 9, window: 90.5s}]}]}}",
            "models.g.targets[0].quota[0].window",
            "1s or more",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: [{count: requests, limit: 9, window: 500ms}]}]}}",
            "models.g.targets[0].quota[0].window",
            "1s or more",
        ),
        ("models: {g: {targets: [{TARGET}, {TARGET}]}}", "models.g.targets[1].name", "rename"),
        ("models: {g: {targets: [{TARGET}], fallback: [h]}}", "models.g.fallback[0]", "'g'"),
        ("models: {g: {targets: [{TARGET}]}}\ndefault_model: h", "default_model", "'g'"),
        ("redis_url: ${NOT_SET}", "redis_url", "set NOT_SET"),
        ("redis_url: redis://host:port", "redis_url", "write an address"),
        ("redis_url: 'redis://[::1'", "redis_url", "write an address"),
        (
            "models: {g: {targets: [{TARGET, base_url: 'http://[::1'}]}}",
            "models.g.targets[0].base_url",
            "http",
        ),
        (
            "models: {g: {targets: [{TARGET, base_url: 'http://h:99999'}]}}",
            "models.g.targets[0].base_url",
            "http",
        ),
        ("cdn: {kind: varnish, url: 'http://[::1'}", "cdn.url", "http"),
        ("cdn: {kind: varnish, url: 'http://h:port'}", "cdn.url", "http"),
        ("models: {g: {targets: [{TARGET}], fallback: [{g: 1}]}}", "models.g.fallback[0]", "'g'"),
        ("models: {g: {targets: [{TARGET, quota: []}]}}", "models.g.targets[0].quota", "leave quota out"),
        ("models: {g: {targets: [{TARGET, quota: {}}]}}", "models.g.targets[0].quota", "leave quota out"),
        (
            "models: {g: {targets: [{TARGET, quota: ["
            + "{count: requests, limit: 1, window: 1s}," * 17
            + "]}]}}",
            "models.g.targets[0].quota",
            "1 to 16",
        ),
        (
            "models: {g: {targets: [{TARGET, quota: ["
            + "{count: requests, limit: 1, window: 1s}," * 2
            + "]}]}}",
            "models.g.targets[0].quota[1]",
            "lower limit",
        ),
        ("models: {'': {targets: [{TARGET}]}}", "models.", "the name that clients"),
        ('models: {"a\\nb": {targets: [{TARGET}]}}', "models.a\nb", "the name that clients"),
        ("queue: {capacity: 5}\nqueue: {timeout: 5s}", "queue", "keep one"),
        (
            "models: {g: {targets: [{TARGET, quota: {rpm: 5, rpm: 7}}]}}",
            "models.g.targets[0].quota.rpm",
            "keep one",
        ),
        ("redis: {timeout: 0}", "redis.timeout", "above 0"),
        ("request: {timeout: 0s}", "request.timeout", "above 0"),
        ("server: {heartbeat: 0}", "server.heartbeat", "above 0"),
        ("server: {max_body: 0}", "server.max_body", "above 0"),
    ],
)
def test_each_mistake_names_its_key_and_its_cure(tmp_path: Path, text: str, key: str, cure: str) -> None:
    found = faults(tmp_path, text.replace("TARGET", TARGET))
    assert cure in found[key]


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", "a: &x [1]\nb: *x", "? [1]\n: 2", "x" * 2_000_000])
def test_a_file_that_is_no_configuration_is_a_fault_not_a_crash(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, text)


def test_a_secret_is_not_repeated_in_a_fault(tmp_path: Path) -> None:
    assert "hush" not in str(faults(tmp_path, "redis_url: http://:hush@x"))
    text = "models: {g: {targets: [{name: a, provider: openai, base_url: ['http://me:hush@x']}]}}"
    assert "hush" not in str(faults(tmp_path, text))


def test_a_variable_that_is_set_as_itself_and_as_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("5")
    name = "KNOWALLEDGE_QUEUE__CAPACITY"
    for environ in (
        {name: "7", f"{name}_FILE": str(tmp_path / "n")},
        {f"{name}_FILE": "/nowhere", name: "7"},
    ):
        assert "set one of the two" in faults(tmp_path, "", **environ)[f"{name}_FILE"]


def test_a_callers_own_key_is_no_setting(tmp_path: Path) -> None:
    assert load(tmp_path, "", KNOWALLEDGE_KEY="mine").queue.capacity == 100


def test_what_is_in_force_is_shown_without_its_secrets(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "redis_url: redis://me:hush@h:6379/0?password=hush\n"
        "provider: {proxy: 'http://me:hush@p:1'}\n"
        "cdn: {kind: fastly, zone: z, token: hush}\n"
        "models: {m: {targets: [{name: t, provider: openai, api_key: hush}]}}\n"
    )
    command = [sys.executable, "-m", "knowalledge.cli", "config", "show", "--config", str(config)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0
    assert "hush" not in found.stdout + found.stderr
    shown = yaml.safe_load(found.stdout)
    assert shown["redis_url"] == "redis://***@h:6379/0?***"
    assert shown["provider.proxy"] == "http://***@p:1"
    assert (shown["cdn.token"], shown["models"]["m"]["targets"][0]["api_key"]) == ("***", "***")


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4318",
        "grpc://c:4317",
        "http://",
        "http://me:hush@c:4318",
        "http://c:99999",
        "http://c/?a=b",
        "http://c c",
    ],
)
def test_spans_go_to_an_address_of_http_without_a_password(tmp_path: Path, endpoint: str) -> None:
    found = faults(tmp_path, f'tracing: {{endpoint: "{endpoint}"}}')
    assert "http://collector:4318" in found["tracing.endpoint"]
    assert "hush" not in str(found)
    assert (
        load(tmp_path, 'tracing: {endpoint: "https://c:4318/otlp"}').tracing.endpoint == "https://c:4318/otlp"
    )
    assert load(tmp_path, "", KNOWALLEDGE_TRACING__ENDPOINT="").tracing.endpoint == ""


@pytest.mark.parametrize("sample", ["-0.1", "1.1", "nan", "true", "ten", "[]"])
def test_a_share_is_a_number_from_0_to_1(tmp_path: Path, sample: str) -> None:
    assert "from 0 to 1" in faults(tmp_path, f"tracing: {{sample: {sample}}}")["tracing.sample"]
    assert load(tmp_path, "tracing: {sample: 1}").tracing.sample == 1.0


def test_a_target_that_no_provider_can_be_made_of_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text('models: {m: {targets: [{name: t, provider: gemini, api_key: "a\\nb"}]}}')
    command = [sys.executable, "-m", "knowalledge.cli", "config", "check", "--config", str(config)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (2, "")
    assert "c.yaml:1: models.m.targets[0].api_key: " in found.stderr
    assert "cure: " in found.stderr
