"""`make secrets` makes what is missing, renews its own certificate in time, and leaves everything else alone."""

import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.support.programs import program

ROOT = Path(__file__).parents[3]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    program("openssl")
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/secrets.sh", tmp_path / "deploy")
    (tmp_path / "secrets").mkdir()
    shutil.copy(ROOT / "secrets/google_api_key.example", tmp_path / "secrets")
    return tmp_path / "secrets"


def make(secrets: Path) -> str:
    command = [secrets.parent / "deploy/secrets.sh"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def certificate(secrets: Path, name: str, days: int) -> None:
    """A self-signed certificate that ends after so many days, or ended before."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(60)).not_valid_after(now + timedelta(days, hours=1))
    pem = serialization.Encoding.PEM
    (secrets / "tls_cert").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    (secrets / "tls_key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


def content(secrets: Path) -> dict[str, str]:
    return {it.name: it.read_text() for it in secrets.iterdir()}


def test_every_secret_that_compose_mounts_is_made_and_stays_as_it_is(secrets: Path) -> None:
    make(secrets)
    made = content(secrets)
    assert {"google_api_key", "redis_url", "redis_auth", "redis_password_map", "tls_cert", "tls_key"} <= set(
        made
    )
    assert "grafana_admin_password" in made
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert make(secrets) == ""
    assert content(secrets) == made


@pytest.mark.parametrize(("days", "renewed"), [(-1, True), (6, True), (8, False)])
def test_our_certificate_is_renewed_in_its_last_week(secrets: Path, days: int, renewed: bool) -> None:
    certificate(secrets, "localhost", days)
    before = content(secrets)
    said = make(secrets)
    after = content(secrets)
    assert ("secrets/tls_cert, secrets/tls_key: made, self-signed again" in said) == renewed
    assert ("docker compose restart nginx" in said) == renewed
    for name in ("tls_cert", "tls_key"):
        assert (after[name] != before[name]) == renewed
    command = ["openssl", "x509", "-in", str(secrets / "tls_cert"), "-noout", "-checkend", str(7 * 86_400)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_the_certificate_of_somebody_else_is_never_replaced(secrets: Path) -> None:
    certificate(secrets, "gateway.example", 1)
    before = content(secrets)
    assert "it is not ours, so it stays: put a new one there" in make(secrets)
    assert before.items() <= content(secrets).items()
