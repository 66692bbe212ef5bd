"""The engine against the model's own `generate`, and its promises about slots, queue, cancel and failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine import (
    ChatRequest,
    CompletionRequest,
    Engine,
    EngineFull,
    EngineNotReady,
    Finished,
    RequestRefused,
    Stream,
    TextPiece,
)
from generation import GenerationRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings import AdapterFolder, Limits

from tests.fixtures_inference import CONTEXT_TOKENS, LIMITS, TinyModel, engine, make_engine, tiny_model

if TYPE_CHECKING:
    from model import Loaded

__all__ = ["engine", "tiny_model"]

MODELS = ("default", "other", "tiny-base")


class Panic(BaseException):
    """As tokenizers and llguidance raise it when their Rust code panics (pyo3's PanicException): no Exception."""


def ask(text: str, **arguments: Any) -> ChatRequest:
    arguments = {"temperature": 0.0, **arguments}
    return ChatRequest([{"role": "user", "content": text}], **arguments)


async def collect(stream: Stream) -> tuple[list[int], str, Finished]:
    tokens: list[int] = []
    text = ""
    finished: Finished | None = None
    async for event in stream:
        if isinstance(event, TextPiece):
            tokens += event.tokens
            text += event.text
        else:
            finished = event
    assert finished is not None
    return tokens, text, finished


async def answer(engine: Engine, request: GenerationRequest) -> tuple[list[int], str, Finished]:
    return await collect(await engine.submit(request))


class Reference:
    """The same folders in the plain library: `model.generate`, one request at a time."""

    def __init__(self, tiny: TinyModel, adapters: Sequence[AdapterFolder]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(tiny.base)

        def load(adapter: AdapterFolder | None) -> Any:
            base: Any = AutoModelForCausalLM.from_pretrained(tiny.base)
            return base if adapter is None else PeftModel.from_pretrained(base, str(adapter.folder))

        self.models = {adapter.name: load(adapter) for adapter in adapters} | {tiny.base.name: load(None)}

    def tokens(self, request: ChatRequest, model: str) -> list[int]:
        prompt = self.tokenizer.apply_chat_template(
            [dict(message) for message in request.messages], add_generation_prompt=True, return_tensors="pt"
        )
        with self.torch.inference_mode():
            whole = self.models[model].generate(**prompt, max_new_tokens=request.max_tokens, do_sample=False)
        found: list[int] = whole[0, prompt["input_ids"].shape[1] :].tolist()
        return found

    def text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text


@pytest.fixture(scope="module")
def reference(tiny_model: TinyModel) -> Reference:
    return Reference(tiny_model, tiny_model.adapters)


@pytest.mark.parametrize("model", MODELS)
async def test_greedy_answers_equal_generate(engine: Engine, reference: Reference, model: str) -> None:
    for text in ("the quick brown fox", "日本 🙂 café", "x" * 150):
        request = ask(text, model=model, max_tokens=40)
        tokens, shown, finished = await answer(engine, request)
        expected = reference.tokens(request, model)
        assert tokens == expected
        end = reference.tokenizer.eos_token_id
        assert shown == reference.text(expected)
        assert finished.completion_tokens == len(expected)
        assert finished.reason == ("stop" if expected[-1] == end else "length")


async def test_an_adapter_that_cannot_be_mixed(tiny_model: TinyModel, tmp_path: Path) -> None:
    """DoRA rows cannot share a forward with others: they are computed one by one, and are right."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False, use_dora=True)
    made: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model.base), lora)
    made.save_pretrained(str(tmp_path / "dora"))
    adapters = (AdapterFolder("dora", tmp_path / "dora"), tiny_model.adapters[0])
    mixed = make_engine(tiny_model, adapters=adapters)
    mixed.start()
    mixed.wait_until_loaded()
    reference = Reference(tiny_model, adapters)
    asked = [(model, ask("the fox", model=model, max_tokens=12)) for model in ("dora", "default", "tiny-base", "dora")]
    answers = await asyncio.gather(*(answer(mixed, request) for _, request in asked))
    assert [tokens for tokens, _, _ in answers] == [reference.tokens(request, model) for model, request in asked]
    assert len({tuple(tokens) for tokens, _, _ in answers}) == 3
    assert await mixed.drain(5)


async def test_models_answer_differently(engine: Engine) -> None:
    answers = [await answer(engine, ask("the quick brown fox", model=model, max_tokens=16)) for model in MODELS]
    assert len({tuple(tokens) for tokens, _, _ in answers}) == len(MODELS)


Asked = tuple[str, str, int, "int | None"]
requests = st.lists(
    st.tuples(
        st.sampled_from(MODELS),
        st.text(st.sampled_from("the quick brown fox 日é🙂"), min_size=0, max_size=250),
        st.integers(1, 40),
        st.one_of(st.none(), st.integers(0, 10)),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=requests)
def test_any_mix_equals_generate(engine: Engine, reference: Reference, asked: list[Asked]) -> None:
    """More requests than slots, of mixed adapters and lengths, some cancelled on the way."""

    async def one(model: str, text: str, max_tokens: int, cancel_after: int | None) -> None:
        request = ask(text, model=model, max_tokens=max_tokens)
        stream = await engine.submit(request)
        tokens: list[int] = []
        async for event in stream:
            if isinstance(event, Finished):
                finished = event
                break
            tokens += event.tokens
            if cancel_after is not None and len(tokens) > cancel_after:
                stream.cancel()
        expected = reference.tokens(request, model)
        assert tokens == expected[: len(tokens)]
        assert finished.completion_tokens == len(tokens)
        if finished.reason == "cancelled":
            assert cancel_after is not None
        else:
            assert tokens == expected

    async def all_of_them() -> None:
        await asyncio.gather(*(one(*request) for request in asked))

    asyncio.run(all_of_them())
    assert engine.open_requests == 0


async def test_a_seeded_answer_is_the_same_alone_and_in_a_batch(engine: Engine) -> None:
    seeded = ask("the lazy dog", model="default", temperature=0.9, top_p=0.9, seed=11, max_tokens=30)
    alone, _, _ = await answer(engine, seeded)
    others = [ask(f"dog {number}", model=MODELS[number % 3], temperature=1.0, max_tokens=30) for number in range(5)]
    answers = await asyncio.gather(*(answer(engine, request) for request in [*others[:3], seeded, *others[3:]]))
    assert answers[3][0] == alone
    other_seed, _, _ = await answer(
        engine, ask("the lazy dog", model="default", temperature=0.9, seed=12, max_tokens=30)
    )
    assert other_seed != alone


SHAPE = {
    "type": "object",
    "properties": {"legs": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["fox", "dog"]}},
    "required": ["legs", "kind"],
    "additionalProperties": False,
}


async def test_rows_of_every_kind_in_one_batch_change_no_other(engine: Engine, reference: Reference) -> None:
    """Penalties, grammars, biases and log probabilities of some; the greedy answers of others are generate's own."""
    shaped = ask("the fox", model="other", temperature=1.3, seed=7, max_tokens=60, response_schema=SHAPE)
    biased = ask("a dog", model="default", temperature=0.8, seed=8, max_tokens=20, logit_bias={9: 3.0}, logprobs=4)
    alone = [(await answer(engine, request))[:2] for request in (shaped, biased)]
    greedy = [ask(f"the quick brown fox {number}", model=MODELS[number], max_tokens=24) for number in range(3)]
    answers = await asyncio.gather(*(answer(engine, request) for request in [shaped, *greedy, biased]))
    assert [tokens for tokens, _, _ in answers[1:4]] == [
        reference.tokens(request, request.model or "") for request in greedy
    ]
    assert [answers[0][:2], answers[4][:2]] == alone, "and a seed draws the same among others"
    assert set(json.loads(answers[0][1])) == {"legs", "kind"}
    assert answers[0][2].reason == "stop"


async def test_several_answers_to_several_prompts(engine: Engine) -> None:
    request = CompletionRequest(
        prompts=["the quick", [20, 21, 22]], n=2, model="other", temperature=1.1, seed=3, max_tokens=12, echo=True
    )
    stream = await engine.submit(request)
    texts, ends = ["", "", "", ""], dict[int, Finished]()
    async for event in stream:
        if isinstance(event, Finished):
            ends[event.choice] = event
        else:
            texts[event.choice] += event.text
    assert sorted(ends) == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert [ends[choice].prompt_tokens for choice in range(4)][2:] == [3, 3]
    assert stream.prompts[:2] == ("the quick", "the quick")
    one = CompletionRequest(prompts=[[20, 21, 22]], model="other", temperature=1.1, seed=3, max_tokens=12)
    assert (await answer(engine, one))[1] == texts[2], "a prompt's answers are the same as when it comes alone"
    assert engine.open_requests == 0


async def test_cancelling_ends_every_answer_of_a_request(engine: Engine) -> None:
    stream = await engine.submit(CompletionRequest(prompts=["the fox"] * 4, n=3, max_tokens=200))
    stream.cancel()
    reasons = [event.reason async for event in stream if isinstance(event, Finished)]
    assert len(reasons) == 12
    assert set(reasons) <= {"cancelled", "stop"}
    assert engine.open_requests == 0


async def test_stop_strings_end_the_answer_before_them(engine: Engine, reference: Reference) -> None:
    request = ask("the quick brown fox", model="tiny-base", max_tokens=40)
    whole = reference.text(reference.tokens(request, "tiny-base"))
    stop = whole[10:14]
    _, text, finished = await answer(engine, ask("the quick brown fox", model="tiny-base", max_tokens=40, stop=(stop,)))
    assert text == whole[: whole.index(stop)]
    assert finished.reason == "stop"
    assert finished.completion_tokens < 40


async def test_the_default_model_answers_when_none_is_named(engine: Engine) -> None:
    named = await answer(engine, ask("fox", model="default", max_tokens=8))
    assert (await answer(engine, ask("fox", max_tokens=8)))[0] == named[0]
    stream = await engine.submit(ask("fox", max_tokens=1))
    assert stream.model == "default"


async def test_default_and_largest_length(engine: Engine) -> None:
    _, _, finished = await answer(engine, ask("fox fox", model="tiny-base"))
    assert finished.completion_tokens <= LIMITS.default_new_tokens
    with pytest.raises(RequestRefused) as refused:
        await engine.submit(ask("fox", max_tokens=LIMITS.max_new_tokens + 1))
    assert refused.value.parameter == "max_tokens"


async def test_an_answer_ends_where_the_context_does(engine: Engine, reference: Reference) -> None:
    request = ask("fox " * 350, model="tiny-base", max_tokens=200, temperature=1.0, seed=3)
    tokens, _, finished = await answer(engine, request)
    assert finished.prompt_tokens > 350
    if finished.reason == "length":
        assert finished.prompt_tokens + len(tokens) == CONTEXT_TOKENS
    else:
        assert tokens[-1] == reference.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("request_", "parameter", "code"),
    [
        (ask("fox", model="nobody"), "model", "model_not_found"),
        (ask("fox " * 800), "messages", "context_length_exceeded"),
        (ChatRequest([{"role": "assistant", "content": "hi"}]), "messages", "invalid_messages"),
        (ask("fox \ud83d"), "messages", "invalid_messages"),
        (CompletionRequest([[3, 10**6]]), "prompt", "invalid_value"),
        (CompletionRequest(["fox \ud83d"]), "prompt", "invalid_value"),
        (CompletionRequest(["fox"] * 50), "n", "invalid_value"),
        (ask("fox", logit_bias={10**6: 1.0}), "logit_bias", "invalid_value"),
        (ask("fox", response_schema={"type": "strin"}), "response_format", "invalid_value"),
        (ask("fox", tools=[{"type": "function", "function": {"name": "f"}}]), "tools", "unsupported_parameter"),
    ],
)
async def test_a_bad_request_is_refused_and_leaves_nothing(
    engine: Engine, request_: GenerationRequest, parameter: str, code: str
) -> None:
    with pytest.raises(RequestRefused) as refused:
        await engine.submit(request_)
    assert (refused.value.parameter, refused.value.code) == (parameter, code)
    assert engine.open_requests == 0


async def test_cancel_frees_the_slot(engine: Engine) -> None:
    streams = [await engine.submit(ask("the " * 20, model="tiny-base", max_tokens=200)) for _ in range(12)]
    for stream in streams:
        stream.cancel()
    finished = [(await collect(stream))[2] for stream in streams]
    assert {event.reason for event in finished} <= {"cancelled", "stop"}
    assert engine.open_requests == 0
    streams[0].cancel()  # again, and after the end: nothing happens
    assert (await answer(engine, ask("fox", max_tokens=3)))[2].completion_tokens <= 3


async def test_a_full_queue_says_when_to_come_back(tiny_model: TinyModel) -> None:
    limits = Limits(max_prompt_tokens=200, default_new_tokens=24, max_new_tokens=300, max_concurrent=1, max_queue=2)
    small = make_engine(tiny_model, limits, adapters=())
    small.start()
    small.wait_until_loaded()
    streams = []
    with pytest.raises(EngineFull) as full:
        for _ in range(4):
            streams.append(await small.submit(ask("fox", max_tokens=300)))
    assert len(streams) == 3
    assert 1 <= full.value.retry_after_seconds <= 60
    for stream in streams:
        stream.cancel()
        await collect(stream)
    assert (await answer(small, ask("fox", max_tokens=2)))[2].reason in ("stop", "length")
    assert await small.drain(5)


async def test_before_and_after_it_serves(tiny_model: TinyModel) -> None:
    early = make_engine(tiny_model, adapters=())
    states = [early.state.status]
    with pytest.raises(EngineNotReady, match="not ready yet"):
        await early.submit(ask("fox"))
    early.start()
    early.wait_until_loaded()
    stream = await early.submit(ask("fox", max_tokens=20))
    drained = asyncio.create_task(early.drain(10))
    await asyncio.sleep(0)
    _, _, finished = await collect(stream)
    assert finished.reason in ("stop", "length"), "what runs is finished"
    assert await drained
    states.append(early.state.status)
    assert states == ["loading", "draining"]
    with pytest.raises(EngineNotReady, match="ending"):
        await early.submit(ask("fox"))
    assert not early.running


async def test_drain_cancels_what_outlives_the_grace(tiny_model: TinyModel) -> None:
    limits = Limits(max_prompt_tokens=100, default_new_tokens=24, max_new_tokens=400, max_concurrent=2, max_queue=4)
    short = make_engine(tiny_model, limits, adapters=())
    short.start()
    short.wait_until_loaded()
    streams = [await short.submit(ask("the quick", max_tokens=400)) for _ in range(5)]
    assert not await short.drain(0.0)
    reasons = [(await collect(stream))[2].reason for stream in streams]
    assert "cancelled" in reasons


async def test_a_model_that_cannot_be_loaded(tiny_model: TinyModel, tmp_path: Any) -> None:
    broken: list[bool] = []
    failing = make_engine(TinyModel(tmp_path), adapters=(), on_broken=broken.append)
    failing.start()
    failing.wait_until_loaded()
    while failing.running:
        await asyncio.sleep(0.01)
    state = failing.state
    assert state.status == "failed"
    assert "tiny-base: there is no such folder" in (state.error or "")
    with pytest.raises(EngineNotReady, match=r"the model cannot be served: .*there is no such folder"):
        await failing.submit(ask("fox"))
    assert broken == [], "a new start finds the same folder"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), Panic("at the disco")])
