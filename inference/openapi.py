"""The API's description of itself: what FastAPI cannot see added to its document, and the document as a page.

FastAPI knows the bodies; who may call, what errors look like, that answers can be streams, and when to come again is
said here. The page is made without a script, for one from elsewhere could read what a person types into it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

Json = dict[str, Any]

ABOUT = (
    "Speaks OpenAI's API: point any client of it at this server's `/v1` and give it a key. What is not supported is "
    "refused by name. Every answer has an `x-request-id`, which the server's log knows; give your own to find it there."
)
_ERRORS = {
    "400": "The request is wrong: `param` names the parameter.",
    "401": "No key, or a wrong one.",
    "404": "There is no such model.",
    "408": "The body did not arrive, or the answer was not ready, in the time that is allowed.",
    "413": "The body is too large.",
    "429": "The queue is full, or the key has reached a limit of its own. `Retry-After` says when to come again.",
    "500": "The model failed to compute this answer, or the server made a mistake.",
    "503": "The model is not ready, or the server is ending.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_ERROR_BODY = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_READINESS: Json = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"enum": ["loading", "ready", "failed", "draining"]},
        "release": {"type": "string"},
        "models": {"type": "array", "items": {"type": "string"}},
        "default_model": {"type": "string"},
        "phase": {"type": "string", "description": "What the server is doing"},
        "error": {"type": ["string", "null"], "description": "Why the model cannot be served"},
        "ledger": {
            "type": "object",
            "description": "The start's steps, with their units in their names",
            "additionalProperties": {"type": "number"},
        },
    },
    "additionalProperties": False,
    "description": "All but `status` is told only to a caller who shows a key.",
}


class DescribedApi(FastAPI):
    """An application whose OpenAPI document is complete."""

    def openapi(self) -> Json:
        """The document; made once."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema


def _complete(document: Json) -> None:
    document["info"]["description"] = ABOUT
    document["security"] = [{"key": []}]
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "One of the endpoint's API keys"}
    }
    document["components"]["schemas"]["Readiness"] = _READINESS
    paths = document["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            responses = operation["responses"]
            for code in ("4XX", "5XX", "422"):
                responses.pop(code, None)
            codes = ["401"] + (["404"] if "{" in path else [])
            if method == "post":
                codes = list(_ERRORS)
                responses["200"]["description"] = "The answer; with `stream`, its pieces as server-sent events"
                responses["200"]["content"]["text/event-stream"] = {}
            for code in codes:
                responses[code] = {"description": _ERRORS[code], "content": _ERROR_BODY}
                if code in ("429", "503"):
                    responses[code]["headers"] = _RETRY_AFTER
    text = {"schema": {"type": "string"}}
    paths["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": text, "application/openmetrics-text": text}
    paths["/health"]["get"].update(security=[])
    del paths["/health"]["get"]["responses"]["401"]
    told = {"application/json": {"schema": {"$ref": "#/components/schemas/Readiness"}}}
    paths["/ready"]["get"].update(
        security=[{}, {"key": []}],
        responses={
            "200": {"description": "Requests are answered", "content": told},
            "503": {"description": "Not yet, or no longer", "content": told},
        },
    )


# The page


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.15rem; overflow-wrap: anywhere; }
h3 { margin: 2rem 0 .25rem; font-size: 1rem; }
h4 { margin: 1rem 0 .25rem; font-size: .9rem; color: var(--dim); }
p { margin: .25rem 0 .75rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .88em; }
pre { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: 8px; overflow-x: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
td { border-top: 1px solid var(--line); padding: .35rem .75rem .35rem 0; vertical-align: top; }
td:first-child { white-space: nowrap; }
.dim { color: var(--dim); }
"""


def documentation_page(document: Json) -> str:
    """The document for a person's eyes: every route with its body, its answers and its errors, then every type."""
    title = html.escape(document["info"]["title"])
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title}: API</title><link rel='icon' href='data:,'><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{_prose(document['info']['description'])}</p>",
        f"<p class='dim'>Release {html.escape(document['info']['version'])} &middot; "
        "<a href='openapi.json'>openapi.json</a></p>",
        f"<pre>{html.escape(_EXAMPLE)}</pre>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method, path, operation)
    parts.append("<h2>Types</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [f"<h3 id='{name}'>{name}</h3><p>{_prose(schema.get('description', ''))}</p>", _members(schema)]
    return "".join([*parts, "</body></html>"])


_EXAMPLE = """curl $ENDPOINT/v1/chat/completions \\
  -H "Authorization: Bearer $INFERENCE_API_KEY" -H "Content-Type: application/json" \\
  -d '{"messages": [{"role": "user", "content": "Hello"}], "stream": true}'"""


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
    open_to_all = operation.get("security") == []
    yield f"<p>{_prose(operation['summary'])}{' <span class=dim>(no key needed)</span>' if open_to_all else ''}</p>"
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        yield f"<h4>Body</h4><p>{_kind(body)}</p>"
    yield "<h4>Answers</h4><div class='scroll'><table>"
    for code, response in sorted(operation["responses"].items()):
        kinds = [
            f"{media}: {_kind(content['schema'])}" if content else media
            for media, content in response.get("content", {}).items()
        ]
        yield f"<tr><td>{code}</td><td>{_prose(response['description'])}</td><td>{'<br>'.join(kinds)}</td></tr>"
    yield "</table></div>"


def _members(schema: Json) -> str:
    """A table of an object's members."""
    rows = []
    for name, member in schema.get("properties", {}).items():
        needed = " <span class='dim'>needed</span>" if name in schema.get("required", ()) else ""
        about = _prose(member.get("description", ""))
        rows.append(
            f"<tr><td><code>{html.escape(name)}</code>{needed}</td><td>{_kind(member)}</td><td>{about}</td></tr>"
        )
    return f"<div class='scroll'><table>{''.join(rows)}</table></div>"


_BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "to {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
    "pattern": "like {}",
}


def _kind(schema: Json) -> str:
    """A type in a few words, with links to the named ones."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#{name}'>{name}</a>"
    forms = schema.get("anyOf") or schema.get("oneOf")
    if forms:
        return " or ".join(_kind(each) for each in forms)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"<code>{html.escape(json.dumps(each))}</code>" for each in _values(schema))
    kind = schema.get("type", "anything")
    words = " or ".join(kind) if isinstance(kind, list) else kind
    if kind == "array":
        words = f"list of {_kind(schema.get('items', {}))}"
    bounds = [text.format(html.escape(_number(schema[name]))) for name, text in _BOUNDS.items() if name in schema]
    return words + (f" <span class='dim'>{' '.join(bounds)}</span>" if bounds else "")


def _values(schema: Json) -> list[Any]:
    return list(schema.get("enum", [schema.get("const")]))


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def _prose(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    parts = html.escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
