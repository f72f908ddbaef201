"""A model server in OpenAI's dialect that does what the strict simulator does not: calls tools, keeps to a schema,
and speaks at the pace that a test sets."""

import json
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream(ThreadingHTTPServer):
    """``pace`` holds back what comes after the first piece of the model "paced"; ``left`` says that its caller left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pace = threading.Event()
        self.left = threading.Event()
        self.begun = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message, finish = answer(body)
        self.server.begun.set()
        if body["model"] == "paced" and not body.get("stream"):
            try:
                self._wait()
            except ConnectionError:
                self.server.left.set()
                self.close_connection = True
                return
        if not body.get("stream"):
            self._whole(message, finish)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            self._stream(body["model"], message, finish)
        except ConnectionError:
            self.server.left.set()
            self.close_connection = True

    def _whole(self, message: dict[str, Any], finish: str) -> None:
        choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
        data = json.dumps({"choices": [choice], "usage": USAGE, "model": "upstream-1"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, model: str, message: dict[str, Any], finish: str) -> None:
        for index, word in enumerate((message["content"] or "").split(" ")):
            if index == 1 and model == "cut":
                raise ConnectionError
            if index == 1 and model == "paced":
                self._wait()
            if index == 1 and model == "slow":
                time.sleep(0.2)
            self._chunk({"choices": [{"delta": {"content": word if not index else f" {word}"}}]})
        for index, call in enumerate(message.get("tool_calls", ())):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            for piece in (
                {"index": index, "id": call["id"], "function": {"name": name, "arguments": arguments[:4]}},
                {"index": index, "function": {"arguments": arguments[4:]}},
            ):
                self._chunk({"choices": [{"delta": {"tool_calls": [piece]}}]})
        self._chunk({"choices": [{"delta": {}, "finish_reason": finish}]})
        self._chunk({"choices": [], "usage": USAGE})
        self._write(b"data: [DONE]\n\n")
        self._write(b"")

    def _wait(self) -> None:
        """Until the test says so, or the caller leaves."""
        while not self.server.pace.wait(0.01):
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1):
                raise ConnectionResetError

    def _chunk(self, document: dict[str, Any]) -> None:
        self._write(b"data: " + json.dumps({"model": "upstream-1"} | document).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


def answer(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What the model says: it calls the first tool unless it has its result, keeps to a schema, or talks."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return {"content": f"it says {last['content']}"}, "stop"
    if body.get("tools"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Bern"}'}
        return {
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }, "tool_calls"
    if body.get("response_format", {}).get("type") == "json_schema":
        return {"content": '{"city": "Bern", "people": 134591}'}, "stop"
    images = (
        sum(part["type"] == "image_url" for part in last["content"])
        if isinstance(last["content"], list)
        else 0
    )
    return {"content": f"one two three and {images} images"}, "stop"


@contextmanager
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.pace.set()
            server.shutdown()
            thread.join()
