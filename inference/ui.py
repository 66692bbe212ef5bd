"""The page: a chat, and two models beside each other on one prompt, over the same engine interface as the API.

Knows no torch and no key, only its name: auth.py has let the browser in.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from auth import KEY_NAME
from engine import Engine
from fastapi import FastAPI
from generation import ChatRequest, EngineFull, EngineNotReady, Finished, FinishReason, RequestRefused
from limits import KeyLimitReached, KeyLimits
from ui_style import STYLE, theme

NOT_ANSWERED = "Not answered"

SHOWN_EVERY_SECONDS = 0.05
"""An answer is drawn anew at most so often: each time costs the server a millisecond or two of one core."""

CUT_SHORT: dict[FinishReason | None, str] = {
    "length": "cut at the longest answer",
    "timeout": "cut: it took too long",
}

PLACEHOLDER = "### Ask the model something\nThe whole conversation is sent each time."


@dataclass(frozen=True)
class Said:
    """An answer as far as it has come. `refused` is why there is none; times are seconds since it was asked for."""

    text: str = ""
    tokens: int = 0
    first_after: float = 0.0
    last_after: float = 0.0
    refused: str | None = None
    ended: FinishReason | None = None

    @property
    def shown(self) -> str:
        return self.text if self.refused is None else f"{NOT_ANSWERED}: {self.refused}"

    @property
    def pace(self) -> str:
        """24 tokens, 31.2 tokens/s, first after 0.42 s. The rate is that of the tokens after the first."""
        if not self.tokens:
            return ""
        words = [f"{self.tokens} {'token' if self.tokens == 1 else 'tokens'}"]
        if self.tokens > 1 and self.last_after > self.first_after:
            words.append(f"{(self.tokens - 1) / (self.last_after - self.first_after):.1f} tokens/s")
        words.append(f"first after {self.first_after:.2f} s")
        if self.ended in CUT_SHORT:
            words.append(CUT_SHORT[self.ended])
        return " · ".join(words)


async def answers(
    engine: Engine, request: ChatRequest, permit: AbstractContextManager[None]
) -> AsyncGenerator[Said, None]:
    """The answer again and again as it grows; the last one is whole. Leaving the iterator stops the computing.

    `permit` is held meanwhile, or raises KeyLimitReached.
    """
    try:
        with permit:
            async with aclosing(_growing(engine, request)) as growing:
                async for said in growing:
                    yield said
    except KeyLimitReached as reached:
        yield Said(refused=str(reached))


async def _growing(engine: Engine, request: ChatRequest) -> AsyncGenerator[Said, None]:
    began = time.monotonic()
    try:
        stream = await engine.submit(request)
    except (RequestRefused, EngineFull, EngineNotReady) as error:
        yield Said(refused=str(error))
        return
    text, tokens, first_after, last_after, shown_at = "", 0, 0.0, 0.0, 0.0
    try:
        async for event in stream:
            now = time.monotonic()
            if isinstance(event, Finished):
                refused = (event.error or "no reason") if event.reason == "error" else None
                yield Said(text, tokens, first_after, last_after, refused, event.reason)
            else:
                text += event.text
                tokens += len(event.tokens)
                last_after = now - began
                first_after = first_after or last_after
                if now - shown_at >= SHOWN_EVERY_SECONDS:
                    shown_at = now
                    yield Said(text, tokens, first_after, last_after)
    finally:
        # The stop button and a closed browser end up here too.
        stream.cancel()


def build_page(engine: Engine, key_limits: KeyLimits, *, base: str, release: str) -> FastAPI:
    """An application with the page at "/"; its lifespan must be entered before the first request.

    base is the base model's name; it stands in the title with the release.
    """

    def permit(browser: gr.Request) -> AbstractContextManager[None]:
        """What is asked here counts for the key that the browser has signed in with."""
        assert browser.request is not None
        return key_limits.request(str(browser.request.scope.get(KEY_NAME)))

    async def chat(
        message: str,
        history: list[dict[str, Any]],
        model: str,
        system: str,
        temperature: float,
        max_tokens: float,
        browser: gr.Request,
    ) -> AsyncIterator[tuple[str | dict[str, Any], str]]:
        messages = [*conversation(history, system or ""), {"role": "user", "content": message}]
        request = ChatRequest(messages, model=model, max_tokens=int(max_tokens), temperature=temperature)
        async with aclosing(answers(engine, request, permit(browser))) as growing:
            async for said in growing:
                yield said.text if said.refused is None else _not_answered(said.refused), said.pace

    async def compare(
        prompt: str,
        left: str,
        right: str,
        system: str,
        temperature: float,
        max_tokens: float,
        browser: gr.Request,
    ) -> AsyncIterator[tuple[str, str, str, str]]:
        messages = [*conversation([], system or ""), {"role": "user", "content": prompt}]
        latest = [Said(), Said()]
        news = asyncio.Event()

        async def follow(side: int, model: str) -> None:
            request = ChatRequest(messages, model=model, max_tokens=int(max_tokens), temperature=temperature)
            async with aclosing(answers(engine, request, permit(browser))) as growing:
                async for said in growing:
                    latest[side] = said
                    news.set()

        both = [asyncio.create_task(follow(side, model)) for side, model in enumerate((left, right))]
        for task in both:
            task.add_done_callback(lambda _: news.set())
        try:
            ended = False
            while not ended:
                await news.wait()
                news.clear()
                ended = all(task.done() for task in both)
                yield latest[0].shown, latest[0].pace, latest[1].shown, latest[1].pace
            await asyncio.gather(*both)
        finally:
            for task in both:
                task.cancel()

    with gr.Blocks(title=f"{base} · {release}", fill_height=True) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML(_title(engine, base, release), elem_id="title")
            gr.HTML('<a href="logout">Sign out</a>', elem_id="sign-out")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            system = gr.Textbox("", label="System prompt", lines=2)
            with gr.Row():
                temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: always the likeliest word")
                limits = engine.limits
                longest = gr.Slider(
                    1,
                    limits.max_new_tokens,
                    limits.default_new_tokens,
                    step=1,
                    label="Longest answer",
                    info="in tokens",
                )
        settings: list[Any] = [system, temperature, longest]
        with gr.Tabs():
            with gr.Tab("Chat"):
                _chat_tab(engine, chat, settings)
            with gr.Tab("Compare", visible=len(engine.models) > 1):
                _compare_tab(engine, compare, settings)
    page: FastAPI = gr.mount_gradio_app(
        FastAPI(),
        blocks,
        path="/",
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        # What the engine refuses is shown; anything else stands in the log alone.
        show_error=False,
        theme=theme(),
        css=STYLE,
    )
    return page


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
