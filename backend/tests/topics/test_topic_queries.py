"""Names of topics, questions in normal form, and pictures by their headers."""

import struct
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowalledge.caching.domain import etag_of
from knowalledge.core.errors import InvalidRequest, PayloadTooLarge
from knowalledge.topics import prompt_files as prompts
from knowalledge.topics.domain import (
    COUNTS,
    Malformed,
    TopicQuery,
    degraded,
    document,
    document_key,
    normalize_topic,
    parse_query,
    read,
    schema_of,
)
from knowalledge.topics.images import recognise
from tests.support.fake_provider import fill


@given(st.text(max_size=300))
def test_a_normal_name_is_its_own_normal_name(text: str) -> None:
    try:
        once = normalize_topic(text)
    except InvalidRequest:
        return
    assert normalize_topic(once) == once
    assert normalize_topic(f"  {once.upper()} ") in (once, normalize_topic(once.upper()))
    assert len(once) <= 200


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("  Black \t Holes ", "black holes"),
        ("Stra\u00dfe", "strasse"),
        ("e\u0301", "\u00e9"),
        ("\u202eabc\u202c", "abc"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("C++", "c++"),
        ("\u0627\u0644\u0636\u0648\u0621", "\u0627\u0644\u0636\u0648\u0621"),
    ],
)
def test_normal_names(spelled: str, name: str) -> None:
    assert normalize_topic(spelled) == name


@pytest.mark.parametrize("name", ["", " ", "...", "a/../b", "..\\x", "a\x00", "\x7f", "\ud800", "a" * 201])
def test_what_names_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        normalize_topic(name)


def test_each_part_of_a_question_has_its_own_key() -> None:
    query = [
        TopicQuery("subtopics", "a", 3),
        TopicQuery("subtopics", "b", 3),
        TopicQuery("subtopics", "a", 4),
        TopicQuery("subtopics", "a", 3, "beginner"),
        TopicQuery("subtopics", "a", 3, lang="de"),
        TopicQuery("related", "a", 3),
        TopicQuery("explanations", "a", subtopics=("x", "y")),
        TopicQuery("explanations", "a", subtopics=("x,y",)),
        TopicQuery("explanations", "a", subtopics=("y", "x")),
        TopicQuery("explanations", "a", subtopics=("x", "y"), detail="deep"),
    ]
    names = {document_key(it, "m", "v1").name for it in query}
    names |= {document_key(query[0], "n", "v1").name, document_key(query[0], "m", "v2").name}
    assert len(names) == len(query) + 2


@pytest.mark.parametrize("view", list(COUNTS))
def test_the_path_of_a_question_asks_the_same_question(view: str) -> None:
    given = {"subtopics": "x y,z/w", "detail": "deep"} if view == "explanations" else {}
    query = parse_query(view, "TCP/IP & more", given)  # type: ignore[arg-type]
    head, _, rest = query.path.partition("?")
    assert head.startswith("/api/v1/topics/tcp%2Fip%20%26%20more")

    fields = {name: value for name, value in parse_qsl(rest) if view != "related" or name != "level"}
    assert parse_query(view, "TCP/IP & more", fields) == query  # type: ignore[arg-type]


@pytest.mark.parametrize("view", list(COUNTS))
def test_an_answer_that_fills_the_schema_is_whole(view: str) -> None:

    query = parse_query(view, "light", {"subtopics": "a,b"} if view == "explanations" else {})  # type: ignore[arg-type]
    prompt = prompts.load()[view].for_query(query)
    text = msgspec.json.encode(fill(msgspec.json.decode(prompt.json_schema))).decode()
    body = document(query, read(query, text), "m", "v")
    assert body == document(query, read(query, text), "m", "v")
    second = degraded(body)
    assert msgspec.json.decode(second) == {**msgspec.json.decode(body), "degraded": True}
    assert etag_of(second) != etag_of(body)


def test_a_model_is_asked_for_the_question_before_its_answer() -> None:
    item = msgspec.json.decode(schema_of("quiz", 2))["properties"]["questions"]["items"]
    assert list(item["properties"]) == ["question", "options", "answer", "explanation"]


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(Malformed):
        read(TopicQuery("related", "light", 3), text)


def test_prompts_have_versions_that_change_with_any_byte() -> None:
    versions = [file.version for file in prompts.load().values()]
    assert len(set(versions)) == len(prompts.NAMES)
    assert all("/1-" in version for version in versions)


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    frame = b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width) + bytes(12)
    return b"\xff\xd8\xff\xe0\x00\x04ab" + before + frame


def webp(kind: bytes, rest: bytes) -> bytes:
    return b"RIFF\x24\x00\x00\x00WEBP" + kind + b"\x18\x00\x00\x00" + rest + bytes(20)


@pytest.mark.parametrize(
    ("data", "mime", "size"),
    [
        (jpeg(640, 480), "image/jpeg", (640, 480)),
        (jpeg(640, 480, b"\xff\xff\xfe\x00\x03x"), "image/jpeg", (640, 480)),
        (webp(b"VP8X", bytes(4) + b"\x7f\x02\x00\xdf\x01\x00"), "image/webp", (640, 480)),
        (webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a\x80\x02\xe0\x01"), "image/webp", (640, 480)),
        (webp(b"VP8L", b"\x2f" + (639 | 479 << 14).to_bytes(4, "little")), "image/webp", (640, 480)),
    ],
)
def test_pictures_are_known_by_their_header(data: bytes, mime: str, size: tuple[int, int]) -> None:
    image = recognise(data)
    assert (image.mime, (image.width, image.height)) == (mime, size)


@given(st.sampled_from([b"\xff\xd8\xff", b"RIFF1234WEBPVP8X", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=200))
def test_no_bytes_break_the_look_at_a_picture(head: bytes, rest: bytes) -> None:
    try:
        image = recognise(head + rest)
    except (InvalidRequest, PayloadTooLarge):
        return
    assert 0 < image.width * image.height <= 40_000_000
