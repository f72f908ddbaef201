"""The documents of the knowledge API, as the OpenAPI document tells them; tests hold real answers to them."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from knowalledge.topics.domain import Explained, Question, Subtopic, View


class Explanation(Struct, frozen=True):
    """One subtopic, explained."""

    subtopic: str
    explanation: str


class TopicDocument(Struct, frozen=True, kw_only=True):
    """What every answer about a topic says of itself. ``degraded``: second best, for want of a fresh one.

    ``demonstration``: from a model that shows how the API works and is no source of knowledge; it answers in English,
    briefly, with fewer items than may be asked for.
    """

    topic: str
    view: View
    level: str
    lang: str
    detail: Literal["brief", "standard", "deep"] | UnsetType = UNSET
    model: str
    prompt: str
    demonstration: bool | UnsetType = UNSET
    degraded: bool


class WholeTopic(TopicDocument, frozen=True, kw_only=True):
    """A topic: its summary, and its subtopics with explanations."""

    summary: str
    subtopics: tuple[Explained, ...]


class TopicSubtopics(TopicDocument, frozen=True, kw_only=True):
    """The subtopics of a topic."""

    subtopics: tuple[Subtopic, ...]


class TopicExplanations(TopicDocument, frozen=True, kw_only=True):
    """The named subtopics, explained."""

    explanations: tuple[Explanation, ...]


class TopicQuiz(TopicDocument, frozen=True, kw_only=True):
    """Questions with options; ``answer`` is the place of the right one."""

    questions: tuple[Question, ...]


class TopicRelated(TopicDocument, frozen=True, kw_only=True):
    """Topics that are near."""

    related: tuple[str, ...]


class SeenImage(TopicDocument, frozen=True, kw_only=True):
    """What a picture shows, as a topic; ``href`` is where to go on."""

    title: str
    description: str
    alternatives: tuple[str, ...]
    href: str
