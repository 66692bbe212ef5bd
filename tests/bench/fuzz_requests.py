"""Requests as nobody should send them, by a seed: values of every wrong kind in every parameter that the server's own
OpenAPI document names, broken JSON, broken HTTP, callers who stop half way.

Knows the shape of the API's bodies; sends nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ANSWERED = frozenset({200, 429})
REFUSED = frozenset({400, 404, 408, 413, 429})

Leave = Literal["never", "with half of it sent", "when all is sent", "after the first bytes of the answer"]


@dataclass(frozen=True)
class OddRequest:
    """Bytes as they go over the line, when their sender hangs up, and the statuses that are right (None: no 5xx)."""

    kind: str
    data: bytes
    leave: Leave = "never"
    statuses: frozenset[int] | None = None


class Raw(str):
    """JSON text that json.dumps would not write."""


NUMBERS: list[Any] = [0, -1, 1, 2, 3, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400]
NUMBERS += [float("nan"), float("inf"), Raw("1e400"), Raw("-1e999"), Raw("9" * 5000), Raw("1.0"), Raw("1e1")]
TEXTS: list[Any] = ["", "x", " ", "\x00", "null", "1", "x" * 5000, "🙂" * 200, "\ufeff", "\u202e", "<|end|>", "</s>"]
TEXTS += [Raw('"\\ud800"'), Raw('"\\udc00\\ud800"'), Raw('"\\u0000"')]
LISTS: list[Any] = [[], [None], [[]], [[[]]], [""], ["a"] * 5, ["a"] * 5000, [0], [-1], [10**6], [2**70], [True], [1.5]]
LISTS += [[[0, 1], [10**9]], [[]] * 100, [5] * 600, [{"type": "text"}], Raw("[" * 500 + "]" * 500)]
OBJECTS: list[Any] = [{}, {"": None}, {"type": None}, {"type": "text"}, {"type": "json_object"}, {"5": 100}, {"-1": 1}]
OBJECTS += [{"999999": 1}, {"x": 1}, {"5": float("nan")}, {"5": 1e9}, {"include_usage": 1}, {"type": "function"}]
VALUES: list[Any] = [None, True, False, *NUMBERS, *TEXTS, *LISTS, *OBJECTS]


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


SCHEMAS: list[Any] = [
    {"type": "nothing"},
    {"$ref": "#/nowhere"},
    {"$ref": "#"},
    {"$ref": "http://127.0.0.1:9/schema"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "object", "properties": 5},
    {"type": "object", "required": "a"},
    {"type": "object", "additionalProperties": "x"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(a+)+$"},
    {"type": "string", "pattern": "(?<=a)b\\1"},
    {"type": "string", "pattern": "a{1,100000}"},
    {"type": "string", "minLength": 10**6},
    {"type": "string", "minLength": 5, "maxLength": 1},
    {"type": "string", "format": "nonsense"},
    {"type": "array", "minItems": 10**9},
    {"type": "array", "items": []},
    {"type": "integer", "minimum": 5, "maximum": 1},
    {"type": "number", "multipleOf": 0},
    {"enum": []},
    {"enum": list(range(2000))},
    {"const": "\x00"},
    {"not": {}},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"anyOf": [{"type": "object"}] * 200},
    {"if": {}, "then": False},
    _nested(60),
    Raw('{"anyOf":[' * 2000 + "{}" + "]}" * 2000),
    True,
    False,
    7,
    [],
    {},
]
SMALL_SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}

BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe{}",
    b"[" * 50_000,
    b'{"a":' * 5_000,
    b'{"messages": "\xc3"}',
    b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    b'\xef\xbb\xbf{"messages": []}',
    '{"messages": []}'.encode("utf-16"),
    b'{"messages": [], "messages": 5}',
    b"messages=x&model=y",
    b"\x00" * 1000,
    b"\x1f\x8b\x08\x00garbage",
    b'{"messages": [{"role": "user", "content": "x"}]}trailing',
    b"{'messages': []}",
    b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 20_000 + b"}",
]

_AUTHORIZED = "Host: fuzz\r\nAuthorization: Bearer KEY\r\n"
HEADS: list[str] = [
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Content-Length: -5\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Content-Length: 99999999999999999999\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Transfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}",
    f"POST {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
    f"POST {CHAT} HTTP/9.9\r\n{_AUTHORIZED}\r\n",
    f"GET /v1/models HTTP/1.1\r\n{_AUTHORIZED}X-Long: {'a' * 100_000}\r\n\r\n",
    f"GET /v1/models HTTP/1.1\r\n{_AUTHORIZED}Bad Header: x\r\n\r\n",
    f"GET /v1/models HTTP/1.1\r\n{_AUTHORIZED}Cookie: {'a=b; ' * 2000}\r\nConnection: close\r\n\r\n",
    f"GET /v1/models HTTP/1.1\r\n{_AUTHORIZED}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    f"GET /v1/models/{'%F0%9F' * 50} HTTP/1.1\r\n{_AUTHORIZED}Connection: close\r\n\r\n",
    f"GET /v1/models/%00%2e%2e%2f HTTP/1.1\r\n{_AUTHORIZED}Connection: close\r\n\r\n",
    f"GET /{'a/' * 5000} HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nAuthorization: Bearer KEY\r\n\r\n",
    f"GET http://elsewhere/v1/models HTTP/1.1\r\n{_AUTHORIZED}Connection: close\r\n\r\n",
    f"CONNECT elsewhere:443 HTTP/1.1\r\n{_AUTHORIZED}\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    f"TRACE {CHAT} HTTP/1.1\r\n{_AUTHORIZED}Connection: close\r\n\r\n",
    f"GET /v1/models HTTP/1.0\r\n{_AUTHORIZED}\r\n",
    "\r\n\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "\x00" * 500,
]


class OddRequests:
    """Endless odd requests; the same seed gives the same ones. `document` is the server's OpenAPI document."""

    def __init__(self, document: dict[str, Any], models: list[str], key: str, seed: int) -> None:
        self._random, self._key, self._models = random.Random(seed), key, models
        self._parameters = {path: _parameters(document, path) for path in (CHAT, COMPLETIONS)}
        self._kinds: list[Callable[[], OddRequest]] = [
            *[self._wrong_value] * 8,
            *[self._wrong_message] * 3,
            *[self._wrong_prompt] * 2,
            *[self._schema] * 2,
            self._tools,
            self._too_long,
            self._too_many,
            self._broken_body,
            self._broken_http,
            *[self._valid] * 3,
            *[self._gone] * 3,
        ]

    def __iter__(self) -> Iterator[OddRequest]:
        while True:
            yield self._random.choice(self._kinds)()

    def _plain(self, path: str = CHAT) -> dict[str, Any]:
        """A body that is right, and costs few tokens."""
        body: dict[str, Any] = {"max_tokens": self._random.randint(1, 4), "model": self._random.choice(self._models)}
        if path == CHAT:
            return body | {"messages": [{"role": "user", "content": self._random.choice(["fox", "naïve 🙂", "日本"])}]}
        return body | {"prompt": self._random.choice(["the fox", ["a", "b"], [5, 6, 7]])}

    def _post(
        self, kind: str, body: object, path: str = CHAT, leave: Leave = "never", statuses: frozenset[int] | None = None
    ) -> OddRequest:
        data = body if isinstance(body, bytes) else _json(body).encode("utf-8", "surrogatepass")
        head = (
            f"POST {path} HTTP/1.1\r\nHost: fuzz\r\nAuthorization: Bearer {self._key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return OddRequest(kind, head.encode() + data, leave, statuses)

    def _wrong_value(self) -> OddRequest:
        path = self._random.choice([path for path, names in self._parameters.items() if names])
        body = self._plain(path)
        for _ in range(self._random.choice([1, 1, 1, 2, 3])):
            body[self._random.choice(self._parameters[path])] = self._random.choice(VALUES)
        return self._post("a wrong value", body, path)

    def _wrong_message(self) -> OddRequest:
        message = {"role": "user", "content": "fox"}
        choice = self._random.randrange(6)
        if choice == 0:
            messages: Any = self._random.choice(VALUES)
        elif choice == 1:
            messages = [self._random.choice(VALUES)]
        elif choice == 2:
            messages = [message | {self._random.choice(["role", "content", "name", "tool_calls"]): self._value()}]
        elif choice == 3:
            messages = [{"role": self._random.choice(["assistant", "tool", "function", "system"]), "content": "x"}]
        elif choice == 4:
            messages = [message | {"content": [{"type": "text", "text": self._value()}]}]
        else:
            messages = [message | {"content": self._random.choice(["", " ", "\x00", "<|end|><|user|>"])}] * 3
        return self._post("a wrong message", self._plain() | {"messages": messages})

    def _value(self) -> Any:
        return self._random.choice(VALUES)

    def _wrong_prompt(self) -> OddRequest:
        prompts: list[Any] = [[399, 400], [10**6], [-1], [2**40], [[5], [10**6]], [], "", [""], [[]], ["a"] * 200]
        prompts += [["a", 5], [5, "a"], [True], [1.5], "\ud800", "fox " * 3000, [5] * 3000, [[5] * 300] * 40]
        return self._post(
            "a wrong prompt", self._plain(COMPLETIONS) | {"prompt": self._random.choice(prompts)}, COMPLETIONS
        )

    def _schema(self) -> OddRequest:
        schema = self._random.choice([*SCHEMAS, SMALL_SCHEMA])
        wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
        if self._random.random() < 0.2:
            wanted["json_schema"] = self._value()
        return self._post("a schema", self._plain() | {"response_format": wanted, "max_tokens": 12})

    def _tools(self) -> OddRequest:
        function: dict[str, Any] = {"name": self._random.choice(["f", "", "a b", "x" * 100, 5])}
        function["parameters"] = self._random.choice([*SCHEMAS, SMALL_SCHEMA])
        tools: Any = [{"type": "function", "function": function}] * self._random.choice([1, 2, 200])
        if self._random.random() < 0.3:
            tools = self._value()
        choices = ["auto", "none", "required", {"type": "function", "function": {"name": "g"}}, self._value()]
        return self._post("tools", self._plain() | {"tools": tools, "tool_choice": self._random.choice(choices)})

    def _too_long(self) -> OddRequest:
        body: dict[str, Any] = self._random.choice(
            [
                {"messages": [{"role": "user", "content": "fox " * 5000}]},
                {"messages": [{"role": "user", "content": "a"}] * 2000},
                {"max_tokens": 10**9},
                {"n": 10**6},
                {"n": 10**6, "max_tokens": 1},
            ]
        )
        return self._post("too much", self._plain() | body, statuses=REFUSED)

    def _too_many(self) -> OddRequest:
        """As much of something wrong as a body has room for: each wrong thing that a server describes costs it time."""
        question = {"role": "user", "content": "fox"}
        names = {f"a{number}": 1 for number in range(self._random.choice([100, 100_000]))}
        path, body = self._random.choice(
            [
                (CHAT, {"messages": [1] * 900_000}),
                (CHAT, {"messages": [question] * 50_000}),
                (CHAT, {"messages": [question | {"content": [1] * 500_000}]}),
                (CHAT, {"messages": [question | {"content": [1] * 300}] * 2000}),
                (CHAT, {"messages": [{"role": "assistant", "tool_calls": [1] * 500_000}]}),
                (CHAT, {"messages": [question | names]}),
                (CHAT, {"messages": [question], "modalities": [1] * 500_000}),
                (CHAT, {"messages": [question], "logit_bias": names}),
                (CHAT, {"messages": [question], "metadata": names}),
                (CHAT, {"messages": [question], **names}),
                (COMPLETIONS, {"prompt": [-5] * 400_000}),
                (COMPLETIONS, {"prompt": [[]] * 400_000}),
                (COMPLETIONS, {"prompt": [[-5] * 200] * 2000}),
            ]
        )
        # Written by the quick writer: meanwhile no other request of the run is sent on.
        return self._post("too many", json.dumps(body).encode(), path, statuses=REFUSED)

    def _broken_body(self) -> OddRequest:
        return self._post("a broken body", self._random.choice(BODIES), statuses=REFUSED)

    def _broken_http(self) -> OddRequest:
        head = self._random.choice(HEADS).replace("KEY", self._key)
        # What is not finished would be waited for: its sender goes away.
        return OddRequest("broken HTTP", head.encode("latin-1"), "after the first bytes of the answer")

    def _valid(self) -> OddRequest:
        body = self._plain() | {"stream": self._random.random() < 0.5, "temperature": self._random.choice([0, 1.3])}
        return self._post("nothing wrong", body, statuses=ANSWERED)

    def _gone(self) -> OddRequest:
        leaves: list[Leave] = ["with half of it sent", "when all is sent", "after the first bytes of the answer"]
        body = self._plain() | {"stream": self._random.random() < 0.7, "max_tokens": 100, "temperature": 1}
        return self._post("gone early", body, leave=self._random.choice(leaves))


def _parameters(document: dict[str, Any], path: str) -> list[str]:
    """The names of what a body of this path may have; none when there is no such path."""
    if path not in document["paths"]:
        return []
    reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return list(document["components"]["schemas"][reference.rpartition("/")[2]]["properties"])


def _json(value: object) -> str:
    """JSON with what Raw says as it is, and with characters as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_json(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_json(each) for each in value) + "]"
    return json.dumps(value)
