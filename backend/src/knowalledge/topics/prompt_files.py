"""The prompts of the topic API: one versioned TOML file each, in ``prompts/``.

``prompts/demonstration/`` has those for a demonstration model, which is too small for the others.
"""

import tomllib
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any

import msgspec
from msgspec import Struct

from knowalledge.gateway.domain.prompt import Blob, Message, Prompt, Text
from knowalledge.topics import demonstration
from knowalledge.topics.domain import TopicQuery, schema_of

NAMES = ("whole", "subtopics", "explanations", "quiz", "related", "image")
MAX_TOKENS = 32_768
# Temperature 0 would repeat the malformed answer.
REPAIR_TEMPERATURE = 0.7
# A demonstration model repeats itself without them.
_PENALTIES = {"frequency_penalty": 0.3, "presence_penalty": 0.2}


class PromptFile(Struct, frozen=True):
    """One prompt. ``version`` is part of cache keys and documents: the number in the file and a digest of its bytes."""

    name: str
    version: str
    system: str
    user: str
    tokens_each: int
    tokens_base: int = 256
    demonstration: bool = False

    def fill(self, values: Mapping[str, Any], count: int, image: Blob | None = None) -> Prompt:
        """The prompt with its values, each as JSON, so that no value can end its quotes."""
        text = Template(self.user).substitute({name: _json(value) for name, value in values.items()})
        parts = (Text(text),) if image is None else (image, Text(text))
        prompt = Prompt(
            (Message("user", parts),),
            system=self.system.strip(),
            max_output_tokens=min(MAX_TOKENS, self.tokens_base + self.tokens_each * count),
            temperature=0.0,
            json=True,
            json_schema=(demonstration.schema_of if self.demonstration else schema_of)(self.name, count),
        )
        return msgspec.structs.replace(prompt, **_PENALTIES) if self.demonstration else prompt

    def for_query(self, query: TopicQuery) -> Prompt:
        """The prompt of a topic query."""
        count = query.count or len(query.subtopics)
        return self.fill(
            {
                "topic": query.topic,
                "level": query.level,
                "lang": query.lang,
                "detail": query.detail,
                "count": count,
                "subtopics": query.subtopics,
            },
            count,
        )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def load(small: bool = False) -> Mapping[str, PromptFile]:
    """Every prompt by its name. ``small``: for a demonstration model, which reads no images."""
    folder = files("knowalledge.topics") / "prompts"
    prompts = {}
    for name in NAMES:
        special = small and name in demonstration.MOST
        raw = (folder / ("demonstration" if special else "") / f"{name}.toml").read_bytes()
        fields = tomllib.loads(raw.decode())
        version = f"{name}/{fields.pop('version')}-{sha256(raw).hexdigest()[:8]}"
        if special:
            version = f"demonstration-{version}"
        prompts[name] = PromptFile(name, version, demonstration=special, **fields)
    return prompts


def repaired(prompt: Prompt, answer: str, wrong: str) -> Prompt:
    """The prompt followed by the malformed answer and what is wrong with it."""
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
