"""Lua scripts: files in a capability's ``scripts/``, each with a header that names its keys, arguments and reply.

A file whose name begins with an underscore is a prelude; ``Script`` prepends preludes to a script.

Constants come from Python. A script names one in capitals with an underscore, such as ``RING_SIZE``, and the name is
replaced by its literal when the script is loaded. A Lua local would cost each call: every function that uses a local
of the file captures it anew (5% of the instructions of a reservation, measured with 28 names).
"""

import re
from collections.abc import Mapping
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol, Self

from redis.exceptions import NoScriptError

Constant = str | float | tuple[str, ...]  # a tuple is a list of literals, for a table or a call

_CONSTANT = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")


class CommandExecutor(Protocol):
    """What a script needs of a Redis client, whichever kind it is."""

    def execute_command(self, *args: Any) -> Any: ...


class Script:
    """One script. It is called by its digest, and sent again when the server no longer has it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(
        cls, package: str, name: str, *preludes: str, constants: Mapping[str, Constant] | None = None
    ) -> Self:
        """``package``: the capability, such as ``knowalledge.quota``, in whose ``scripts/`` the files are.

        Raises ``KeyError`` for a name in capitals that is not among the ``constants``.
        """
        folder = files(package) / "scripts"
        text = "\n".join((folder / f"{part}.lua").read_text() for part in (*preludes, name))
        given = constants or {}
        return cls(_CONSTANT.sub(lambda match: _literal(given[match[0]]), text))

    def __call__(self, client: CommandExecutor, keys: tuple[bytes, ...], *args: Any) -> Any:
        """The script's reply. All ``keys`` must be on one node of a Cluster. Raises what the client raises."""
        try:
            return client.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.execute_command("EVAL", self._text, len(keys), *keys, *args)


def _literal(value: Constant) -> str:
    """A value as Lua writes it; both languages read the digits of a double alike."""
    if isinstance(value, tuple):
        return ", ".join(_literal(it) for it in value)
    return f"'{value}'" if isinstance(value, str) else repr(value)
