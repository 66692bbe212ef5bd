"""The bodies of POST /v1/completions (https://platform.openai.com/docs/api-reference/completions). Knows no engine."""

from __future__ import annotations

from typing import Annotated, Literal

from protocol import GenerationBody, Text, Usage
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

MOST_PROMPTS = 2048

Token = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _as_prompts(prompt: object) -> object:
    """A text or a list of token ids is one prompt."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not all(isinstance(each, str | list) for each in prompt):
        raise PydanticCustomError("no_prompt", "Input should be text, token ids, or a list of one of them")
    return [{"text": each} if isinstance(each, str) else {"tokens": each} for each in prompt]


_Tokens = Annotated[list[Token], Field(min_length=1)]
_Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
_TokenLists = Annotated[list[_Tokens], Field(min_length=1, max_length=MOST_PROMPTS)]


class Prompt(BaseModel):
    """One prompt: its text or its tokens."""

    text: Text | None = None
    tokens: Annotated[list[Annotated[Token, Field(strict=True)]], Field(min_length=1)] | None = None

    def as_engine_reads(self) -> str | list[int]:
        """The one that is given."""
        return self.tokens if self.tokens is not None else self.text or ""


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        list[Prompt],
        Field(min_length=1, max_length=MOST_PROMPTS),
        BeforeValidator(_as_prompts, json_schema_input_type=str | _Texts | _Tokens | _TokenLists),
    ]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    # Only the value that asks for nothing.
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


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
