"""A row of the benchmarks is met if the figures that it shows are within the target that it shows."""

import re
import sys

import pytest

from bench import __main__ as command
from bench.overhead import Scale, times_plain
from bench.report import DOCUMENT, Row, judge, judged, table


@pytest.mark.parametrize(
    ("measured", "target", "met"),
    [
        ("2.0 x plain (0.73 ms; plain 0.359 ms)", "<= 4.2 x plain", True),
        ("4.3 x plain", "<= 4.2 x plain", False),
        ("60 MB", "< 60 MB", False),
        ("refused 0, use 97.9% (of all)", "refused = 0, use >= 98%", False),
        ("refused 0, use 98.0%", "refused = 0, use >= 98%", True),
        ("refused 1, use 98.0%", "refused = 0, use >= 98%", False),
        ("grants 13,151", "grants >= 10,000", True),
        ("held (others: nothing)", "held", True),
        ("nothing", "held", False),
        ("held for ever", "held", False),
    ],
)
def test_figures_are_judged_as_they_are_printed(measured: str, target: str, met: bool) -> None:
    assert judge(measured, target) is met


@pytest.mark.parametrize(
    ("measured", "target"),
    [
        ("2.0 ms", "<= 4.2 x plain"),  # another unit
        ("p99 2.0 ms", "p50 <= 3 ms"),  # another name
        ("2.0 ms", "<= 3 ms, <= 4 ms"),  # a figure is missing
        ("2.0 ms, many", "<= 3 ms, few"),  # a limit that cannot be compared
        ("2.0 ms", "within <= reason"),
    ],
)
def test_figures_that_do_not_fit_their_target_are_an_error_and_never_met(measured: str, target: str) -> None:
    with pytest.raises(ValueError, match="figure"):
        judge(measured, target)


def test_a_row_without_a_target_is_not_judged() -> None:
    assert Row("a", "1 ms").met is None
    assert table([Row("a", "1 ms")]).splitlines()[-1] == "| a | 1 ms |  |  |"


def test_the_document_says_met_only_where_the_figure_is_within_the_target() -> None:
    rows = list(judged(DOCUMENT.read_text()))
    assert len(rows) > 40
    assert [(row.case, met) for row, met in rows if table([row]).rpartition(" | ")[2] != f"{met} |"] == []


def test_times_of_the_overhead_are_asked_and_judged_in_multiples_of_plain() -> None:
    assert [times_plain(it) for it in (0.45, 1.0, 10.0)] == ["4.2 x plain", "9.5 x plain", "95.2 x plain"]
    scale = Scale(0.21)
    assert Row("", scale.ratio(0.88), f"<= {times_plain(0.45)}").met is True
    assert Row("", scale.ratio(0.92), f"<= {times_plain(0.45)}").met is False
    assert scale.streams() == 500
    rows = [row for row, _ in judged(DOCUMENT.read_text().partition("\n## From")[0])]
    assert [row for row in rows if re.search(r"[<=] [\d.]+ ms", row.target)] == []


@pytest.mark.parametrize(("measured", "code"), [("1 ms", 0), ("3 ms", 1)])
def test_a_bench_that_misses_a_target_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, measured: str, code: int
) -> None:
    rows = [Row("a", measured, "<= 2 ms"), Row("b", "9 ms")]
    monkeypatch.setattr(command, "CASES", {"plan": ("T", "W", lambda quick: rows)})
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    assert command.main() == code
