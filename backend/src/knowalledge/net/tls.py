"""TLS towards others: the system's trust, certificates and names checked, no version before 1.2."""

from ssl import PROTOCOL_TLS_CLIENT, TLSVersion

from gevent.ssl import SSLContext


def trusting() -> SSLContext:
    """A context for a client; reading the system's certificates takes some 20 ms.

    gevent's own class, not ``create_default_context``: that makes one that blocks unless the process is patched.
    """
    context = SSLContext(PROTOCOL_TLS_CLIENT)  # which checks certificates and names
    context.minimum_version = TLSVersion.TLSv1_2
    context.load_default_certs()
    return context
