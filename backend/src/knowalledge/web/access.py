"""The access that each route asks for, as its operations say."""

import re
from collections.abc import Iterable, Mapping

from flask import Flask
from werkzeug.exceptions import HTTPException

from knowalledge.core.access import Access
from knowalledge.core.openapi import Operation

# Where an application keeps the access of its routes.
ACCESS = "knowalledge.access"

# By a route's rule and a method.
Routes = Mapping[tuple[str, str], Access]


def access_by_route(app: Flask, operations: Iterable[Operation]) -> Routes:
    """The access of every route and method; where operations share a route, the strictest of theirs.

    A route that no operation describes, or one without ``access``, is missing.
    """
    address = app.url_map.bind("localhost")
    access: dict[tuple[str, str], Access] = {}
    for operation in operations:
        if operation.access is None:
            continue
        method = operation.method.upper()
        try:
            rule, _ = address.match(re.sub(r"\{[^}]+\}", "x", operation.path), method, return_rule=True)
        except HTTPException:  # a test fails for an operation without a route
            continue
        for verb in ("GET", "HEAD") if method == "GET" else (method,):
            access[rule.rule, verb] = max(operation.access, access.get((rule.rule, verb), Access.PUBLIC))
    return access
