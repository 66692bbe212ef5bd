"""The page: a chat over the same engine interface as the API.

Knows no torch and no key: auth.py has let the browser in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from engine import ChatRequest, Engine, EngineFull, EngineNotReady, Finished, RequestRefused
from fastapi import FastAPI


def build_page(engine: Engine) -> FastAPI:
    """An application with the page at "/"; its lifespan must be entered before the first request."""

    async def answer(
        message: str, history: list[dict[str, Any]], model: str, system: str, temperature: float, max_tokens: float
    ) -> AsyncIterator[str]:
        messages = [{"role": "system", "content": system}] if system.strip() else []
        messages += [{"role": turn["role"], "content": _plain(turn["content"])} for turn in history]
        messages.append({"role": "user", "content": message})
        request = ChatRequest(messages, model, max_tokens=int(max_tokens), temperature=temperature)
        try:
            stream = await engine.submit(request)
        except (RequestRefused, EngineFull, EngineNotReady) as error:
            raise gr.Error(_sentence(str(error)), print_exception=False) from None
        text = ""
        try:
            async for event in stream:
                if isinstance(event, Finished):
                    if event.reason == "error":
                        raise gr.Error(_sentence(event.error or "no answer"), print_exception=False)
                elif event.text:
                    text += event.text
                    yield text
            yield text
        finally:
            # The stop button and a closed browser end up here too.
            stream.cancel()

    limits = engine.limits
    with gr.Blocks(title="Chat", fill_height=True) as blocks:
        gr.ChatInterface(
            answer,
            additional_inputs=[
                gr.Dropdown(list(engine.models), value=engine.default_model, label="Model"),
                gr.Textbox(label="System prompt", lines=2),
                gr.Slider(0, 2, value=0, step=0.05, label="Temperature"),
                gr.Slider(
                    1, limits.max_new_tokens, value=limits.default_new_tokens, step=1, label="Longest answer, tokens"
                ),
            ],
            api_name="chat",
            concurrency_limit=None,
        )
    page: FastAPI = gr.mount_gradio_app(FastAPI(), blocks, path="/", ssr_mode=False, run_history=False)
    return page


def _plain(content: Any) -> str:
    """A turn's text: Gradio gives a string, or parts of which the text ones count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
