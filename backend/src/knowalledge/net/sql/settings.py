"""Settings of the database."""

from urllib.parse import urlsplit

from knowalledge.core.parsers import address

DEFAULT = "sqlite:///.run/knowalledge.db"

database_address = address("postgresql://HOST/NAME, or sqlite:///FILE", "postgresql", "sqlite")


def is_sqlite(url: str) -> bool:
    """Whether a URL names a file of SQLite, the empty one too."""
    return not url or urlsplit(url).scheme == "sqlite"
