"""What the bodies of OpenAI's APIs have in common, as far as this server speaks them.

https://platform.openai.com/docs/api-reference. What is not served is either named with the one value that asks for
nothing, or refused by name: nothing is ignored. `top_k`, `min_p` and `repetition_penalty` are not OpenAI's; their names
are those of vLLM and transformers. Knows no engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

MOST_CHOICES = 128
MOST_BIASES = 1024
"""Tokens that `logit_bias` may name; as at OpenAI."""
MOST_MEMBERS = 64
"""Of one object of a request: more than any has that is declared here."""


def _whole_characters(text: str) -> str:
    """JSON can escape half a character (`"\\ud800"`); no tokenizer can read it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("half_character", "Input should be valid Unicode text") from None
    return text


def _as_list(value: object) -> object:
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, str):
        return [value]
    raise PydanticCustomError("text_or_list", "Input should be a string or a list of strings")


def _at_most(value: object, most: int) -> object:
    """An object with more members is refused before each of them is looked at.

    A body of two megabytes has room for 100,000 wrong ones, and pydantic would describe every one of them: that takes
    seconds in which the server does nothing else. For the same reason no list of a request is looked through after
    the first item that is wrong (`fail_fast`).
    """
    if isinstance(value, dict) and len(value) > most:
        raise PydanticKnownError(
            "too_long", {"field_type": "Dictionary", "max_length": most, "actual_length": len(value)}
        )
    return value


Text = Annotated[str, AfterValidator(_whole_characters)]
StopText = Annotated[str, Field(min_length=1), AfterValidator(_whole_characters)]
_StopTexts = Annotated[list[StopText], Field(max_length=4)]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
"""A token's number as the name of a JSON member."""
_Biases = Annotated[
    dict[TokenId, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MOST_BIASES),
    BeforeValidator(lambda value: _at_most(value, MOST_BIASES)),
]


class Strict(BaseModel):
    """A part of a request: members that are not declared are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_members(cls, value: object) -> object:
        return _at_most(value, MOST_MEMBERS)


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationBody(Strict):
    """The parameters that every kind of request has."""

    model: Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Annotated[
        _StopTexts | None,
        BeforeValidator(_as_list, json_schema_input_type=StopText | _StopTexts | None),
    ] = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    """-1 and 0: no limit."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: _Biases | None = None
    # Accepted as OpenAI does: they tell the caller's own users apart and change no answer.
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None

    def generation(self) -> dict[str, Any]:
        """What of this the engine is told, by its own names."""
        return {
            "model": self.model,
            "n": self.n or 1,
            "max_tokens": self.max_tokens,
            "stop": tuple(self.stop or ()),
            "seed": self.seed,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": max(0, self.top_k or 0),
            "min_p": self.min_p or 0.0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


NOT_SERVED = frozenset(
    {
        "functions",
        "function_call",
        "store",
        "metadata",
        "modalities",
        "audio",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "web_search_options",
        "refusal",
        "annotations",
        "include_obfuscation",
        "best_of",
        "suffix",
    }
)
"""Parameters that this server knows and takes only with the value that asks for nothing."""


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    """How many of the prompt's tokens were not computed again."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts of one request; each prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ModelEntry(BaseModel):
    """One model that a request may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The body of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


def invalid(message: str, parameter: str | None, code: str = "invalid_value") -> ErrorDetail:
    """An error that is the request's own."""
    return ErrorDetail(message=message, type="invalid_request_error", param=parameter, code=code)
