"""The smallest Flask application: the cost of server and framework by themselves on this machine."""

from flask import Flask, Response

app = Flask("plain", static_folder=None)


@app.get("/")
def constant() -> Response:
    """A constant."""
    return Response(b'{"ok":true}', content_type="application/json")
