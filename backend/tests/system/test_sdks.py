"""The clients that people already use, against a real gateway process, by base URL alone."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import openai
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials
from pydantic import BaseModel

from tests.support import environment
from tests.support.programs import program
from tests.system.processes import gateway, simulator
from tests.system.upstream import Upstream, upstream

pytestmark = [pytest.mark.system, pytest.mark.clients]

NODE = Path(__file__).with_name("node")
CONFIG = """
server: {{heartbeat: 50ms}}
models:
  plain: {{targets: [{{name: plain, provider: gemini, credentials: anonymous, base_url: "{google}"}}]}}
  tiny: {{targets: [{{name: tiny, provider: gemini, credentials: anonymous, base_url: "{google}", quota: {{rpm: 1}}}}]}}
  tooled: {{targets: [{{name: tooled, provider: openai, base_url: "{openai}"}}]}}
  slow: {{targets: [{{name: slow, provider: openai, base_url: "{openai}"}}]}}
  cut: {{targets: [{{name: cut, provider: openai, base_url: "{openai}"}}]}}
  paced:
    targets: [{{name: paced, provider: openai, base_url: "{openai}", quota: {{rpm: 1000, tpm: 100000}}}}]
"""


class City(BaseModel):
    """What a structured answer holds."""

    city: str
    people: int


@pytest.fixture(scope="module")
def model_server() -> Iterator[Upstream]:
    with upstream() as server:
        yield server


@pytest.fixture(scope="module")
def url(model_server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    with (
        simulator(folder) as google,
        gateway(CONFIG.format(google=google, openai=model_server.url), folder) as address,
    ):
        yield address


@pytest.fixture
def paced(model_server: Upstream) -> Upstream:
    model_server.pace.clear()
    model_server.left.clear()
    model_server.begun.clear()
    return model_server


def spend(url: str, model: str) -> None:
    """Take what there is of a model's quota, if it is not taken yet."""
    with suppress(HTTPError):
        urlopen(f"{url}/api/v1/generate", json.dumps({"model": model, "prompt": "hi"}).encode()).close()


# -- openai ----------------------------------------------------------------------------------------------------------

