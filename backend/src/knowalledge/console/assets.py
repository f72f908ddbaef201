"""The pages' files, read once; their addresses carry a digest of all of them, so that browsers keep them for good."""

from hashlib import sha256
from importlib.resources import files

from msgspec import Struct

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# In a page, stands for the address of the folder of assets.
_PLACEHOLDER = b"@assets@"


class File(Struct, frozen=True):
    """One file as it is served."""

    content: bytes
    content_type: str


class Assets(Struct, frozen=True):
    """Pages and the files that they load. ``version`` changes with any of them."""

    version: str
    pages: dict[str, File]
    files: dict[str, File]

    @classmethod
    def load(cls) -> "Assets":
        """From the package."""
        read = {
            it.name: File(it.read_bytes(), _TYPES[it.name.rpartition(".")[2]])
            for it in files("knowalledge.console").joinpath("static").iterdir()
        }
        version = sha256(b"".join(read[name].content for name in sorted(read))).hexdigest()[:16]
        address = f"/assets/{version}".encode()
        pages = {
            name.removesuffix(".html"): File(file.content.replace(_PLACEHOLDER, address), file.content_type)
            for name, file in read.items()
            if name.endswith(".html")
        }
        return cls(version, pages, {name: file for name, file in read.items() if not name.endswith(".html")})
