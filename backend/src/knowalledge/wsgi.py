"""For a WSGI server of your own: ``gunicorn knowalledge.wsgi:app``."""

from gevent import monkey

monkey.patch_all()

from knowalledge.app import create_app  # noqa: E402 - after the patch
from knowalledge.settings import Settings  # noqa: E402

app = create_app(Settings.load())
app.extensions["knowalledge"].start()
