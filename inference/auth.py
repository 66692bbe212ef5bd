"""Who may call: nobody without the key, except for liveness and the bare readiness.

An ASGI layer around everything, the page included, so that a route added later is closed until somebody opens it. A
caller shows the key as `Authorization: Bearer <key>`; a browser signs in once with the key as the password and gets a
cookie, which opens the page but not the API. Knows no model and no route of the API.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Answered without a key: a probe cannot send one. What /ready tells without it is only whether the app is ready."""

API_PREFIX = "/v1/"
COOKIE = "inference_session"
SESSION_SECONDS = 12 * 3600
LARGEST_FORM_BYTES = 8192
AUTHENTICATED = "inference.authenticated"
"""Key in the ASGI scope: whether the caller has shown the key."""


class Keys:
    """Compares what a caller shows with the key, in a time that does not depend on how much of it is right."""

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()
        # A session is signed with something made from the key, so that a new key ends all sessions, and a replica
        # that has just started knows the sessions of the one before it.
        self._signing = hmac.new(key.encode(), b"inference session", hashlib.sha256).digest()

    def matches(self, shown: str) -> bool:
        return hmac.compare_digest(hashlib.sha256(shown.encode("utf-8", "surrogatepass")).digest(), self._digest)

    def new_session(self, now_seconds: float) -> str:
        """A cookie's value: until when it holds, a random part, and the signature of both."""
        told = f"{int(now_seconds) + SESSION_SECONDS}.{secrets.token_urlsafe(12)}"
        return f"{told}.{self._signature(told)}"

    def session_holds(self, value: str, now_seconds: float) -> bool:
        told, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), self._signature(told).encode()):
            return False
        return int(told.partition(".")[0]) > now_seconds

    def _signature(self, told: str) -> str:
        return hmac.new(self._signing, told.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


class Gate:
    """The layer itself."""

    def __init__(self, application: Application, key: str) -> None:
        self._application = application
        self._keys = Keys(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        with_key = self._shows_key(headers)
        known = with_key or (not path.startswith(API_PREFIX) and self._has_session(headers))
        scope[AUTHENTICATED] = with_key
        if scope["type"] != "http":
            if not known:
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._application(scope, receive, send)
        elif path == "/login":
            await self._login(scope, receive, send, headers)
        elif path == "/logout":
            gone = _cookie("", 0, secure=_is_https(scope, headers))
            await _answer(send, 303, b"", [(b"location", b"login"), (b"set-cookie", gone)])
        elif known or path in OPEN_PATHS:
            await self._application(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD") and "text/html" in headers.get(b"accept", ""):
            await _answer(send, 303, b"", [(b"location", b"/login")])
        else:
            await self._refuse(send, headers)

    def _shows_key(self, headers: dict[bytes, str]) -> bool:
        scheme, _, shown = headers.get(b"authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._keys.matches(shown.strip())

    def _has_session(self, headers: dict[bytes, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._keys.session_holds(cookie.value, time.time())

    async def _refuse(self, send: Send, headers: dict[bytes, str]) -> None:
        if headers.get(b"authorization"):
            message = "Incorrect API key provided."
        else:
            message = "You didn't provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY."
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
        await _answer_json(send, 401, {"error": error}, [(b"www-authenticate", b"Bearer")])

    async def _login(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, str]) -> None:
        """GET: the form. POST: the key as `password` (any user name) -> a session cookie.

        A browser is then sent to the page; any other client, such as gradio_client, gets 200.
        """
        browser = "text/html" in headers.get(b"accept", "")
        if scope["method"] in ("GET", "HEAD"):
            await _answer(send, 200, _sign_in_page(""), [(b"content-type", b"text/html; charset=utf-8")])
            return
        if scope["method"] != "POST":
            await _answer(send, 405, b"", [(b"allow", b"GET, HEAD, POST")])
            return
        form = await _form(receive)
        shown = form.get("password", [""])[0] if form is not None else ""
        if self._keys.matches(shown):
            cookie = _cookie(self._keys.new_session(time.time()), SESSION_SECONDS, secure=_is_https(scope, headers))
            if browser:
                await _answer(send, 303, b"", [(b"location", b"./"), (b"set-cookie", cookie)])
            else:
                await _answer_json(send, 200, {"success": True}, [(b"set-cookie", cookie)])
        elif browser:
            page = _sign_in_page("That is not the key of this server.")
            await _answer(send, 401, page, [(b"content-type", b"text/html; charset=utf-8")])
        else:
            await self._refuse(send, {b"authorization": shown})


async def _form(receive: Receive) -> dict[str, list[str]] | None:
    """The fields of a url-encoded form; None when the body is too large, cut off or no form."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > LARGEST_FORM_BYTES:
            return None
        if not message.get("more_body"):
            break
    try:
        return parse_qs(body.decode("latin-1"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return None


def _is_https(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Whether the browser speaks TLS: to this server, or to the ingress before it."""
    return scope.get("scheme") == "https" or headers.get(b"x-forwarded-proto", "").split(",")[0].strip() == "https"


def _cookie(value: str, seconds: int, *, secure: bool) -> bytes:
    attributes = f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"
    return (attributes + ("; Secure" if secure else "")).encode()


async def _answer_json(send: Send, status: int, document: object, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps(document).encode()
    await _answer(send, status, body, [(b"content-type", b"application/json"), *headers])


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    common = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": body})


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1b1f24; --dim: #5b6470; --line: #d5dae1;
          --main: #0f62fe; }
  @media (prefers-color-scheme: dark) {
    :root { --back: #14171c; --card: #1d2127; --text: #eceff3; --dim: #9aa4b1; --line: #363d47; --main: #3b76f0; }
  }
  * { box-sizing: border-box; }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem; background: var(--back);
         color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
  form { width: 100%; max-width: 23rem; padding: 2rem; background: var(--card); border: 1px solid var(--line);
         border-radius: 14px; }
  h1 { margin: 0 0 .25rem; font-size: 1.35rem; }
  p { margin: 0 0 1.25rem; color: var(--dim); font-size: .95rem; }
  label { display: block; margin-bottom: .35rem; font-weight: 600; font-size: .9rem; }
  input, button { width: 100%; padding: .7rem .8rem; font: inherit; border-radius: 9px; }
  input { border: 1px solid var(--line); background: var(--back); color: inherit; }
  input:focus-visible, button:focus-visible { outline: 3px solid var(--main); outline-offset: 1px; }
  button { margin-top: 1rem; border: 0; background: var(--main); color: #fff; font-weight: 600; cursor: pointer; }
  .error { margin: .75rem 0 0; color: #d5303e; }
</style>
</head>
<body>
<form method="post" action="login">
  <h1>Sign in</h1>
  <p>This page talks to your model. It opens with the API key of this endpoint.</p>
  <input type="text" name="username" value="user" autocomplete="username" hidden>
  <label for="password">API key</label>
  <input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
  <button type="submit">Open the chat</button>
  ERROR
</form>
</body>
</html>
"""


def _sign_in_page(error: str) -> bytes:
    shown = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    return _PAGE.replace("ERROR", shown).encode()