HI: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def ours(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        yield client


def test_openai_reads_an_answer(ours: openai.OpenAI) -> None:
    found = ours.chat.completions.create(model="plain", messages=HI)
    assert found.choices[0].message.content
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + 16


def test_openai_reads_a_stream(ours: openai.OpenAI) -> None:
    with ours.chat.completions.create(
        model="plain", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert len([it for it in chunks if it.choices and it.choices[0].delta.content]) == 16
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_openai_is_not_disturbed_by_signs_of_life(ours: openai.OpenAI) -> None:
    with ours.chat.completions.create(model="slow", messages=HI, stream=True) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "one two three and 0 images"


def test_openai_asks_concurrently(url: str) -> None:
    async def ask() -> tuple[str, list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            whole = await client.chat.completions.create(model="plain", messages=HI)
            streams = await asyncio.gather(
                *(client.chat.completions.create(model="plain", messages=HI, stream=True) for _ in range(5))
            )
            texts = [
                "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                for stream in streams
            ]
            return whole.choices[0].message.content or "", texts

    whole, texts = asyncio.run(ask())
    assert texts == [whole] * 5


def test_openai_calls_a_tool_and_gives_its_result_back(ours: openai.OpenAI) -> None:
    first = ours.chat.completions.create(model="tooled", messages=HI, tools=[WEATHER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Bern"})
    said: Any = message.model_dump(exclude_none=True)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    second = ours.chat.completions.create(model="tooled", messages=[*HI, said, result], tools=[WEATHER])
    assert second.choices[0].message.content == "it says sun"


def test_openai_reads_the_calls_of_a_stream(ours: openai.OpenAI) -> None:
    with ours.chat.completions.stream(model="tooled", messages=HI, tools=[WEATHER]) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Bern"}


def test_openai_parses_a_structured_answer(ours: openai.OpenAI) -> None:
    found = ours.chat.completions.parse(model="tooled", messages=HI, response_format=City)
    assert found.choices[0].message.parsed == City(city="Bern", people=134591)


def test_openai_shows_an_image(ours: openai.OpenAI) -> None:
    content: Any = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    found = ours.chat.completions.create(model="tooled", messages=[{"role": "user", "content": content}])
    assert found.choices[0].message.content == "one two three and 1 images"


def test_openai_embeds(ours: openai.OpenAI) -> None:
    found = ours.embeddings.create(model="plain", input=["a", "b"], dimensions=8)
    floats = ours.embeddings.create(model="plain", input=["a", "b"], dimensions=8, encoding_format="float")
    assert [len(it.embedding) for it in found.data] == [8, 8]
    for packed, plain in zip(found.data, floats.data, strict=True):
        assert packed.embedding == pytest.approx(plain.embedding, abs=1e-6)


def test_openai_lists_models(ours: openai.OpenAI) -> None:
    assert [it.id for it in ours.models.list()] == ["plain", "tiny", "tooled", "slow", "cut", "paced"]
    assert ours.models.retrieve("plain").id == "plain"


def test_openai_raises_its_own_errors(ours: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="'plain'"):
        ours.chat.completions.create(model="plane", messages=HI)
    with pytest.raises(openai.BadRequestError) as bad:
        ours.chat.completions.create(model="plain", messages=HI, n=3)
    assert bad.value.param == "n"
    spend(url, "tiny")
    with pytest.raises(openai.RateLimitError) as limited:
        ours.chat.completions.create(model="tiny", messages=HI)
    assert int(limited.value.response.headers["retry-after"]) > 0


def test_openai_raises_when_a_stream_breaks(ours: openai.OpenAI) -> None:
    texts: list[str | None] = []

    def read() -> None:
        with ours.chat.completions.create(model="cut", messages=HI, stream=True) as stream:
            texts.extend(chunk.choices[0].delta.content for chunk in stream)

    with pytest.raises(openai.APIError) as broken:
        read()
    assert broken.value.code == "provider_garbage"
    assert "".join(filter(None, texts)) == "one"


# -- google-genai ----------------------------------------------------------------------------------------------------


def google_client(url: str, mode: str) -> genai.Client:
    options = types.HttpOptions(base_url=url)
    if mode == "gemini":
        return genai.Client(api_key="k", http_options=options)
    if mode == "express":
        return genai.Client(vertexai=True, api_key="k", http_options=options)
    return genai.Client(
        vertexai=True,
        project="p",
        location="us-central1",
        credentials=Credentials(token="t"),  # type: ignore[no-untyped-call]
        http_options=options,
    )


@pytest.fixture(params=["gemini", "vertex", "express"])
def google(url: str, request: pytest.FixtureRequest) -> Iterator[genai.Client]:
    with google_client(url, request.param) as client:
        yield client


def test_genai_reads_an_answer(google: genai.Client) -> None:
    found = google.models.generate_content(model="plain", contents="hi")
    assert found.text
    assert found.usage_metadata is not None
    assert found.usage_metadata.candidates_token_count == 16
    assert found.candidates
    assert found.candidates[0].finish_reason == types.FinishReason.STOP


@pytest.mark.parametrize("model", ["plain", "slow"])
def test_genai_reads_a_stream_and_is_not_disturbed_by_signs_of_life(google: genai.Client, model: str) -> None:
    chunks = list(google.models.generate_content_stream(model=model, contents="hi"))
    assert len([it for it in chunks if it.text]) == (16 if model == "plain" else 6)
    assert chunks[-1].usage_metadata is not None
    assert chunks[-1].usage_metadata.total_token_count


def test_genai_reads_a_stream_asynchronously(url: str) -> None:
    async def ask() -> str:
        async with google_client(url, "gemini").aio as client:
            stream = await client.models.generate_content_stream(model="plain", contents="hi")
            return "".join([chunk.text or "" async for chunk in stream])

    assert len(asyncio.run(ask()).split()) == 16


def test_genai_counts_tokens(google: genai.Client) -> None:
    assert google.models.count_tokens(model="plain", contents="hi there").total_tokens == 2


def test_genai_calls_a_function_by_itself(google: genai.Client) -> None:
    asked = []

    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sun"

    config = types.GenerateContentConfig(tools=[weather], system_instruction="be brief", top_k=40)
    found = google.models.generate_content(model="tooled", contents="hi", config=config)
    assert asked == ["Bern"]
    assert "sun" in (found.text or "")


def test_genai_parses_a_structured_answer(google: genai.Client) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
    found = google.models.generate_content(model="tooled", contents="hi", config=config)
    assert found.parsed == City(city="Bern", people=134591)


def test_genai_shows_an_image(google: genai.Client) -> None:
    image = types.Part.from_bytes(data=bytes(range(256)), mime_type="image/png")
    found = google.models.generate_content(model="tooled", contents=["look", image])
    assert found.text == "one two three and 1 images"


def test_genai_embeds(google: genai.Client) -> None:
    config = types.EmbedContentConfig(output_dimensionality=8)
    found = google.models.embed_content(model="plain", contents=["a", "b"], config=config)
    assert found.embeddings
    assert [len(it.values or ()) for it in found.embeddings] == [8, 8]


def test_genai_lists_models(url: str) -> None:
    with google_client(url, "gemini") as client:
        assert "models/plain" in {it.name for it in client.models.list()}
        assert client.models.get(model="plain").name == "models/plain"


def test_genai_raises_its_own_errors(google: genai.Client, url: str) -> None:
    with pytest.raises(errors.ClientError) as unknown:
        google.models.generate_content(model="plane", contents="hi")
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    spend(url, "tiny")
    with pytest.raises(errors.ClientError) as limited:
        google.models.generate_content(model="tiny", contents="hi")
    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert "RetryInfo" in str(limited.value.details)


def test_genai_raises_when_a_stream_breaks(google: genai.Client) -> None:
    with pytest.raises(errors.ServerError) as broken:
        list(google.models.generate_content_stream(model="cut", contents="hi"))
    assert broken.value.code == 502


# -- node ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program("node")
    npm = program("npm")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "clients.mjs"):
        shutil.copy(NODE / name, folder)
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=folder,
        env=environment.caller(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the node clients could not be installed: {done.stderr[-500:]}")
    return folder


def test_the_sdks_of_node_read_streams(url: str, modules: Path) -> None:
    done = subprocess.run(
        ["node", "clients.mjs", url], cwd=modules, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for client in ("gemini", "express"):
        assert found[client]["pieces"] == 16
        assert found[client]["finish"] == "STOP"
    assert found["silent"]["text"] == "one two three and 0 images"
    assert found["count"] == 1
    assert found["failure"] == {"typed": True, "status": 404}
    for client in ("openai", "google"):
        assert found[client]["pieces"] == 16
        assert found[client]["finish"] == "stop"
        assert found[client]["usage"]["outputTokens"] == 16
        assert found[f"{client}Tool"]["steps"] == 2
        assert "sun in Bern" in found[f"{client}Tool"]["text"]


# -- plain HTTP ------------------------------------------------------------------------------------------------------


def curl(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([program("curl"), "-sN", *arguments], stdout=subprocess.PIPE, text=True)


def test_curl_shows_each_piece_when_it_comes(url: str, paced: Upstream) -> None:
    body = json.dumps({"model": "paced", "prompt": "hi", "stream": True})
    with curl(f"{url}/api/v1/generate", "-d", body) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        while "one" not in next(lines):  # the model has said no more than this
            pass
        while "waiting" not in next(lines):  # and a sign of life comes while it is silent
            pass
        paced.pace.set()
        rest = "".join(lines)
    assert "two" in rest
    assert "event: done" in rest


@pytest.mark.parametrize("extra", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")])
def test_curl_may_send_its_body_as_it_likes(url: str, tmp_path: Path, extra: tuple[str, ...]) -> None:
    body = tmp_path / "body.json"
    part = {"inlineData": {"mimeType": "image/png", "data": "A" * 2_000_000}}
    body.write_text(json.dumps({"contents": [{"parts": [{"text": "look"}, part]}]}))
    with curl(
        f"{url}/v1beta/models/tooled:generateContent?key=k", "--data-binary", f"@{body}", *extra
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.read())
    assert found["candidates"][0]["content"]["parts"][0]["text"] == "one two three and 1 images"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_ends_the_call_at_the_provider(
    url: str, paced: Upstream, stream: bool
) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps({"model": "paced", "prompt": "hi", "stream": stream}).encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /api/v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        if stream:
            seen = b""
            while b"one" not in seen:
                seen += connection.recv(4096)
        else:
            assert paced.begun.wait(10)
    assert paced.left.wait(10)
    for _ in range(200):
        with urlopen(f"{url}/api/quota/stats") as answer:
            windows = json.load(answer)["targets"]["paced"]["windows"]
        if not any(window["reserved"] for window in windows):
            return
        paced.left.wait(0.01)
    pytest.fail("the reservation was left behind")
