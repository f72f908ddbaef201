"""What people set for the gateway, or for anything else, does not change what the tests find."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from knowalledge.config.settings import SETTINGS
from knowalledge.config.sources import variable
from tests.support.environment import FIXED, cleaned

ROOT = Path(__file__).parents[3]
# Of each kind one: third-party credentials, proxies, real processes with Redis, the web application.
SUBSET = (
    "tests/providers/test_credentials.py",
    "tests/providers/test_registry.py",
    "tests/system/test_doctor.py",
    "tests/web/test_edges.py",
)
# An address at which nobody answers.
NOBODY = "http://127.0.0.1:9"
OTHERS = {
    "ALL_PROXY": NOBODY,
    "CLOUDSDK_CONFIG": "/nowhere",
    "CURL_CA_BUNDLE": "/nowhere",
    "FLASK_DEBUG": "1",
    "GCE_METADATA_HOST": "127.0.0.1:9",
    "GEVENT_LOOP": "nothing",
    "GOOGLE_API_KEY": "odd",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere",
    "GOOGLE_CLOUD_PROJECT": "odd",
    "GUNICORN_CMD_ARGS": "--workers=7",
    "HTTPS_PROXY": NOBODY,
    "HTTP_PROXY": NOBODY,
    "LANG": "C",
    "LC_ALL": "C",
    "NO_COLOR": "1",
    "NO_PROXY": "",
    "OPENAI_API_KEY": "odd",
    "OPENAI_BASE_URL": NOBODY,
    "OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY,
    "OTEL_SDK_DISABLED": "true",
    "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "7",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "error",
    "REQUESTS_CA_BUNDLE": "/nowhere",
    "SSL_CERT_FILE": "/nowhere",
    "TZ": "Pacific/Apia",
    "http_proxy": NOBODY,
    "https_proxy": NOBODY,
}


def documented() -> set[str]:
    """The variables of ours that a page names, and those of all settings."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"\bKNOWALLEDGE_[A-Z0-9_]+\b", page.read_text())}
    return named | {variable(it.key) for it in SETTINGS} | {f"{variable(it.key)}_FILE" for it in SETTINGS}


def odd() -> dict[str, str]:
    return OTHERS | dict.fromkeys(documented(), "odd")


def test_the_documents_name_variables_of_ours() -> None:
    assert {"KNOWALLEDGE_CONFIG", "KNOWALLEDGE_PORT", "KNOWALLEDGE_NET"} <= documented()


def test_tests_see_no_variable_that_people_set() -> None:
    found = cleaned(odd() | {"PATH": "/bin"})
    assert {name: value for name, value in found.items() if name not in FIXED}.keys() == {
        "PATH",
        "PYTEST_CALLER_ENVIRONMENT",
    }
    assert {name: found[name] for name in FIXED} == FIXED


@pytest.mark.system
@pytest.mark.timeout(300)
def test_tests_hold_whatever_people_have_set() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", *SUBSET],
        cwd=ROOT / "backend",
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **odd()},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
