"""The bodies of POST /v1/completions (https://platform.openai.com/docs/api-reference/completions). Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from protocol import GenerationBody, Text, Usage
from pydantic import BaseModel, Discriminator, Field, Tag

MOST_PROMPTS = 2048

Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]
_Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
_TokenLists = Annotated[list[_Tokens], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]


def _form(prompt: object) -> str | None:
    """Which of the forms of a prompt this is meant to be, by its first item."""
    if not isinstance(prompt, list) or not prompt:
        # A list of nothing has one form as well as another.
        return "text" if isinstance(prompt, str) else "texts" if prompt == [] else None
    return {str: "texts", int: "tokens", bool: "tokens", list: "token lists"}.get(type(prompt[0]))


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[_Texts, Tag("texts")]
        | Annotated[_Tokens, Tag("tokens")]
        | Annotated[_TokenLists, Tag("token lists")],
        Discriminator(_form, custom_error_type="text_or_tokens", custom_error_message="Input should be a prompt"),
    ]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    # Only the value that asks for nothing.
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None

    def prompts(self) -> Sequence[str | list[int]]:
        """All of them; a text or a list of token ids is one."""
        given: Any = self.prompt
        several: Sequence[str | list[int]] = given if type(given) is list and type(given[0]) is not int else [given]
        return several


class CompletionLogprobs(BaseModel):
    """The log probabilities of an answer's tokens; `text_offset` is where each begins in the text, in characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the answers: `n` of the first prompt, then `n` of the second."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """The body of a whole answer, and of one piece of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
