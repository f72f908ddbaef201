"""What every command has: an example, -h, whole sentences, JSON for programs, and no wait for what it does not need."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from knowalledge import __version__
from knowalledge.cli.main import COMMANDS

COMMANDS_WITH_HELP = [*COMMANDS, "config check", "config show"]


def run(
    *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None, typed: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "knowalledge.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        input=typed,
        env={**os.environ, **(environ or {})},
    )


@pytest.mark.parametrize("command", COMMANDS_WITH_HELP)
def test_each_help_has_an_example_and_its_whole_sentences(command: str) -> None:
    short, long = (run(*command.split(), flag) for flag in ("-h", "--help"))
    assert short.stdout == long.stdout
    assert short.stdout.startswith(f"Usage: knowalledge {command}")
    assert (
        f"Example:\n    knowalledge {command}" in short.stdout
        or f'eval "$(knowalledge {command}' in short.stdout
    )


def test_every_command_within_a_group_has_an_example_too() -> None:
    code = """
import json, click
from knowalledge.cli.main import main
def walk(context, command, path):
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from walk(context, command.get_command(context, name), f"{path} {name}")
    yield path, bool(command.epilog and path in command.epilog)
print(json.dumps(dict(walk(click.Context(main), main, "knowalledge"))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)
    assert len(found) > 15
    assert [path for path, has in found.items() if not has] == []


def test_the_version_is_told_without_loading_anything() -> None:
    code = (
        "import sys\nfrom knowalledge.cli.main import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "print([it for it in ('gevent', 'msgspec', 'yaml', 'flask', 'requests') if it in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [f"knowalledge {__version__}", "[]"]


def test_faults_are_json_for_programs(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("queue:\n  capcity: 5\n")
    done = run("config", "check", "--config", "c.yaml", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    (fault,) = json.loads(done.stdout)["faults"]
    assert (fault["file"], fault["line"], fault["key"]) == ("c.yaml", 2, "queue.capcity")
    assert fault["steps"] == [{"edit": "rename", "text": "capacity", "key": "queue.capcity"}]


def test_faults_are_lines_with_file_and_line_for_people(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("models:\n  m:\n    targets:\n      - {name: a, provider: gemini}\n")
    done = run("config", "check", "--config", "c.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "c.yaml:4: models.m.targets[0].api_key: is missing",
        "    cure: set api_key: ${GOOGLE_API_KEY}",
        '    add to models.m.targets[0]: api_key: "${GOOGLE_API_KEY}"',
        "    run: export GOOGLE_API_KEY=YOUR_GOOGLE_API_KEY",
    ]


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_are_for_terminals_unless_the_environment_decides(
    environ: dict[str, str], coloured: bool
) -> None:
    done = run("config", "check", environ=environ)
    assert ("\x1b[" in done.stdout) is coloured
    assert "no fault found: 1 model, 1 target" in done.stdout


def test_a_target_without_a_quota_and_an_empty_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    done = run("config", "check", "--config", "c.yaml", cwd=tmp_path)
    assert (done.returncode, "is empty" in done.stderr) == (0, True)
    (tmp_path / "c.yaml").write_text("models: {m: {targets: [{name: a, provider: openai}]}}")
    found = json.loads(run("config", "check", "--config", "c.yaml", "--json", cwd=tmp_path).stdout)
    assert [it["wrong"] for it in found["notes"]] == ["has no quota"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_completes(shell: str) -> None:
    done = run("completion", shell)
    assert "_KNOWALLEDGE_COMPLETE" in done.stdout
    words = {
        "COMP_WORDS": "knowalledge co",
        "COMP_CWORD": "co" if shell == "fish" else "1",
        "_KNOWALLEDGE_COMPLETE": f"{shell}_complete",
    }
    code = "from knowalledge.cli.main import main; main(prog_name='knowalledge')"
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True, timeout=60
    )
    assert {"config", "completion"} <= set(
        found.stdout.replace(",", " ").replace("\t", " ").replace("\n", " ").split()
    )


def test_init_asks_five_questions_and_writes_what_it_checked(tmp_path: Path) -> None:
    file, answers = tmp_path / "gateway.yaml", "openai\nmy-model\nMY_KEY\nrpm=60,tpm=9000\nredis://h:6379/0\n"
    done = run("init", "--output", str(file), typed=answers)
    assert done.returncode == 0, done.stderr
    assert [f"{it}/5" in done.stdout for it in range(1, 6)] == [True] * 5
    written = yaml.safe_load(file.read_text())
    assert written["redis_url"] == "redis://h:6379/0"
    (target,) = written["models"]["my-model"]["targets"]
    quota = {"rpm": 60, "tpm": 9000}
    assert target == {"name": "main", "provider": "openai", "api_key": "${MY_KEY}", "quota": quota}
    assert "export MY_KEY=" in done.stdout
    again = run("init", "--yes", "--output", str(file))
    assert (again.returncode, "--force" in again.stderr) == (1, True)


@pytest.mark.parametrize("provider", ["gemini", "vertex", "openai", "embedded"])
def test_init_needs_nobody_and_its_file_is_valid(tmp_path: Path, provider: str) -> None:
    done = run("init", "--provider", provider, "--yes", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["next"][-1] == "knowalledge serve --config gateway.yaml"
    environ = {"GOOGLE_API_KEY": "k", "OPENAI_API_KEY": "k"}
    assert run("config", "check", "--config", "gateway.yaml", cwd=tmp_path, environ=environ).returncode == 0


def test_init_names_the_option_that_will_not_do(tmp_path: Path) -> None:
    done = run("init", "--quota", "a lot", "--yes", cwd=tmp_path)
    assert (done.returncode, "--quota" in done.stderr) == (2, True)
    assert not (tmp_path / "gateway.yaml").exists()


def test_every_knob_of_the_simulator_has_its_words() -> None:
    from knowalledge_simulator.knobs import KNOBS, Knobs

    assert set(KNOBS) == set(Knobs.__struct_fields__)
