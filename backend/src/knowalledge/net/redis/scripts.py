"""Lua scripts: files in a capability's ``scripts/``, each with a header that names its keys, arguments and reply.

A script whose name begins with an underscore is a prelude; ``Script`` joins preludes in front of the others.
"""

from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol

from redis.exceptions import NoScriptError


class Executes(Protocol):
    """What a script needs of a Redis client: standalone, Sentinel-backed or Cluster."""

    def execute_command(self, *args: Any) -> Any: ...


class Script:
    """One script, run by its digest; loaded again when the server has forgotten it."""

    def __init__(self, package: str, name: str, *preludes: str) -> None:
        """``package`` is the capability's, such as ``knowalledge.quota``; its files are in ``scripts/``."""
        folder = files(package) / "scripts"
        self._text = "\n".join((folder / f"{part}.lua").read_text() for part in (*preludes, name))
        self._sha = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: Executes, keys: tuple[bytes, ...], *args: Any) -> Any:
        try:
            return client.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.execute_command("EVAL", self._text, len(keys), *keys, *args)
