"""The page: a chat, and two models beside each other on one prompt, over the same engine interface as the API.

Knows no torch, and of a key only its name: auth.py has let the browser in. What an answer is while it grows,
page_answers.py says.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from auth import KEY_NAME
from engine import Engine
from fastapi import FastAPI
from generation import ChatRequest
from limits import KeyLimits
from page_answers import NOT_ANSWERED, answers, beside_each_other, conversation
from page_session import HEAD
from starlette.middleware.cors import CORSMiddleware
from ui_style import STYLE, theme

PLACEHOLDER = "### Ask the model something\nThe whole conversation is sent each time."

SESSIONS = 200
"""How many conversations are kept for browsers and clients that may come again: by itself Gradio keeps 10,000."""


def build_page(engine: Engine, key_limits: KeyLimits, *, base: str, release: str) -> FastAPI:
    """An application with the page at "/"; its lifespan must be entered before the first request.

    base is the base model's name; it stands in the title with the release.
    """
    questions = _Questions(engine, key_limits)
    with gr.Blocks(title=f"{base} · {release}", fill_height=True) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML(_title(engine, base, release), elem_id="title")
            gr.HTML('<a href="logout">Sign out</a>', elem_id="sign-out")
        settings = _settings(engine)
        with gr.Tabs():
            with gr.Tab("Chat"):
                _chat_tab(engine, questions.chat, settings)
            with gr.Tab("Compare", visible=len(engine.models) > 1):
                _compare_tab(engine, questions.compare, settings)
    blocks.state_session_capacity = SESSIONS
    around = FastAPI(openapi_url=None)
    # It allows no origin. Without it Gradio allows every one, on any host but loopback.
    around.add_middleware(CORSMiddleware)
    page: FastAPI = gr.mount_gradio_app(
        around,
        blocks,
        path="/",
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        # What the engine refuses is shown; anything else stands in the log alone.
        show_error=False,
        theme=theme(),
        css=STYLE,
        head=HEAD,
    )
    return page


@dataclass(frozen=True)
class _Questions:
    """What the page asks the engine: each is a function that Gradio calls with its components' values."""

    engine: Engine
    key_limits: KeyLimits

    async def chat(
        self,
        message: str,
        history: list[dict[str, Any]],
        model: str,
        system: str,
        temperature: float,
        max_tokens: float,
        browser: gr.Request,
    ) -> AsyncIterator[tuple[str | dict[str, Any], str]]:
        """The answer and its pace, as they grow."""
        messages = [*conversation(history, system or ""), {"role": "user", "content": message}]
        request = ChatRequest(messages, model=model, max_tokens=int(max_tokens), temperature=temperature)
        async with aclosing(answers(self.engine, request, self._permit(browser))) as growing:
            async for said in growing:
                yield said.text if said.refused is None else _not_answered(said.refused), said.pace

    async def compare(
        self,
        prompt: str,
        left: str,
        right: str,
        system: str,
        temperature: float,
        max_tokens: float,
        browser: gr.Request,
    ) -> AsyncIterator[tuple[str, ...]]:
        """Answer and pace of the left side, then of the right one, as they grow."""
        messages = [*conversation([], system or ""), {"role": "user", "content": prompt}]
        requests = [
            ChatRequest(messages, model=model, max_tokens=int(max_tokens), temperature=temperature)
            for model in (left, right)
        ]
        sides = [answers(self.engine, request, self._permit(browser)) for request in requests]
        async with aclosing(beside_each_other(*sides)) as growing:
            async for both in growing:
                yield tuple(shown for said in both for shown in (said.shown, said.pace))

    def _permit(self, browser: gr.Request) -> AbstractContextManager[None]:
        """What is asked here counts for the key that the browser has signed in with."""
        assert browser.request is not None
        return self.key_limits.request(str(browser.request.scope.get(KEY_NAME)))


def _settings(engine: Engine) -> list[Any]:
    """System prompt, temperature and longest answer: they apply to both tabs."""
    limits = engine.limits
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        system = gr.Textbox("", label="System prompt", lines=2)
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: always the likeliest word")
            longest = gr.Slider(
                1,
                limits.max_new_tokens,
                limits.default_new_tokens,
                step=1,
                label="Longest answer",
                info="in tokens",
            )
    return [system, temperature, longest]


def _chat_tab(engine: Engine, chat: Any, settings: list[Any]) -> None:
    model = _model_choice(engine, engine.default_model, "model")
    pace = gr.HTML("", elem_id="chat-pace", elem_classes="pace", render=False)
    gr.ChatInterface(
        chat,
        chatbot=gr.Chatbot(
            show_label=False,
            container=False,
            height="calc(100dvh - 21.5rem)",
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
        additional_inputs=[model, *settings],
        additional_outputs=[pace],
        api_name="chat",
        concurrency_limit=None,
        show_progress="hidden",
    )
    pace.render()  # type: ignore[no-untyped-call]


def _compare_tab(engine: Engine, compare: Any, settings: list[Any]) -> None:
    """The base on the left, what answers by default on the right; both can be changed."""
    other = next((name for name in reversed(engine.models) if name != engine.default_model), engine.default_model)
    prompt = gr.Textbox(
        placeholder="One prompt for both",
        elem_id="prompt",
        show_label=False,
        submit_btn=True,
        stop_btn=False,
        max_lines=8,
    )
    choices, outputs = [], []
    with gr.Row(elem_id="sides"):
        for side, chosen in (("left", other), ("right", engine.default_model)):
            with gr.Column(elem_classes="side", min_width=280):
                choices.append(_model_choice(engine, chosen, f"{side}-model"))
                # Plain, so that what differs is what the models said, white space included.
                said = gr.Textbox(
                    label="Answer",
                    show_label=False,
                    container=False,
                    interactive=False,
                    lines=6,
                    max_lines=24,
                    elem_id=f"{side}-said",
                )
                outputs += [said, gr.HTML("", elem_id=f"{side}-pace", elem_classes="pace")]
    begun = prompt.submit(
        lambda: gr.Textbox(submit_btn=False, stop_btn=True), None, prompt, queue=False, api_visibility="private"
    )
    asked = begun.then(
        compare,
        [prompt, *choices, *settings],
        outputs,
        concurrency_limit=None,
        show_progress="hidden",
        api_name="compare",
    )
    asked.then(lambda: gr.Textbox(submit_btn=True, stop_btn=False), None, prompt, queue=False, api_visibility="private")
    prompt.stop(None, None, None, cancels=[asked], api_visibility="private")


def _model_choice(engine: Engine, chosen: str, name: str) -> gr.Dropdown:
    return gr.Dropdown(
        list(engine.models), value=chosen, label="Model", show_label=False, container=False, elem_id=name
    )


def _title(engine: Engine, base: str, release: str) -> str:
    adapters = len(engine.models) - 1
    beside = f"{adapters} adapter{'' if adapters == 1 else 's'} · " if adapters else ""
    return f"<h1>{html.escape(base)}</h1><p>{beside}release <code>{html.escape(release)}</code></p>"


def _not_answered(reason: str) -> dict[str, Any]:
    """A turn that says why there is no answer; it is not sent to the model later."""
    return {"role": "assistant", "content": reason[:1].upper() + reason[1:], "metadata": {"title": NOT_ANSWERED}}
