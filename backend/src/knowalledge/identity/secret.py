"""The secret that stored keys are hashed with, where the settings give none."""

import os
import tempfile
from functools import cache
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

from knowalledge.net.sql.settings import DEFAULT


def keyring(given: str, database_url: str) -> bytes:
    """``auth.secret``, else that of the file beside the SQLite database, which is made at the first use."""
    if given:
        return given.encode()
    return _kept(Path(urlsplit(database_url or DEFAULT).path[1:] + ".secret").absolute())


@cache
def _kept(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Written first and then named, so that no other process reads half of it; only its owner may read it.
        descriptor, new = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(token_hex(32))
            os.link(new, path)
        except FileExistsError:
            pass  # another process was faster
        finally:
            os.unlink(new)
    return path.read_text().encode()
