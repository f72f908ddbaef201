"""WSGI middleware that finds out who calls. Whether that caller may, the route's access decides later."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from knowalledge.core.context import PRINCIPAL, Principal
from knowalledge.core.errors import Forbidden, KnowalledgeError
from knowalledge.identity.domain.credentials import credential_of, without_key

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Where a request's environ has the reason for which its caller is unknown.
REFUSED = "knowalledge.refused"


class Authenticate:
    """Sets ``PRINCIPAL``, or ``REFUSED`` if a key was given that does not count here."""

    def __init__(self, inner: "WSGIApplication", verify: Callable[[str], Principal]) -> None:
        self._inner, self._verify = inner, verify

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        credential = credential_of(environ)
        if credential:
            if "key=" in environ.get("QUERY_STRING", ""):
                environ["QUERY_STRING"] = without_key(environ["QUERY_STRING"])
            try:
                principal = self._verify(credential)
            except KnowalledgeError as error:
                environ[REFUSED] = error
            else:
                if principal.may_call(environ["PATH_INFO"]):
                    environ[PRINCIPAL] = principal
                else:
                    environ[REFUSED] = Forbidden("this key may not call that path")
        return self._inner(environ, start)
