"""Tokens -> text: whole characters, and stop strings that are never shown in part."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text import AnswerStream, ArgumentRefused, PromptRefused, PromptRenderer, TextStream
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.fixtures_inference import make_tokenizer

alphabet = st.text(st.sampled_from("ab the fox é日🙂\n"), max_size=60)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def pieces(tokenizer: Any, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = AnswerStream(tokenizer, stop)
    shown = []
    for token in tokenizer(text)["input_ids"]:
        shown.append(stream.push(token)[0])
        if stream.stopped:
            break
    shown.append(stream.finish()[0])
    return shown, stream.stopped


@settings(max_examples=60, deadline=None)
@given(text=alphabet)
def test_the_pieces_are_the_text(tokenizer: Any, text: str) -> None:
    shown, stopped = pieces(tokenizer, text)
    assert "".join(shown) == text
    assert not stopped
    assert all("\ufffd" not in piece for piece in shown), "a character is shown whole or not yet"


@settings(max_examples=150, deadline=None)
@given(text=alphabet, stop=st.lists(st.text(st.sampled_from("ab the foxé日"), min_size=1, max_size=4), max_size=3))
def test_stop_strings(tokenizer: Any, text: str, stop: list[str]) -> None:
    shown, stopped = pieces(tokenizer, text, tuple(stop))
    ends = [text.index(word) for word in stop if word in text]
    assert stopped == bool(ends)
    together = "".join(shown)
    if not ends:
        assert together == text
    else:
        # Tokens arrive in pieces: a stop string that is complete first ends the text, although another began before.
        assert text.startswith(together)
        assert not any(word in together for word in stop)
        assert any(text.startswith(word, len(together)) for word in stop)


def test_text_is_shown_as_early_as_possible(tokenizer: Any) -> None:
    stream = AnswerStream(tokenizer, ("fox!",))
    tokens = tokenizer("the fox jumps")["input_ids"]
    seen = ""
    for token in tokens:
        seen += stream.push(token)[0]
        whole = tokenizer.decode(tokens[: tokens.index(token) + 1])
        held = whole[len(seen) :]
        assert "fox!".startswith(held) or held in ("", " "), "only what may begin a stop string is held back"
    assert seen + stream.finish()[0] == "the fox jumps"


def test_an_unfinished_character_at_the_end(tokenizer: Any) -> None:
    stream = TextStream(tokenizer)
    first_bytes = tokenizer("🙂é")["input_ids"][:1]
    shown = stream.push(first_bytes[0])
    assert shown + stream.finish() == tokenizer.decode(first_bytes)


def test_special_tokens_are_not_text(tokenizer: Any) -> None:
    stream = TextStream(tokenizer)
    shown = "".join(stream.push(token) for token in tokenizer("<|user|>fox<|pad|>")["input_ids"])
    assert shown + stream.finish() == "fox"


def test_messages_become_the_template_s_prompt(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "fox?"}]
    tokens = PromptRenderer(tokenizer).render(messages)
    assert tokenizer.decode(tokens) == "<|system|>be brief<|end|><|user|>fox?<|end|><|assistant|>"
    assert tokens == tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


def test_messages_that_the_template_refuses(tokenizer: Any) -> None:
    with pytest.raises(PromptRefused, match="refuses these messages: the assistant cannot begin"):
        PromptRenderer(tokenizer).render([{"role": "assistant", "content": "x"}])


def test_a_request_sets_what_the_template_reads_and_nothing_else() -> None:
    thinking = make_tokenizer()
    thinking.chat_template += "{% if enable_thinking is defined and not enable_thinking %}done thinking{% endif %}"
    renderer = PromptRenderer(thinking)
    messages = [{"role": "user", "content": "fox?"}]
    told = renderer.render(messages, arguments={"enable_thinking": False})
    assert thinking.decode(told) == thinking.decode(renderer.render(messages)) + "done thinking"
    for name in ("thinking_budget", "messages", "add_generation_prompt", "tokenize", "pad_token", "", "a|b", "think"):
        with pytest.raises(ArgumentRefused, match=re.escape(f"`{name}`")):
            renderer.render(messages, arguments={name: True})


def test_a_model_without_a_template() -> None:
    bare = make_tokenizer()
    bare.chat_template = None
    with pytest.raises(PromptRefused, match="has no chat template"):
        PromptRenderer(bare).render([{"role": "user", "content": "x"}])


def test_half_a_character_is_refused(tokenizer: Any) -> None:
    renderer = PromptRenderer(tokenizer)
    with pytest.raises(PromptRefused, match=r"half a character, U\+D83D"):
        renderer.render([{"role": "user", "content": "fox \ud83d"}])
    with pytest.raises(PromptRefused, match=r"half a character, U\+DE42"):
        renderer.encode("\ude42")


def byte_fallback_tokenizer() -> Any:
    """As Llama 2's: characters that have no token of their own are written as the tokens of their bytes."""
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "b": 3} | {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a", "<0xC3>", "<0xA9>", "b"], "aéb"),
        (["<0xC3>", "<0xA9>", "<0xFF>", "a", "b"], "é\ufffdab"),
        (["a", "<0xFF>", "<0xFE>", "a", "b", "<0xC3>"], "a\ufffd\ufffdab\ufffd"),
    ],
)
def test_bytes_that_are_no_text_end_no_answer(words: list[str], text: str) -> None:
    tokenizer = byte_fallback_tokenizer()
    stream = TextStream(tokenizer)
    shown = "".join(stream.push(token) for token in tokenizer.convert_tokens_to_ids(words)) + stream.finish()
    assert shown.replace("\ufffd", "") == text.replace("\ufffd", "")
    assert ("\ufffd" in shown) == ("\ufffd" in text)
