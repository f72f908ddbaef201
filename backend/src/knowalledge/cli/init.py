"""``knowalledge init``: a gateway.yaml from five questions."""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from knowalledge.cli.common import report, told
from knowalledge.cli.manners import example, json_option
from knowalledge.config.notes import notes
from knowalledge.config.settings import Settings, SettingsError
from knowalledge.config.sources import missing_variables
from knowalledge.core.parsers import text, written
from knowalledge.core.settings import Edit, Step
from knowalledge.providers.embedded.provider import EMBEDDED, MODEL

# By provider: the usual model, the variable with its key, and the limits of its smallest paid tier, to be corrected.
_GEMINI = ("gemini-2.5-flash", "GOOGLE_API_KEY", "rpm=1000,tpm=1000000,rpd=10000")
_USUAL = {
    "gemini": _GEMINI,
    "vertex": ("gemini-2.5-flash", "", "learn"),
    "openai": ("gpt-4o-mini", "OPENAI_API_KEY", "rpm=500,tpm=200000"),
    EMBEDDED.name: (MODEL, "", "none"),
}
_QUOTA = r"learn|none|(rpm|tpm|rpd|tpd)=\d+(,(rpm|tpm|rpd|tpd)=\d+)*"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


class Answers(Struct, frozen=True):
    """What the five questions found."""

    provider: str
    model: str
    access: dict[str, str]  # keys of the target that let it in: api_key, or project and location
    quota: str  # rpm=60,tpm=60000 | learn | none
    redis_url: str  # empty: one process


@example(
    "knowalledge init",
    "knowalledge init --provider gemini --model gemini-2.5-flash --quota rpm=1000,tpm=1000000 --yes",
    "knowalledge init --provider vertex --project my-project --location global --quota learn --yes",
)
@click.command()
@click.option(
    "--output",
    "-o",
    default="gateway.yaml",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.",
)
@click.option(
    "--provider", type=click.Choice(list(_USUAL)), help="Who answers; openai: any server that speaks its API."
)
@click.option("--model", default=None, help="The model's name at the provider, which clients use too.")
@click.option(
    "--key-variable", default=None, metavar="NAME", help="The environment variable that holds the API key."
)
@click.option("--base-url", default=None, metavar="URL", help="Another address of the provider's API.")
@click.option("--project", default=None, help="Vertex: the Google Cloud project.")
@click.option("--location", default=None, help="Vertex: the region, or global.")
@click.option("--quota", default=None, metavar="LIMITS", help="Such as rpm=60,tpm=60000; learn; or none.")
@click.option(
    "--redis-url",
    default=None,
    metavar="URL",
    help="The Redis that several replicas share; empty: one process.",
)
@click.option(
    "--yes", "-y", is_flag=True, help="Ask nothing: take the usual answer where no option gives one."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_option
def init(output: Path, yes: bool, force: bool, as_json: bool, **given: str | None) -> None:
    """Write a gateway.yaml from five questions, and check it.

    A key is never written into the file: it is read from an environment variable.
    """
    if output.exists() and not force:
        raise click.ClickException(f"{output} is there already: --force replaces it, --output names another")
    base_url = given.pop("base_url")
    answers = _asked(_Questions(given, ask=not (yes or as_json)))
    if base_url:
        answers = replace(answers, access=answers.access | {"base_url": base_url})
    try:
        output.write_text(rendered(answers))
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror})") from None
    _checked(output, as_json)


def rendered(answers: Answers) -> str:
    """The file."""
    target = {"name": "main", "provider": answers.provider} | answers.access
    lines = ["# Written by `knowalledge init`; every setting: docs/reference/configuration.md"]
    if answers.redis_url:
        lines.append(f"redis_url: {written(text, answers.redis_url)}")
    lines += ["models:", f"  {written(text, answers.model)}:", "    targets:"]
    for index, (name, value) in enumerate(target.items()):
        shown = f'"{value}"' if value.startswith("${") else written(text, value)
        lines.append(f"      {'  ' if index else '- '}{name}: {shown}")
    if answers.quota == "learn":
        lines.append("        quota: learn    # no published limit: it is found from the provider's answers")
    elif answers.quota != "none":
        limits = answers.quota.replace("=", ": ").replace(",", ", ")
        lines.append("        # The provider's limits for your project, for all replicas together.")
        lines.append(f"        quota: {{{limits}}}")
    return "\n".join(lines) + "\n"


class _Questions:
    """Answers from options, else from the person, else the usual ones."""

    def __init__(self, given: Mapping[str, str | None], *, ask: bool) -> None:
        self._given = given
        self._ask = ask

    def answer(self, name: str, question: str, usual: str, valid: str = r".+", **more: Any) -> str:
        """``valid``: the pattern of an answer that will do."""
        value = self._given.get(name)
        if value is not None and not re.fullmatch(valid, value):
            raise click.BadParameter(f"{value!r} will not do", param_hint=f"--{name.replace('_', '-')}")
        while value is None or not re.fullmatch(valid, value):
            if value is not None:
                click.echo(f"{value!r} will not do")
            value = str(click.prompt(question, default=usual, **more)) if self._ask else usual
        return value.strip()


def _asked(questions: _Questions) -> Answers:
    """The five questions."""
    answer = questions.answer
    provider = answer("provider", "1/5 Who answers", "gemini", type=click.Choice(list(_USUAL)))
    usual_model, variable, usual_quota = _USUAL[provider]
    model = answer("model", "2/5 Which model", usual_model)
    access: dict[str, str] = {}
    if provider == "vertex":
        own = os.environ.get("GOOGLE_CLOUD_PROJECT", "my-project")
        access["project"] = answer("project", "3/5 Which Google Cloud project", own)
        access["location"] = answer("location", "    and which region", "global")
        access["credentials"] = "adc"
    elif provider != EMBEDDED.name:
        question = "3/5 Which environment variable holds the API key (none: no key)"
        variable = answer("key_variable", question, variable, _VARIABLE)
        access |= {} if variable == "none" else {"api_key": f"${{{variable}}}"}
    question = "4/5 The limits of your project, such as rpm=60,tpm=60000; or learn, or none"
    quota = answer("quota", question, usual_quota, _QUOTA)
    question = "5/5 The Redis that several replicas share (empty: one process alone)"
    redis_url = answer("redis_url", question, "", ".*", show_default=False)
    return Answers(provider, model, access, quota, redis_url)


def _checked(output: Path, as_json: bool) -> None:
    """Check the file as it will be with its variables set, and say what comes next."""
    content = output.read_text()
    unset = missing_variables((Step(Edit.WRITE, content),), os.environ)
    names = re.findall(r"export (\w+)=", "\n".join(it.text for it in unset))
    try:
        settings = Settings.load(environ=os.environ | dict.fromkeys(names, "set later"), config=str(output))
    except SettingsError as error:
        if as_json:
            click.echo(told(error.faults, []))
        else:
            report(error.faults)
        sys.exit(2)
    following = [it.text for it in unset]
    following += [f"knowalledge {it} --config {output}" for it in ("doctor", "serve")]
    if as_json:
        click.echo(
            json.dumps({"ok": True, "file": str(output), "content": content, "next": following}, indent=1)
        )
        return
    report(notes(settings), "yellow")
    click.echo(f"{click.style('wrote', fg='green')} {output}, no fault found; next:")
    for command in following:
        click.echo(f"    {command}")
