"""Runs a command and starts it again when a file below a folder changes: `python reload.py FOLDER COMMAND...`

For docker-compose.dev.yml. gunicorn's own reloading is no help: the master has imported the code before it forks.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path


def state(folder: str) -> dict[str, float]:
    """When each source file was changed."""
    return {
        str(file): file.stat().st_mtime for file in Path(folder).rglob("*") if file.suffix in (".py", ".lua")
    }


def main() -> None:
    folder, *command = sys.argv[1:]
    child = subprocess.Popen(command)

    def end(*_: object) -> None:
        child.terminate()
        child.wait()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    seen = state(folder)
    while True:
        time.sleep(0.5)
        try:
            now = state(folder)
        except FileNotFoundError:
            continue  # an editor replaces a file in two steps
        if now != seen:
            seen = now
            child.terminate()
            child.wait()
            child = subprocess.Popen(command)


if __name__ == "__main__":
    main()
