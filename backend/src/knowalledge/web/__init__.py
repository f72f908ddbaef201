"""The Flask application, and what blueprints share: identity, bodies, headers, errors as responses, the API's docs."""
