"""The page: a chat over the same engine interface as the API.

Knows no torch and no key: auth.py has let the browser in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import gradio as gr
from engine import ChatRequest, Engine, EngineFull, EngineNotReady, Finished, RequestRefused
from fastapi import FastAPI

NOT_ANSWERED = "Not answered"

PLACEHOLDER = """### Ask the model something
Choose the base model or an adapter above. The whole conversation is sent each time."""

STYLE = """
.gradio-container { width: 100% !important; max-width: 56rem !important; margin: 0 auto !important; }
#top { align-items: center; flex-wrap: nowrap; gap: .75rem; }
#title { flex: 1 1 auto; min-width: 0; padding: 0; }
#title h1 { margin: 0; font-size: 1.25rem; font-weight: 650; }
#model { flex: 0 1 18rem; min-width: 8rem !important; }
#sign-out { flex: 0 0 auto; width: auto; min-width: 0; padding: 0; white-space: nowrap; font-size: .9rem; }
#sign-out a { color: var(--body-text-color-subdued); text-decoration: none; }
#sign-out a:hover { text-decoration: underline; }
#chat { min-height: 16rem; border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); }
#chat .placeholder { padding: 1.5rem; text-align: center; }
footer { display: none !important; }
@media (max-width: 600px) {
  .gradio-container main { padding: .75rem !important; }
}
"""


def build_page(engine: Engine) -> FastAPI:
    """An application with the page at "/"; its lifespan must be entered before the first request."""

    async def answer(
        message: str, history: list[dict[str, Any]], model: str, system: str, temperature: float, max_tokens: float
    ) -> AsyncIterator[str | dict[str, Any]]:
        messages = [*conversation(history, system or ""), {"role": "user", "content": message}]
        request = ChatRequest(messages, model, max_tokens=int(max_tokens), temperature=temperature)
        try:
            stream = await engine.submit(request)
        except (RequestRefused, EngineFull, EngineNotReady) as error:
            yield _not_answered(str(error))
            return
        text = ""
        try:
            async for event in stream:
                if isinstance(event, Finished):
                    if event.reason == "error":
                        yield _not_answered(event.error or "")
                    elif not text:
                        yield ""
                elif event.text:
                    text += event.text
                    yield text
        finally:
            # The stop button and a closed browser end up here too.
            stream.cancel()

    limits = engine.limits
    with gr.Blocks(title="Chat", fill_height=True) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>Chat</h1>", elem_id="title")
            model = gr.Dropdown(
                list(engine.models), value=engine.default_model, show_label=False, container=False, elem_id="model"
            )
            gr.HTML('<a href="logout">Sign out</a>', elem_id="sign-out")
        system = gr.Textbox("", label="System prompt", lines=2, render=False)
        temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature (0: always the likeliest word)", render=False)
        longest = gr.Slider(
            1, limits.max_new_tokens, limits.default_new_tokens, step=1, label="Longest answer, in tokens", render=False
        )
        gr.ChatInterface(
            answer,
            chatbot=gr.Chatbot(
                show_label=False,
                container=False,
                scale=1,
                layout="bubble",
                buttons=["copy", "copy_all"],
                placeholder=PLACEHOLDER,
                elem_id="chat",
            ),
            textbox=gr.Textbox(
                placeholder="Write a message",
                elem_id="message",
                autofocus=True,
                submit_btn=True,
                stop_btn=True,
                max_lines=8,
                scale=7,
            ),
            additional_inputs=[model, system, temperature, longest],
            additional_inputs_accordion=gr.Accordion("Settings", open=False, render=False),
            api_name="chat",
            concurrency_limit=None,
            show_progress="hidden",
        )
    page: FastAPI = gr.mount_gradio_app(
        FastAPI(),
        blocks,
        path="/",
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        # What the engine refuses is shown; anything else stands in the log alone.
        show_error=False,
        theme=gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            radius_size="lg",
            # Fonts of the reader's own machine: nothing is fetched from elsewhere.
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css=STYLE,
    )
    return page


def _not_answered(reason: str) -> dict[str, Any]:
    """A turn that says why there is no answer; it is not sent to the model later."""
    return {"role": "assistant", "content": reason[:1].upper() + reason[1:], "metadata": {"title": NOT_ANSWERED}}


def conversation(history: Sequence[Mapping[str, Any]], system: str) -> list[dict[str, str]]:
    """The turns that the model is sent: without the questions that got no answer, and what was said instead of one."""
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for turn in history:
        if (turn.get("metadata") or {}).get("title") == NOT_ANSWERED:
            messages.pop()
        else:
            messages.append({"role": turn["role"], "content": _plain(turn["content"])})
    return messages


def _plain(content: Any) -> str:
    """A turn's text: Gradio gives a string, or parts of which the text ones count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)
