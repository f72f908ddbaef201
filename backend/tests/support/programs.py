"""Programs that some tests drive and that no Python package brings."""

import os
import shutil

import pytest

# By the Debian package that has each.
DEBIAN = {
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
    "curl": "curl",
    "git": "git",
    "kubectl": "kubernetes-client",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "promtool": "prometheus",
    "redis-server": "redis-server",
    "varnishd": "varnish",
}
# Names under which other distributions have them.
ALIASES = {"chromium": ("chromium-browser", "google-chrome")}


def program(name: str) -> str:
    """The path of a program. Without it the test is skipped, for a reason that names its Debian package."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"  # where daemons are
    for known in (name, *ALIASES.get(name, ())):
        found: str | None = shutil.which(known, path=path)
        if found is not None:
            return found
    pytest.skip(f"{name} is not installed (Debian: {DEBIAN[name]})")
