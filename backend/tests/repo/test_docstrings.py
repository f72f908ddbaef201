"""The draw of docstrings for a review can be repeated, and draws public ones only."""

from pathlib import Path

from tools.docstrings import drawn, public

CODE = '''"""A module."""


class Ring(Base):
    """A ring."""

    def add(self, now: int) -> None:
        """Add."""

    def _hide(self) -> None:
        """Hidden."""

    def bare(self) -> None: ...


def _helper():
    """Hidden."""


class _Hidden:
    """Hidden."""

    def seen(self):
        """Hidden with its class."""
'''


def test_public_names_with_a_docstring_are_drawn_from(tmp_path: Path) -> None:
    (tmp_path / "ring.py").write_text(CODE)
    assert [(it.place, it.code, it.text) for it in public(tmp_path)] == [
        ("ring.py:1", "module ring.py", "A module."),
        ("ring.py:4", "class Ring", "A ring."),
        ("ring.py:7", "def Ring.add(self, now: int) -> None", "Add."),
    ]


def test_the_same_seed_draws_the_same() -> None:
    every = list(public())
    assert len(every) > 200
    first = drawn(every, 20, seed=1)
    assert first == drawn(every, 20, seed=1) != drawn(every, 20, seed=2)
    assert len({it.place for it in first}) == 20
    assert len(drawn(every[:3], 20, seed=1)) == 3
