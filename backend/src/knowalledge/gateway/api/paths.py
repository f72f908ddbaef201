"""Paths as clients write them: a base URL that ends in a slash makes ``/v1//chat/completions``."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SLASHES = re.compile("/{2,}")


def tidy_paths(application: "WSGIApplication") -> "WSGIApplication":
    """Doubled slashes and one at the end count for nothing below ``/v1``. A redirect would name the client's Host."""

    def tidied(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if "//" in path or path[-1:] == "/":
            tidy = _SLASHES.sub("/", path)
            if tidy.startswith("/v1"):
                environ["PATH_INFO"] = tidy.rstrip("/")
        return application(environ, start_response)

    return tidied
