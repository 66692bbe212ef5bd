"""The bodies of OpenAI's chat completions API, as far as this server speaks it.

https://platform.openai.com/docs/api-reference/chat. What is not served is either named here with the one value that
asks for nothing (`n` 1, no tools), or refused by name: nothing is ignored. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _whole_characters(text: str) -> str:
    """JSON can escape half a character (`"\\ud800"`); no tokenizer can read it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("half_character", "Input should be valid Unicode text") from None
    return text


def _as_parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return content
    raise PydanticCustomError("text_or_parts", "Input should be a string or a list of text parts")


def _as_list(value: object) -> object:
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, str):
        return [value]
    raise PydanticCustomError("text_or_list", "Input should be a string or a list of strings")


Zero = Annotated[float, Field(ge=0, le=0)]
Text = Annotated[str, AfterValidator(_whole_characters)]
StopText = Annotated[Text, Field(min_length=1)]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """One part of a message; images, audio and files are not read."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[TextPart], Field(min_length=1), BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart])
    ]
    # An answer of this API or of OpenAI's may be sent back as it came.
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def as_template_reads(self) -> dict[str, str]:
        """Role and plain text; `developer` is OpenAI's newer word for what chat templates call `system`."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(part.text for part in self.content)}


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class PlainText(_Strict):
    """The only response format: text as the model writes it."""

    type: Literal["text"]


class ChatCompletionRequest(_Strict):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[
        Annotated[list[StopText], Field(max_length=4)] | None,
        BeforeValidator(_as_list, json_schema_input_type=str | list[str] | None),
    ] = None
    user: Text | None = None
    """Accepted as OpenAI does: it identifies the caller's user and changes no answer."""

    # Only the value that asks for nothing.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    response_format: PlainText | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none"] | None = None
    store: Literal[False] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    service_tier: Literal["auto", "default"] | None = None
    web_search_options: None = None


ONLY_NEUTRAL = frozenset(
    {
        "n",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
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
        "tool_calls",
        "include_obfuscation",
    }
)
"""Parameters that this server knows and does not serve."""


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Usage(BaseModel):
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Answer(BaseModel):
    """One of the (here: one) answers."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The body of a whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Answer]
    usage: Usage


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


def first_problem(errors: Sequence[dict[str, Any]]) -> ErrorDetail:
    """What pydantic found, as one error in OpenAI's words: the parameter, its problem, how many others there are."""
    error = errors[0]
    names = [part for part in error["loc"] if part != "body"]
    parameter = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names).lstrip(".")
    kind = error["type"]
    if kind == "json_invalid":
        return ErrorDetail(message="The body is not valid JSON.", type="invalid_request_error", code="invalid_json")
    if kind == "extra_forbidden":
        message, code = f"Unrecognized request argument supplied: {parameter}.", "unknown_parameter"
    elif kind == "missing":
        subject = f"you must provide `{parameter}`" if parameter else "the body must be a JSON object"
        message, code = f"Missing required parameter: {subject}.", "missing_required_parameter"
    elif any(name in ONLY_NEUTRAL for name in names):
        message, code = f"`{parameter}` is not supported by this server with this value.", "unsupported_parameter"
    else:
        message, code = f"Invalid value for `{parameter or 'body'}`: {error['msg']}.", "invalid_value"
    if len(errors) > 1:
        message += f" ({len(errors) - 1} more problems)"
    return ErrorDetail(message=message, type="invalid_request_error", param=parameter or None, code=code)
