"""What a run of the tests says at its end, of tests that are made for it."""

import subprocess
import sys
from pathlib import Path

import pytest

BACKEND = Path(__file__).parents[2]
SUITE = """
import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

@pytest.fixture
def server():
    return "<a server>"

@given(words=st.lists(st.text(), max_size=5), level=st.sampled_from([1, 2]))
def test_fails(words, server, level):
    assert len(words) < 2

@given(st.data())
def test_draws(data):
    assert data.draw(st.integers()) < 3

class Machine(RuleBasedStateMachine):
    @rule(n=st.integers())
    def step(self, n):
        assert n < 7

TestMachine = Machine.TestCase

def test_needs():
    pytest.skip("nothing is installed")

@pytest.mark.skipif(True, reason="nothing is installed")
def test_needs_too():
    ...
"""


@pytest.fixture(scope="module", params=[0, 2], ids=["alone", "with workers"])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What the run prints, and what it writes on the page of a workflow."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_it.py").write_text(SUITE)
    (folder / "conftest.py").write_text(
        "from tests.support.properties import register\npytest_plugins = ['tests.support.summary']\nregister()\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            str(request.param),
            "-p",
            "no:cacheprovider",
            "--rootdir=.",
        ],
        cwd=folder,
        env={"PYTHONPATH": f"{BACKEND}:{BACKEND / 'src'}", "GITHUB_STEP_SUMMARY": str(folder / "page.md")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, (folder / "page.md").read_text()


def test_a_reason_to_skip_is_said_once_with_all_that_it_skips(said: tuple[str, str]) -> None:
    assert said[0].count("nothing is installed") == 1
    assert "\nnothing is installed: test_it.py (2)\n" in said[0]


def test_a_failed_example_is_said_as_source_without_what_pytest_passed(said: tuple[str, str]) -> None:
    for text in said:
        example = text[text.index("# test_it.py::test_fails\n") :]
        source = example[example.index("@example") : example.index("\n)\n") + 2].removeprefix("@example")
        found = eval(f"dict{source}")
        assert found.keys() == {"words", "level"}
        assert len(found["words"]) == 2


def test_the_steps_of_a_machine_and_what_only_a_blob_repeats_are_said_too(said: tuple[str, str]) -> None:
    for text in said:
        assert "state = Machine()\nstate.step(n=7)\nstate.teardown()\n" in text
        assert "# test_it.py::test_draws\n@reproduce_failure(" in text
