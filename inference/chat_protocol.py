"""The bodies of POST /v1/chat/completions (https://platform.openai.com/docs/api-reference/chat). Knows no engine."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from protocol import GenerationBody, Strict, Text, TokenCount, Usage
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

MOST_TOOLS = 128
"""Functions that a request may describe, and calls that one message may have; as at OpenAI."""
MOST_MESSAGES = 2048


def _as_parts(content: object) -> object:
    if content is None:
        return None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return content
    raise PydanticCustomError("text_or_parts", "Input should be a string or a list of text parts")


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Only what other programs can read: no NaN, no half characters, no nesting that nobody can follow."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise PydanticCustomError("not_json", "Input should be plain JSON ({reason})", {"reason": reason}) from None
    return value


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of an earlier call, which are JSON text."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PydanticCustomError("not_an_object", "Input should be a JSON object as text")
    return _plain_json(value)


JsonObject = Annotated[dict[str, Any], AfterValidator(_plain_json)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


# Messages


class TextPart(Strict):
    """One part of a message; images, audio and files are not read."""

    type: Literal["text"]
    text: Text


_Parts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


class CalledFunction(Strict):
    """A function that the model called, and its arguments as JSON text."""

    name: FunctionName
    arguments: Annotated[Text, AfterValidator(lambda text: (_arguments(text), text)[1])]
    parsed_arguments: Any = None
    """The same once more, as the helpers of OpenAI's clients leave it in a message that they send back."""


class ToolCall(Strict):
    """One call that the model made."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None
    """Its number in the stream that it came in: left there by whatever put the stream together."""


class ChatMessage(Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_call_id: Annotated[Text | None, Field(validate_default=True)] = None
    name: Text | None = None
    """Only of a tool's message: the function's name."""
    content: Annotated[
        _Parts | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | _Parts | None),
        Field(validate_default=True),
    ] = None
    # An answer of this API or of OpenAI's may be sent back as it came, or as a client's helper has made it.
    parsed: Any = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @field_validator("tool_calls", "tool_call_id", "name", "content")
    @classmethod
    def _fits_role(cls, value: Any, info: ValidationInfo) -> Any:
        role = info.data.get("role")
        if info.field_name == "tool_calls":
            fits = not value or role == "assistant"
        elif info.field_name == "content":
            # Calls that are wrong themselves are not in the data, and have been told of.
            if value is None and not info.data.get("tool_calls", True) and role is not None:
                raise PydanticCustomError("missing", "Field required")
            fits = True
        elif info.field_name == "tool_call_id" and role == "tool" and value is None:
            raise PydanticCustomError("missing", "Field required")
        else:
            fits = value is None or role == "tool"
        if role is not None and not fits:
            raise PydanticCustomError("wrong_role", "Messages of the role {role} have none", {"role": role})
        return value

    def as_template_reads(self) -> dict[str, Any]:
        """Plain text, and arguments as an object; `developer` is OpenAI's newer word for what templates call
        `system`."""
        role = "system" if self.role == "developer" else self.role
        read: dict[str, Any] = {"role": role, "content": "".join(part.text for part in self.content or ())}
        if self.tool_calls:
            read["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
                }
                for call in self.tool_calls
            ]
        if self.role == "tool":
            read["tool_call_id"] = self.tool_call_id
            if self.name is not None:
                read["name"] = self.name
        return read


# What the answer is to be


class FunctionDefinition(Strict):
    """A function that the model may call. `strict` refuses a schema that cannot be held wholly."""

    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_of_objects(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type", "object") != "object":
            raise PydanticCustomError("not_of_objects", "Input should be a JSON schema of the type object")
        return value


class Tool(Strict):
    """A tool: functions are the only ones."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Strict):
    """The function that is to be called."""

    name: FunctionName


def _as_tool_choice(value: object) -> object:
    if value is None or isinstance(value, dict):
        return value
    if value in ("auto", "none", "required"):
        return {"type": value}
    raise PydanticKnownError("literal_error", {"expected": "'auto', 'none', 'required' or an object"})


class ToolChoice(Strict):
    """Whether the model calls functions: as it likes, never, at least one, or this one."""

    type: Literal["auto", "none", "required", "function"]
    function: Annotated[NamedFunction | None, Field(validate_default=True)] = None

    @field_validator("function")
    @classmethod
    def _belongs_to_type(cls, value: NamedFunction | None, info: ValidationInfo) -> NamedFunction | None:
        named = info.data.get("type") == "function"
        if named and value is None:
            raise PydanticCustomError("missing", "Field required")
        if not named and value is not None:
            raise PydanticCustomError("not_named", "Only the type function names one")
        return value


class SchemaFormat(Strict):
    """A named JSON schema. What cannot be held is refused, whether `strict` is given or not."""

    name: FunctionName
    description: Text | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """Text as the model writes it, any JSON object, or JSON that obeys a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[SchemaFormat | None, Field(validate_default=True)] = None

    @field_validator("json_schema")
    @classmethod
    def _belongs_to_type(cls, value: SchemaFormat | None, info: ValidationInfo) -> SchemaFormat | None:
        wanted = info.data.get("type") == "json_schema"
        if wanted and value is None:
            raise PydanticCustomError("missing", "Field required")
        if not wanted and value is not None:
            raise PydanticCustomError("not_wanted", "Only the type json_schema has one")
        return value

    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None when it may be any text."""
        if self.type == "text":
            return None
        return (self.json_schema.schema_ if self.json_schema else None) or {"type": "object"}


class ChatCompletionRequest(GenerationBody):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: Annotated[
        ToolChoice | None,
        BeforeValidator(
            _as_tool_choice, json_schema_input_type=Literal["auto", "none", "required"] | ToolChoice | None
        ),
    ] = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: JsonObject | None = None

    # Only the value that asks for nothing.
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none"] | None = None
    store: Literal[False] | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    service_tier: Literal["auto", "default"] | None = None
    web_search_options: None = None


# Answers


class TopLogprob(BaseModel):
    """A token that could have been chosen. `bytes` are its UTF-8, which may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """A token that was chosen, and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The log probabilities of an answer's tokens."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class AnswerFunction(BaseModel):
    """A function and its arguments: JSON text, cut short when the answer was."""

    name: str
    arguments: str


class AnswerCall(BaseModel):
    """One call of a function."""

    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[AnswerCall] | None = None


class Answer(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    """The body of a whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Answer]
    usage: Usage
