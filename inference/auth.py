"""Who may call: nobody without a key, except for liveness and the bare readiness.

An ASGI layer around everything, the page included, so that a route added later is closed until somebody opens it. A
caller shows a key as `Authorization: Bearer <key>`; a browser signs in once with a key as the password and gets a
cookie, which opens the page but not the API. Each key has a name, which is what the log and the metrics tell of it.
Knows no model and no route of the API.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import re
import secrets
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, quote

from asgi import Application, Receive, Scope, Send, answer, answer_error, answer_json

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Answered without a key: a probe cannot send one. What /ready tells without it is only whether the app is ready."""

MANIFEST = "/manifest.json"
"""What a browser fetches for every page of Gradio, and without its cookie
(https://developer.mozilla.org/docs/Web/HTML/Reference/Attributes/rel/manifest). Gradio's own tells which model is
served, so that everybody gets one that does not."""
MANIFEST_TOLD = {"name": "Chat"}
"""Chromium takes an empty object for a mistake."""

API_PREFIX = "/v1/"
COOKIE = "inference_session"
SESSION_SECONDS = 12 * 3600
LARGEST_FORM_BYTES = 8192
PATH_HERE = re.compile(r"/(?!/)[!-\[\]-~]{0,2000}")
"""A path of this server, with its query. A browser reads a second slash, or a backslash, as the beginning of another
server's name, and leaves out tabs and line breaks."""
AUTHENTICATED = "inference.authenticated"
"""Key in the ASGI scope: whether the caller has shown a key."""
KEY_NAME = "inference.key"
"""Key in the ASGI scope: the name of the key that the caller has shown, now or when signing in; None without one."""


class Keys:
    """Names the key that a caller shows, in a time that depends neither on how much of it is right nor on which it is.

    `keys` are names with their keys.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: hashlib.sha256(key.encode()).digest() for name, key in keys.items()}
        # A session is signed with something made from its key, so that a new key ends the sessions of the old one, and
        # a replica that has just started knows the sessions of the one before it.
        self._signing = {
            name: hmac.new(key.encode(), b"inference session", hashlib.sha256).digest() for name, key in keys.items()
        }

    def name_of(self, shown: str) -> str | None:
        """The name of the key that is shown; None when it is no key."""
        return _equal_one(self._digests, hashlib.sha256(shown.encode("utf-8", "surrogatepass")).digest())

    def new_session(self, name: str, now_seconds: float) -> str:
        """A cookie's value: until when it holds, a random part, and the signature of both by the named key."""
        told = f"{int(now_seconds) + SESSION_SECONDS}.{secrets.token_urlsafe(12)}"
        return f"{told}.{self._signatures(told)[name].decode()}"

    def session_name(self, value: str, now_seconds: float) -> str | None:
        """The name of the key that the session was opened with; None when it is none of ours, or has ended."""
        told, _, signature = value.rpartition(".")
        name = _equal_one(self._signatures(told), signature.encode("utf-8", "surrogatepass"))
        if name is None or int(told.partition(".")[0]) <= now_seconds:
            return None
        return name

    def _signatures(self, told: str) -> dict[str, bytes]:
        message = told.encode("utf-8", "surrogatepass")
        return {
            name: hmac.new(key, message, hashlib.sha256).hexdigest().encode() for name, key in self._signing.items()
        }


def _equal_one(known: Mapping[str, bytes], shown: bytes) -> str | None:
    """The name of what equals `shown`; compared with all of them, even when it is the first."""
    names = [name for name, value in known.items() if hmac.compare_digest(value, shown)]
    return names[0] if names else None


