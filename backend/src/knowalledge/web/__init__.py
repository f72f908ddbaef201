"""What all blueprints share: identity of a request, headers, and errors as responses."""
