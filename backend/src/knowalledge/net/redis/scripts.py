"""Lua scripts: files in a capability's ``scripts/``, each with a header that names its keys, arguments and reply.

A file whose name begins with an underscore is a prelude; ``Script`` prepends preludes to a script.
"""

from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol

from redis.exceptions import NoScriptError


class CommandExecutor(Protocol):
    """What a script needs of a Redis client, whichever kind it is."""

    def execute_command(self, *args: Any) -> Any: ...


class Script:
    """One script. It is called by its digest, and sent again when the server no longer has it."""

    def __init__(self, package: str, name: str, *preludes: str) -> None:
        """``package``: the capability, such as ``knowalledge.quota``, in whose ``scripts/`` the files are."""
        folder = files(package) / "scripts"
        self._text = "\n".join((folder / f"{part}.lua").read_text() for part in (*preludes, name))
        self._sha = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: CommandExecutor, keys: tuple[bytes, ...], *args: Any) -> Any:
        """The script's reply. All ``keys`` must be on one node of a Cluster. Raises what the client raises."""
        try:
            return client.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.execute_command("EVAL", self._text, len(keys), *keys, *args)
