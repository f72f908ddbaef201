"""TLS for our clients: the system's trust store, certificates and names verified, version 1.2 or later."""

from ssl import PROTOCOL_TLS_CLIENT, TLSVersion

from gevent.ssl import SSLContext


def client_context() -> SSLContext:
    """A new context for a client. Loading the system's certificates takes some 20 ms.

    gevent's class, not ``ssl.create_default_context``: the latter's sockets block the process unless it is patched.
    """
    context = SSLContext(PROTOCOL_TLS_CLIENT)  # verifies certificates and names
    context.minimum_version = TLSVersion.TLSv1_2
    context.load_default_certs()
    return context