async def test_a_load_that_may_succeed_in_a_new_process(tiny_model: TinyModel, error: BaseException) -> None:
    broken: list[bool] = []

    def fail(loaded: Loaded) -> None:
        raise error

    failing = make_engine(tiny_model, adapters=(), then=fail, on_broken=broken.append)
    failing.start()
    while failing.running:
        await asyncio.sleep(0.01)
    assert (failing.state.status, failing.state.error) == ("failed", f"{type(error).__name__}: {error}")
    assert broken == [False]


async def test_a_step_that_fails_harms_only_its_requests(tiny_model: TinyModel) -> None:
    """An adapter that the model does not have, slipped past every check, fails inside the model, as often as asked."""
    broken: list[bool] = []
    harmed = make_engine(tiny_model, on_broken=broken.append)
    harmed.start()
    harmed.wait_until_loaded()
    loaded = harmed._loaded
    assert loaded is not None
    known = loaded.adapters["other"]
    loaded.adapters["other"] = "nobody"
    for _ in range(4):
        _, _, finished = await answer(harmed, ask("fox", model="other", max_tokens=20))
        assert (finished.reason, finished.error) == ("error", "the model failed to compute this answer")
    loaded.adapters["other"] = known
    assert harmed.open_requests == 0
    assert (await answer(harmed, ask("fox", model="other", max_tokens=4)))[2].reason in ("stop", "length")
    assert await harmed.drain(5)
    assert broken == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("a device assert"), "it computes nothing any more: RuntimeError: a device assert"),
        (Panic("at the disco"), "the engine stopped: Panic"),
    ],
)
async def test_a_model_that_computes_nothing_any_more(tiny_model: TinyModel, error: BaseException, told: str) -> None:
    """From one moment on every forward fails: what is open ends with an error, and whoever runs the engine hears it."""
    broken: list[bool] = []
    fails = False

    def fail_some_time(loaded: Loaded) -> None:
        def fail(*_: object) -> None:
            if fails:
                raise error

        batch: Any = loaded.batch
        batch.model.module.register_forward_pre_hook(fail)

    limits = Limits(max_prompt_tokens=100, default_new_tokens=24, max_new_tokens=300, max_concurrent=2, max_queue=9)
    failing = make_engine(tiny_model, limits, adapters=(), then=fail_some_time, on_broken=broken.append)
    failing.start()
    failing.wait_until_loaded()
    endless = {1: -100.0}
    streams = [await failing.submit(ask("fox", max_tokens=300, logit_bias=endless)) for _ in range(5)]
    fails = True
    assert [(await collect(stream))[2].reason for stream in streams] == ["error"] * 5
    while failing.running:
        await asyncio.sleep(0.01)
    assert (failing.state.status, failing.state.error) == ("failed", told)
    assert (broken, failing.open_requests) == ([True], 0)
    with pytest.raises(EngineNotReady, match="the model cannot be served"):
        await failing.submit(ask("fox"))


def test_the_ledger_of_the_start(engine: Engine) -> None:
    ledger = engine.state.ledger
    assert ledger["read_bytes"] > 100_000
    for name in ("read_seconds", "load_seconds", "warm_up_seconds", "ready_seconds"):
        assert ledger[name] >= 0
