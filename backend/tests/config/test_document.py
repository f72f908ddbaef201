"""What is in force is shown as the YAML that a file has."""

from dataclasses import replace
from pathlib import Path

import pytest

from knowalledge.config.document import document, without_credentials
from knowalledge.config.notes import notes
from knowalledge.config.settings import SETTINGS, Settings
from knowalledge.config.sources import OTHERS, variable
from knowalledge.core.context import Priority
from knowalledge.core.parsers import duration, fractions, level, size, text, written

ROOT = Path(__file__).parents[3]
FILE = """\
queue: {capacity: 7, timeout: 90s, holdback: {low: 0.5, medium: 0.75}, max_level_anonymous: medium}
cache: {memory_bytes: 1000, browser_ttl: 0}
cdn.soft: true
models:
  "1.5":
    targets:
      - {name: a, provider: openai, base_url: "http://127.0.0.1:1/v1", tier: 2, quota: {rpm: 3, tpd: 9}}
      - name: b
        provider: vertex
        project: "12"
        location: l
        credentials: adc
        quota: [{count: tokens, limit: 5, window: day, resets_at: "06:30 Europe/Paris"}]
    fallback: [other]
    price: {input: 1, output: 2}
  other:
    targets: [{name: c, provider: openai, base_url: "http://127.0.0.1:1/v1", quota: learn}]
"""


def load(path: Path, content: str) -> Settings:
    path.write_text(content)
    return Settings.load(environ={}, config=str(path))


def test_a_file_that_is_written_from_what_is_in_force_gives_the_same(tmp_path: Path) -> None:
    first = load(tmp_path / "a.yaml", FILE)
    again = load(tmp_path / "b.yaml", "\n".join(document(first)))
    same = {"origins": {}, "lines": {}, "file": ""}
    renamed = [
        [
            (
                it.name,
                it.spec,
                it.tier,
                [(w.count, w.limit, w.span_s, w.zone, w.reset_s, w.learn) for w in it.windows],
            )
        ]
        for it in first.targets
    ]
    assert renamed == [
        [
            (
                it.name,
                it.spec,
                it.tier,
                [(w.count, w.limit, w.span_s, w.zone, w.reset_s, w.learn) for w in it.windows],
            )
        ]
        for it in again.targets
    ]
    assert replace(first, models=(), **same) == replace(again, models=(), **same)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", SETTINGS, ids=lambda it: it.key)
def test_every_default_and_every_example_is_read_back_as_itself(row: object) -> None:
    import yaml

    from knowalledge.core.settings import Setting

    assert isinstance(row, Setting)
    assert row.parse(yaml.safe_load(written(row.parse, row.default))) == row.default
    row.parse(yaml.safe_load(row.example))


@pytest.mark.parametrize(
    ("parse", "value", "shown"),
    [
        (duration, 90.0, "90s"),
        (duration, 0.25, "250ms"),
        (duration, 0.0001, "0.0001"),
        (duration, 172_800.0, "2d"),
        (size, 3 * 1024**3, "3GiB"),
        (size, 1000, "1000B"),
        (fractions, {Priority.LOW: 0.998}, "{low: 0.998}"),
        (level, Priority.HIGH, "high"),
        (text, "no", '"no"'),
        (text, "a: b", '"a: b"'),
        (text, "***", '"***"'),
    ],
)
def test_values_are_shown_in_the_units_that_people_write(parse: object, value: object, shown: str) -> None:
    assert written(parse, value) == shown  # type: ignore[arg-type]


def test_the_settings_of_the_cluster_are_valid_when_all_of_them_are_uncommented(tmp_path: Path) -> None:
    base = (ROOT / "k8s/base/gateway.yaml").read_text()
    above, _, below = base.partition("written by `make manifests` --\n")
    lines = [it.removeprefix("# ") for it in below.splitlines()]
    assert len(lines) > 20
    path = tmp_path / "gateway.yaml"
    path.write_text(f"{above}\n" + "\n".join(lines))
    settings = Settings.load(environ={"GOOGLE_API_KEY": "k"}, config=str(path))
    assert all(settings.origins[it.partition(":")[0]] == str(path) for it in lines)


@pytest.mark.parametrize(
    "environ",
    [
        dict.fromkeys(OTHERS, "x"),
        {"KNOWALLEDGE_PORT": "tcp://10.0.0.1:80", "KNOWALLEDGE_SERVICE_HOST": "10.0.0.1"},
        {"KNOWALLEDGE_PORT_80_TCP_ADDR": "10.0.0.1", "KNOWALLEDGE_REDIS_SERVICE_PORT_HTTP": "1"},
    ],
)
def test_variables_that_are_no_settings_are_no_faults(environ: dict[str, str]) -> None:
    assert Settings.load(environ={k: v for k, v in environ.items() if k != "KNOWALLEDGE_CONFIG"}).file == ""


def test_every_variable_of_ours_that_the_repository_names_is_known() -> None:
    import re

    known = OTHERS | {variable(it.key) for it in SETTINGS} | {f"{variable(it.key)}_FILE" for it in SETTINGS}
    files = [
        ROOT / "README.md",
        ROOT / "Makefile",
        *ROOT.glob("docker-compose*.yml"),
        *(ROOT / "docs").rglob("*.md"),
    ]
    files += [*(ROOT / "deploy").rglob("*.sh"), *(ROOT / "k8s").rglob("*.yaml")]
    named = {name for it in files for name in re.findall(r"\bKNOWALLEDGE_[A-Z0-9_]+\b", it.read_text())}
    assert {"KNOWALLEDGE_PORT", "KNOWALLEDGE_NET"} <= named
    assert {it for it in named - known if not it.endswith("_")} == set()


def test_what_is_probably_not_meant_is_told_with_its_line(tmp_path: Path) -> None:
    (empty,) = notes(load(tmp_path / "a.yaml", "\n# nothing yet\n"))
    assert (empty.wrong, empty.line) == ("is empty", 1)
    (bare,) = notes(load(tmp_path / "b.yaml", "queue: {capacity: 5}"))
    assert bare.wrong == "names no model"
    text = "models:\n  m:\n    targets:\n      - {name: a, provider: openai}\n"
    (endless,) = notes(load(tmp_path / "c.yaml", text))
    assert (endless.key, endless.wrong, endless.line) == ("models.m.targets[0]", "has no quota", 4)
    assert endless.steps[0].text.startswith("quota: {rpm:")
    assert notes(Settings.load(environ={})) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://varnish:6081", "http://varnish:6081"),
        ("http://u:hunter2@a:1,http://b:2", "http://***@a:1,http://b:2"),
        ("http://a:1, http://u:hunter2,x@b:2/path", "http://a:1, http://***@b:2/path"),
        ("https://hunter2@collector", "https://***@collector"),
        ("a@b", "a@b"),
    ],
)
def test_no_address_shows_its_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
