"""How property tests run.

make test   the same examples every time: what is red was made so by the change at hand
make fuzz   other examples every time, and more of them; what fails is printed as an ``@example(...)`` to pin
"""

from typing import Any

from hypothesis import HealthCheck, settings

# Examples of a test that names no number of its own.
EXAMPLES = 100
# By so many times more in ``make fuzz``.
FUZZ = 20


def register() -> None:
    """Both profiles; the first one is in force unless ``--hypothesis-profile`` names the other."""
    common: dict[str, Any] = {
        "deadline": None,
        "database": None,
        "print_blob": True,
        # Tests empty their Redis themselves before each example.
        "suppress_health_check": [HealthCheck.function_scoped_fixture],
    }
    settings.register_profile("same", derandomize=True, max_examples=EXAMPLES, **common)
    settings.register_profile("fuzz", max_examples=FUZZ * EXAMPLES, **common)
    settings.load_profile("same")


def examples(count: int, **more: Any) -> settings:
    """Settings of a test that takes so many examples, and in ``make fuzz`` so many times more."""
    return settings(max_examples=count * settings().max_examples // EXAMPLES, **more)
