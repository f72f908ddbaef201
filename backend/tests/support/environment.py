"""The environment of the tests, a pytest plugin that is loaded before anything else.

Tests and the processes that they start see only what is named here. So a variable that our own documents ask people to
set, such as ``KNOWALLEDGE_CONFIG`` or ``HTTPS_PROXY``, changes no test.
"""

import json
import os
import time
from collections.abc import Mapping

import pytest

KEPT = {
    "CI",
    "GITHUB_STEP_SUMMARY",
    "HOME",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "USER",
}
KEPT_PREFIXES = ("COVERAGE_", "COV_CORE_", "PYDEVD_", "PYENV_", "PYTEST_")
# The same for everybody, whatever the machine's own are.
FIXED = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
# The environment of the one who called pytest, as JSON: workers of pytest-xdist inherit it.
_CALLER = "PYTEST_CALLER_ENVIRONMENT"


def cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """What tests see of an environment."""
    kept = {name: value for name, value in environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    return kept | FIXED | {_CALLER: environ.get(_CALLER) or json.dumps(dict(environ))}


def caller() -> dict[str, str]:
    """The environment of the one who called pytest, for programs that reach a package index through it."""
    found: dict[str, str] = json.loads(os.environ[_CALLER])
    return found | FIXED


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Clean before a conftest imports what reads variables."""
    environ = cleaned(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
