"""For a WSGI server of your own: ``gunicorn knowalledge.wsgi:app``."""

import knowalledge.patched  # noqa: F401 - before anything else

# isort: split
from knowalledge.app import create_app
from knowalledge.config.settings import Settings

app = create_app(Settings.load())
app.extensions["knowalledge"].start()
