"""The prompts of the knowledge API: one file each, beside the code, versioned."""

import tomllib
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any

import msgspec
from msgspec import Struct

from knowalledge.gateway.domain.prompt import Blob, Message, Prompt, Text
from knowalledge.topics.domain import TopicQuery, schema_of

NAMES = ("whole", "subtopics", "explanations", "quiz", "related", "image")
MOST_TOKENS = 32_768
# The same temperature would say the same again.
REPAIR_TEMPERATURE = 0.7


class PromptFile(Struct, frozen=True):
    """One prompt. ``version`` goes into keys and answers: the number in the file and a digest of all its bytes."""

    name: str
    version: str
    system: str
    user: str
    tokens_each: int
    tokens_base: int = 256

    def ask(self, values: Mapping[str, Any], count: int, picture: "Blob | None" = None) -> Prompt:
        """The prompt with its values in place, each as JSON: data cannot end its quotes."""
        text = Template(self.user).substitute({name: _json(value) for name, value in values.items()})
        parts = (Text(text),) if picture is None else (picture, Text(text))
        return Prompt(
            (Message("user", parts),),
            system=self.system.strip(),
            max_output_tokens=min(MOST_TOKENS, self.tokens_base + self.tokens_each * count),
            temperature=0.0,
            json=True,
            json_schema=schema_of(self.name, count),
        )

    def about(self, asked: TopicQuery) -> Prompt:
        count = asked.count or len(asked.subtopics)
        return self.ask(
            {
                "topic": asked.topic,
                "level": asked.level,
                "lang": asked.lang,
                "detail": asked.detail,
                "count": count,
                "subtopics": asked.subtopics,
            },
            count,
        )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def load() -> Mapping[str, PromptFile]:
    """Every prompt by its name."""
    folder = files("knowalledge.topics") / "prompts"
    found = {}
    for name in NAMES:
        raw = (folder / f"{name}.toml").read_bytes()
        fields = tomllib.loads(raw.decode())
        version = f"{name}/{fields.pop('version')}-{sha256(raw).hexdigest()[:8]}"
        found[name] = PromptFile(name, version, **fields)
    return found


def repaired(prompt: Prompt, answer: str, wrong: str) -> Prompt:
    """The prompt once more, with the answer that was not right and what was wrong with it."""
    again = f"That was not a right answer: {wrong}. Answer again, with the whole JSON and nothing else."
    return msgspec.structs.replace(
        prompt,
        temperature=REPAIR_TEMPERATURE,
        messages=(
            *prompt.messages,
            Message("assistant", (Text(answer or "{}"),)),
            Message("user", (Text(again),)),
        ),
    )
