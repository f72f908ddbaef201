"""A package index in a folder, of wheels that are made here: a name, a version, what they require, a file or two."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile


class PackageIndex:
    """Releases below ``folder``, in the form that pip reads from a file: address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[str, str] = {}

    def add(
        self,
        name: str,
        version: str,
        requires: Sequence[str] = (),
        extras: Mapping[str, Sequence[str]] | None = None,
        module: str = "",
    ) -> None:
        """Offer a release; ``module`` is the source of its only module, named like the distribution."""
        stem = f"{name.replace('-', '_')}-{version}"
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        metadata += [f"Requires-Dist: {it}" for it in requires]
        for extra, wanted in (extras or {}).items():
            metadata.append(f"Provides-Extra: {extra}")
            metadata += [f'Requires-Dist: {it}; extra == "{extra}"' for it in wanted]
        files = {
            f"{name.replace('-', '_')}/__init__.py": module or f"VERSION = {version!r}\n",
            f"{stem}.dist-info/METADATA": "\n".join(metadata) + "\n",
            f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        files[f"{stem}.dist-info/RECORD"] = (
            "".join(f"{it},,\n" for it in files) + f"{stem}.dist-info/RECORD,,\n"
        )
        wheel = self.folder / name / f"{stem}-py3-none-any.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        self.publish(wheel, f"{name}=={version}")

    def publish(self, file: Path, pin: str) -> None:
        """List a file of the project's folder; a lock may then pin it."""
        digest = self._hashes[pin] = hashlib.sha256(file.read_bytes()).hexdigest()
        with (file.parent / "index.html").open("a") as page:
            page.write(f'<a href="{file.name}#sha256={digest}">{file.name}</a>\n')

    def lock(self, path: Path, *pins: str) -> Path:
        """Write a lock in the form of `make lock`."""
        path.write_text(
            "".join(f"{it} \\\n    --hash=sha256:{self._hashes[it]}\n    # via tests\n" for it in pins)
        )
        return path

    def environ(self) -> dict[str, str]:
        """This process's environment, with this index as the only one."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        return environ | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{self.folder.as_uri()}/",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