class Gate:
    """The layer itself. `keys` are names with their keys."""

    def __init__(self, application: Application, keys: Mapping[str, str]) -> None:
        self._application = application
        self._keys = Keys(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        shown = self._shown_key(headers)
        known = shown or (None if path.startswith(API_PREFIX) else self._session_key(headers))
        scope[AUTHENTICATED], scope[KEY_NAME] = shown is not None, known
        if scope["type"] != "http":
            if known is None:
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._application(scope, receive, send)
        elif path == "/login":
            await self._login(scope, receive, send, headers)
        elif path == "/logout":
            gone = _cookie("", 0, secure=_is_https(scope, headers))
            await answer(send, 303, b"", [(b"location", b"login"), (b"set-cookie", gone)])
        elif path == MANIFEST and scope["method"] in ("GET", "HEAD"):
            await answer_json(send, 200, MANIFEST_TOLD)
        elif known is not None or (path in OPEN_PATHS and scope["method"] in ("GET", "HEAD")):
            await self._application(scope, receive, send)
        elif _is_page(scope, headers):
            await answer(send, 303, b"", [(b"location", _sign_in_location(scope))])
        else:
            await self._refuse(send, headers.get(b"authorization", ""))

    def _shown_key(self, headers: dict[bytes, str]) -> str | None:
        scheme, _, shown = headers.get(b"authorization", "").partition(" ")
        return self._keys.name_of(shown.strip()) if scheme.lower() == "bearer" else None

    def _session_key(self, headers: dict[bytes, str]) -> str | None:
        # http.cookies gives up all of them for one that is not strictly formed, as other applications' often are.
        for pair in headers.get(b"cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE and (key := self._keys.session_name(value, time.time())) is not None:
                return key
        return None

    async def _refuse(self, send: Send, shown: str) -> None:
        if shown:
            message = "Incorrect API key provided."
        else:
            message = "You didn't provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY."
        challenge = [(b"www-authenticate", b"Bearer")]
        await answer_error(send, 401, message, kind="invalid_request_error", code="invalid_api_key", headers=challenge)

    async def _login(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, str]) -> None:
        """GET: the form. POST: a key as `password` (any user name) -> a session cookie.

        A browser is then sent to `next`, or to the page; any other client, such as gradio_client, gets 200.
        """
        browser = "text/html" in headers.get(b"accept", "")
        if scope["method"] in ("GET", "HEAD"):
            wanted = _wanted(_fields(scope["query_string"]))
            await answer(send, 200, _sign_in_page(wanted), [(b"content-type", b"text/html; charset=utf-8")])
            return
        if scope["method"] != "POST":
            await answer(send, 405, b"", [(b"allow", b"GET, HEAD, POST")])
            return
        form = await _form(receive)
        shown = form.get("password", [""])[0]
        name = scope[KEY_NAME] = self._keys.name_of(shown)
        if name is not None:
            session = self._keys.new_session(name, time.time())
            cookie = _cookie(session, SESSION_SECONDS, secure=_is_https(scope, headers))
            if browser:
                wanted = _wanted(form) or "./"
                await answer(send, 303, b"", [(b"location", wanted.encode()), (b"set-cookie", cookie)])
            else:
                await answer_json(send, 200, {"success": True}, [(b"set-cookie", cookie)])
        elif browser:
            page = _sign_in_page(_wanted(form), "That is not the key of this server.")
            await answer(send, 401, page, [(b"content-type", b"text/html; charset=utf-8")])
        else:
            await self._refuse(send, shown)


async def _form(receive: Receive) -> dict[str, list[str]]:
    """The fields of a url-encoded form; none when the body is too large, cut off or no form."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return {}
        body += message.get("body", b"")
        if len(body) > LARGEST_FORM_BYTES:
            return {}
        if not message.get("more_body"):
            return _fields(body)


def _fields(encoded: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(encoded.decode("latin-1"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return {}


def _is_page(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Whether a browser wants to show what it asks for, and may once a person has signed in."""
    wants = scope["method"] in ("GET", "HEAD") and "text/html" in headers.get(b"accept", "")
    return wants and not scope["path"].startswith(API_PREFIX)


def _sign_in_location(scope: Scope) -> bytes:
    """Where a browser signs in that asked for something else, which the form then knows as `next`."""
    query = scope["query_string"].decode("latin-1")
    wanted = quote(scope["path"]) + (f"?{query}" if query else "")
    if wanted == "/" or not PATH_HERE.fullmatch(wanted):
        return b"/login"
    return b"/login?next=" + quote(wanted, safe="/").encode()


def _wanted(fields: Mapping[str, list[str]]) -> str:
    """The path of this server that a browser wanted to see before it signed in; empty when it is none."""
    wanted = fields.get("next", [""])[0]
    return wanted if PATH_HERE.fullmatch(wanted) else ""


def _is_https(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Whether the browser speaks TLS: to this server, or to the ingress before it."""
    return scope.get("scheme") == "https" or headers.get(b"x-forwarded-proto", "").split(",")[0].strip() == "https"


def _cookie(value: str, seconds: int, *, secure: bool) -> bytes:
    attributes = f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"
    return (attributes + ("; Secure" if secure else "")).encode()


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
  <input type="hidden" name="next" value="NEXT">
  <label for="password">API key</label>
  <input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
  <button type="submit">Open the chat</button>
  ERROR
</form>
</body>
</html>
"""


def _sign_in_page(wanted: str, error: str = "") -> bytes:
    """The form; `wanted` is the path that it leads to."""
    shown = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    return _PAGE.replace("ERROR", shown).replace("NEXT", html.escape(wanted)).encode()
