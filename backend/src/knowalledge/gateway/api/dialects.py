"""The API families that clients speak, as one table: a new one is a package beside these and a row here."""

import re
from collections.abc import Callable

from flask import Blueprint, Request
from msgspec import Struct

from knowalledge.core.openapi import ErrorForm, Operation
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import errors as gemini_errors
from knowalledge.gateway.api.gemini import fields as gemini_fields
from knowalledge.gateway.api.gemini import openapi as gemini_openapi
from knowalledge.gateway.api.gemini import routes as gemini
from knowalledge.gateway.api.gemini.models import is_google_client
from knowalledge.gateway.api.native import openapi as native_openapi
from knowalledge.gateway.api.native import routes as native
from knowalledge.gateway.api.openai import errors as openai_errors
from knowalledge.gateway.api.openai import fields as openai_fields
from knowalledge.gateway.api.openai import openapi as openai_openapi
from knowalledge.gateway.api.openai import routes as openai
from knowalledge.web.problems import PROBLEM

# Addresses of Google's APIs: by their version or collection, or by a method at the end (``/v1/models/NAME:METHOD``).
_GOOGLE_PATH = re.compile(r"/v1beta1?/|/v1/(?:projects|publishers)/|/v1/models/.+:[A-Za-z]+$")


class Dialect(Struct, frozen=True):
    """One API family."""

    name: str  # of its blueprint
    blueprint: Callable[[ApiContext], Blueprint]
    errors: ErrorForm
    operations: tuple[Operation, ...]  # for the OpenAPI document
    owns: Callable[[str], bool]  # whether a path that no route matches looks like this dialect's


# The first that owns a path has it, so the order is from the narrow to the wide.
DIALECTS = (
    Dialect(
        "gemini",
        gemini.blueprint,
        gemini_errors.FORM,
        gemini_openapi.OPERATIONS,
        lambda path: _GOOGLE_PATH.match(path) is not None,
    ),
    Dialect(
        "openai",
        openai.blueprint,
        openai_errors.FORM,
        openai_openapi.OPERATIONS,
        lambda path: path.startswith("/v1/"),
    ),
    Dialect("native", native.blueprint, PROBLEM, native_openapi.OPERATIONS, lambda _: False),
)
# What becomes of each field where client and target speak different dialects.
TABLES = (openai_fields.REQUEST, openai_fields.ANSWER, gemini_fields.REQUEST, gemini_fields.ANSWER)
NAMES = frozenset(it.name for it in DIALECTS)
_FORMS = {it.name: it.errors for it in DIALECTS}


def error_form(request: Request) -> ErrorForm | None:
    """The form in which a failed request's client reads errors: its blueprint's, else what its path looks like.

    A client of Google's settles the addresses that more than one dialect has. None: no dialect was called.
    """
    path = request.path
    if path.startswith("/v1") and is_google_client(request):
        return gemini_errors.FORM
    if request.blueprint is not None:
        return _FORMS.get(request.blueprint)
    return next((it.errors for it in DIALECTS if it.owns(path)), None)
