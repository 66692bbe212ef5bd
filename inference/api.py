"""The API: liveness, readiness, metrics and models, and the routes that chat.py and completions.py add.

Knows no torch, no model and no key (auth.py has let the caller in).
"""

from __future__ import annotations

from collections.abc import Callable

from answers import About
from api_errors import add_error_handlers, of_engine
from asgi import Receive, Scope, Send
from auth import AUTHENTICATED
from chat import chat_routes
from completions import completion_routes
from engine import Engine, RequestRefused
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from openapi import DescribedApi, documentation_page
from protocol import ErrorBody, ModelEntry, ModelList
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

__all__ = ["About", "create_api"]

WITHOUT_PREFIX = ("/chat/completions", "/completions", "/models")
"""What a client asks for whose base URL lacks the end."""


def create_api(engine: Engine, about: About, expose: Callable[[str], tuple[bytes, str]]) -> FastAPI:
    """The application with every route of the API. What is mounted later at "/" gets what these routes leave.

    `expose` gives the metrics in the format of an Accept header, and their media type.
    """
    app = DescribedApi(
        title="Inference",
        version=about.release,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody}},
    )
    add_error_handlers(app)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Liveness: 200 as long as the process answers")
    def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Readiness: 200 when requests are answered, else 503; the details need the key")
    def ready(request: Request) -> JSONResponse:
        state = engine.state
        body: dict[str, object] = {"status": state.status}
        if request.scope.get(AUTHENTICATED):
            body |= {
                "release": about.release,
                "models": list(engine.models),
                "default_model": engine.default_model,
                "phase": state.phase,
                "error": state.error,
                "ledger": state.ledger,
            }
        return JSONResponse(body, 200 if state.status == "ready" else 503)

    @app.head("/docs", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(documentation_page(app.openapi()))

    @app.head("/metrics", include_in_schema=False)
    @app.get(
        "/metrics",
        summary="For Prometheus: requests, tokens, times and states of every model",
        response_class=PlainTextResponse,
    )
    def metrics(request: Request) -> Response:
        body, media_type = expose(request.headers.get("accept", ""))
        return Response(body, media_type=media_type)

    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models", summary="The base model and every adapter")
    def models() -> ModelList:
        return ModelList(data=[_model_entry(name, about) for name in engine.models])

    @app.head("/v1/models/{model}", include_in_schema=False)
    @app.get("/v1/models/{model}", summary="One model by its name")
    def model(model: str) -> ModelEntry:
        try:
            return _model_entry(engine.resolve_model(model), about)
        except RequestRefused as refused:
            raise of_engine(refused) from None

    app.include_router(chat_routes(engine, about))
    app.include_router(completion_routes(engine, about))

    _close(app)
    return app


def _close(app: FastAPI) -> None:
    """Keep from the page what is asked of the API and that no route of it answers."""
    nothing_here = _NothingHere(app)
    known = {str(route.path) for route in app.routes if isinstance(route, Route)}
    for path in (*sorted(known), *WITHOUT_PREFIX, "/v1", "/v1/{rest:path}"):
        app.router.routes.append(Route(path, nothing_here, include_in_schema=False))


class _NothingHere:
    """Refuses a method that a route does not take, and a path that there is none for: by itself the page would get it,
    and be built for it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Neither a route nor the page to the log and the metrics.
        del scope["endpoint"]
        partial = [route for route in self._app.routes if route.matches(scope)[0] == Match.PARTIAL]
        if partial:
            asked = {method: {**scope, "method": method} for method in ("GET", "HEAD", "POST")}
            takes = [
                method
                for method, again in asked.items()
                if any(route.matches(again)[0] == Match.FULL for route in partial)
            ]
            raise HTTPException(405, headers={"allow": ", ".join(takes)})
        method, path = scope["method"], scope["path"]
        if path in WITHOUT_PREFIX:
            raise HTTPException(
                404, f"There is no {method} {path} here, but /v1{path}: a client's base URL ends with /v1."
            )
        raise HTTPException(404)


def _model_entry(name: str, about: About) -> ModelEntry:
    return ModelEntry(id=name, created=about.created, owned_by="inferops")
