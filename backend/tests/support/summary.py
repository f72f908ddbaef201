"""What a run says at its end, a pytest plugin: which tests were skipped and why, and how to pin what properties failed.

Reports carry what is said as user properties, so it also comes from the workers of pytest-xdist.
"""

import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

PIN = "pin"
# What Hypothesis notes of a failure: the arguments or steps, then perhaps what was drawn, then how to repeat it.
_FOUND = re.compile(r"^Failing test case: ([^\n]*)\n(.*?)(?=\n\n|\nDraw \d|\Z)", re.MULTILINE | re.DOTALL)
_REPRODUCE = re.compile(r"@reproduce_failure\(.*\)")


def pins(notes: str, fixtures: Iterable[str]) -> list[str]:
    """The source that pins each failure: an ``@example``, or the steps of a state machine.

    Arguments that pytest passed are left out. A test that draws as it goes has no example; then the decorator that
    repeats the failure until the test changes.
    """
    found = []
    for name, rest in _FOUND.findall(notes):
        for fixture in fixtures:
            rest = re.sub(rf"^    {fixture}=.*?,\n(?=    \w+=|\))", "", rest, flags=re.MULTILINE | re.DOTALL)
        if "data(...)" not in rest:
            found.append(rest if name.startswith("<") else f"@example(\n{rest}")
    return found or _REPRODUCE.findall(notes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and report.failed:
        notes = "\n".join(getattr(call.excinfo.value, "__notes__", ()))
        report.user_properties += [(PIN, text) for text in pins(notes, getattr(item, "funcargs", ()))]
    return report


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _say_skipped(terminalreporter)
    _say_pins(terminalreporter)


def _say_skipped(terminal: pytest.TerminalReporter) -> None:
    """One line a reason, with the files whose tests it keeps from running."""
    files: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for report in terminal.stats.get("skipped", ()):
        if isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            files[reason][report.nodeid.partition("::")[0]] += 1
    if not files:
        return
    terminal.section("skipped, and so not tested here")
    for reason, counts in sorted(files.items()):
        where = ", ".join(
            f"{file} ({count})" if count > 1 else file for file, count in sorted(counts.items())
        )
        terminal.write_line(f"{reason}: {where}")


def _say_pins(terminal: pytest.TerminalReporter) -> None:
    """The examples that failed, as source; also on the summary page of a GitHub workflow."""
    pins = [
        f"# {report.nodeid}\n{text}"
        for report in terminal.stats.get("failed", ())
        for name, text in report.user_properties
        if name == PIN
    ]
    if not pins:
        return
    text = "\n\n".join(pins)
    terminal.section("failed examples, to be pinned above their tests")
    terminal.write_line(text)
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if page:
        with Path(page).open("a") as summary:
            summary.write(f"### Failed examples, to be pinned above their tests\n\n```python\n{text}\n```\n")
