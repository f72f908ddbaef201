"""Google's gRPC client. Its extra conflicts with google-genai 3, so it is usually not installed."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def _installed() -> bool:
    try:
        return find_spec("google.cloud.aiplatform_v1") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.skipif(not _installed(), reason="the extra knowalledge[aiplatform] is not installed")
def test_googles_grpc_client_fulfils_the_contract_of_adapters() -> None:
    suite = Path(__file__).with_name("aiplatform_contract.py")
    command = [sys.executable, "-m", "gevent.monkey", "--module", "pytest", str(suite)]
    done = subprocess.run(command, cwd=suite.parents[2], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
