"""The commands of the pages that people begin with do what the pages say, as they are written there but for the port.

What needs Docker or a cluster is run by `make verify`; here it is only held against the files that it names.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.system.processes import gateway, simulator

ROOT = Path(__file__).parents[3]
README, QUICKSTART = ROOT / "README.md", ROOT / "docs/tutorials/quickstart.md"
DEPLOY, API = ROOT / "docs/how-to/deploy.md", ROOT / "docs/reference/api.md"
WRITTEN = "127.0.0.1:8080"
MODEL = "smollm2-135m-instruct"
# Of the stack: its cache in front, Docker, a cluster, or a whole checkout that is set up.
ELSEWHERE = re.compile(r"docker |kubectl |sed |git clone|make |for n in|printf |export |.*x-cache")


def blocks(page: Path, language: str = "") -> list[str]:
    """Fenced blocks of a language; without one, those without a language and the indented ones."""
    text = page.read_text()
    fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.S | re.M)
    chosen = [block for name, block in fences if name == language]
    rest = re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.S | re.M)
    return chosen if language else chosen + re.findall(r"(?:^    .+\n)+", rest, re.M)


def commands(page: Path) -> list[str]:
    """Every command line, those over several lines joined."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(curl [^`]+)`", page.read_text())
    found = [re.sub(r" {2,}# .*", "", it).strip() for it in [*lines, *inline]]
    return [it for it in dict.fromkeys(found) if it and not it.startswith("#") and "  <  " not in it]


OURS = re.compile(r"(curl|\.venv/bin/knowalledge|knowalledge) ")
HERE = [
    (page, it)
    for page in (README, QUICKSTART, API)
    for it in commands(page)
    if OURS.match(it) and not ELSEWHERE.match(it) and " ..." not in it
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with .venv/bin/knowalledge and the file of README.md, and the address of a gateway."""
    folder = tmp_path_factory.mktemp("as-written")
    program = folder / ".venv/bin/knowalledge"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m knowalledge.cli "$@"\n')
    program.chmod(0o755)
    (config,) = blocks(README, "yaml")
    (folder / "gateway.yaml").write_text(config)
    (inner := folder / "served").mkdir()
    with simulator(inner) as provider:
        target = f"{{name: a, provider: openai, base_url: '{provider}/v1', quota: {{rpm: 1000}}}}"
        with gateway(f"models: {{{MODEL}: {{targets: [{target}]}}}}", inner) as url:
            yield folder, url.removeprefix("http://")


def run(place: tuple[Path, str], *command: str) -> "subprocess.CompletedProcess[str]":
    folder, address = place
    own = {"GOOGLE_API_KEY": "YOUR_KEY", "KNOWALLEDGE_SERVER": f"http://{address}"}
    replaced = [it.replace(WRITTEN, address) for it in command]
    return subprocess.run(
        replaced, cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=100
    )


@pytest.mark.system
@pytest.mark.parametrize(("page", "command"), HERE, ids=[f"{page.stem}-{it[:50]}" for page, it in HERE])
def test_a_command_does_what_its_page_says(place: tuple[Path, str], page: Path, command: str) -> None:
    done = run(place, "sh", "-c", command)
    if " doctor " in command:  # whether Google can be reached from here is not ours to say
        assert "target gemini" in done.stdout
        return
    assert done.returncode == 0, done.stderr
    assert '"code"' not in done.stdout
    assert done.stdout.strip()


def test_every_page_has_commands_that_run_here() -> None:
    assert {page for page, _ in HERE} == {README, QUICKSTART, API}


@pytest.mark.system
@pytest.mark.clients
@pytest.mark.parametrize("program", blocks(README, "python"), ids=["openai", "google"])
def test_a_program_prints_an_answer(place: tuple[Path, str], program: str) -> None:
    assert MODEL in program
    done = run(place, sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.strip()) > 3


@pytest.mark.system
def test_the_same_question_at_temperature_0_is_answered_from_the_cache(place: tuple[Path, str]) -> None:
    (question,) = {it for it in commands(README) if '"temperature": 0' in it}
    assert README.read_text().count(question) == 2
    answers = [run(place, "sh", "-c", question).stdout for _ in range(2)]
    assert '"status":"hit"' in answers[1]


ELSEWHERE_COMMANDS = [
    (page, it) for page in (README, QUICKSTART, DEPLOY) for it in commands(page) if ELSEWHERE.match(it)
]


@pytest.mark.parametrize(
    "target", sorted({t for _, it in ELSEWHERE_COMMANDS for t in re.findall(r"\bmake ([a-z-]+)", it)})
)
def test_a_target_that_a_page_names_is_in_the_makefile(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize(
    "command", sorted({it for _, it in ELSEWHERE_COMMANDS if it.startswith("docker compose")})
)
def test_a_service_that_a_page_names_is_one_of_the_stack(command: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    words = shlex.split(command)
    if words[2] in ("kill", "start", "stop", "exec", "restart"):
        assert words[3] in services
    for file in re.findall(r"-f (\S+)", command):
        assert (ROOT / file).exists()


def test_a_file_that_a_page_names_is_there() -> None:
    named = {
        it
        for _, command in ELSEWHERE_COMMANDS
        for it in re.findall(r"(?:deploy|k8s)/[\w./-]+", command)
        if "$" not in it
    }
    assert {it for it in named if not (ROOT / it).exists()} == set()


def test_the_picture_is_the_one_that_the_script_draws() -> None:
    from tools.picture import PICTURE, lines

    assert PICTURE.read_text() == "\n".join(lines()) + "\n", "run: make reference"
    assert "](docs/picture.svg)" in README.read_text()
