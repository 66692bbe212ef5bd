"""What the bodies of OpenAI's APIs have in common, as far as this server speaks them.

https://platform.openai.com/docs/api-reference. What is not served is either named with the one value that asks for
nothing, or refused by name: nothing is ignored. `top_k`, `min_p` and `repetition_penalty` are not OpenAI's; their names
are those of vLLM and transformers. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MOST_CHOICES = 128


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


Text = Annotated[str, AfterValidator(_whole_characters)]
StopText = Annotated[str, Field(min_length=1), AfterValidator(_whole_characters)]
_StopTexts = Annotated[list[StopText], Field(max_length=4)]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
"""A token's number as the name of a JSON member."""


class Strict(BaseModel):
    """A part of a request: members that are not declared are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


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
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
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


def first_problem(errors: Sequence[dict[str, Any]]) -> ErrorDetail:
    """What pydantic found, as one error in OpenAI's words: the parameter, its problem, how many others there are."""
    error = errors[0]
    names = [part for part in error["loc"] if part not in ("body", "[key]")]
    if names[:1] == ["prompt"]:
        # A prompt is one of several forms, and their names are this server's own.
        names = ["prompt", *(part for part in names if isinstance(part, int))]
    parameter = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names).lstrip(".")
    kind = error["type"]
    if kind == "json_invalid":
        return ErrorDetail(message="The body is not valid JSON.", type="invalid_request_error", code="invalid_json")
    if kind == "extra_forbidden":
        message, code = f"Unrecognized request argument supplied: {parameter}.", "unknown_parameter"
    elif kind == "missing":
        subject = f"you must provide `{parameter}`" if parameter else "the body must be a JSON object"
        message, code = f"Missing required parameter: {subject}.", "missing_required_parameter"
    elif kind == "model_attributes_type" and not parameter:
        message, code = "The body must be a JSON object, sent with content-type: application/json.", "invalid_body"
    elif any(name in NOT_SERVED for name in names):
        message, code = f"`{parameter}` is not supported by this server with this value.", "unsupported_parameter"
    else:
        message, code = f"Invalid value for `{parameter or 'body'}`: {error['msg']}.", "invalid_value"
    if len(errors) > 1:
        message += f" ({len(errors) - 1} more {'problem' if len(errors) == 2 else 'problems'})"
    return invalid(message, parameter or None, code)
