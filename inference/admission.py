"""Requests -> rows that can be computed: all that is asked is checked against the model before anything is queued.

Works in the callers' threads. Knows the model's tokenizer and measures; computes nothing of the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from constrain import Constraint, GrammarRefused, Vocabulary, json_options, without_lookaround
from generation import ChatRequest, CompletionRequest, EngineLimits, GenerationRequest, RequestRefused
from rows import Row
from sampling import Choice
from text import ArgumentRefused, PromptRefused, PromptRenderer
from tools import CallsUnknown, CallSyntax, Function

if TYPE_CHECKING:
    from model import Loaded

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class Answer:
    """One answer that is to be computed."""

    row: Row
    limit: int
    """The most tokens of it."""
    prompt: str
    """The prompt's text, when the request wants it repeated."""


@dataclass(frozen=True)
class Admitted:
    """A request that can be computed: its answers, `n` of each prompt."""

    answers: tuple[Answer, ...]
    calls: CallSyntax | None
    constrained_by: str | None
    """The parameter whose grammar the answers obey."""


class Admission:
    """What one loaded model takes."""

    def __init__(self, loaded: Loaded, limits: EngineLimits) -> None:
        self._loaded, self._limits = loaded, limits
        self._renderer = PromptRenderer(loaded.tokenizer, loaded.end_tokens)
        self.vocabulary = Vocabulary(loaded.tokenizer, loaded.vocabulary, loaded.end_tokens)

    def admit(self, request: GenerationRequest, model: str) -> Admitted:
        """Check a request to the model of this name and prepare its answers. Raises RequestRefused."""
        asked = self._answer_limit(request)
        self._check_bias(request)
        if request.logprobs is not None:
            self._check_logprobs()
        calls, constraint, constrained_by = None, None, None
        if isinstance(request, ChatRequest):
            calls = self._calls(request)
            prompts, parameter = [self._render(request)], "messages"
            constraint, constrained_by = self._constraint(request, calls)
        elif isinstance(request, CompletionRequest):
            prompts, parameter = [self._tokens(prompt) for prompt in request.prompts], "prompt"
        else:
            raise TypeError(f"{type(request).__name__} has no prompt")
        echo = isinstance(request, CompletionRequest) and request.echo
        answers = []
        for tokens in prompts:
            self._check_prompt(tokens, parameter)
            text = self._renderer.decode(tokens) if echo else ""
            # An answer also ends, with the reason "length", where the model's positions do.
            limit = min(asked, self._loaded.batch.context_tokens - len(tokens))
            for number in range(request.n):
                choice = _choice(request, tokens, number, constraint)
                row = Row(tokens=list(tokens), choice=choice, adapter=self._loaded.adapters[model])
                answers.append(Answer(row, limit, text))
        return Admitted(tuple(answers), calls, constrained_by)

    # The prompt

    def _render(self, request: ChatRequest) -> list[int]:
        tools = () if request.tool_choice == "none" else request.tools
        try:
            return self._renderer.render(self._messages(request), tools, request.template_arguments)
        except ArgumentRefused as error:
            said = f"The model's chat template has no variable `{error.name}` for a request to set."
            raise RequestRefused(said, f"chat_template_kwargs.{error.name}", "unsupported_parameter") from None
        except PromptRefused as error:
            raise RequestRefused(str(error), "messages", "invalid_messages") from None

    def _messages(self, request: ChatRequest) -> list[Mapping[str, Any]]:
        """The messages as the template reads them: earlier calls and their results only where it writes such."""
        history = [message for message in request.messages if "tool_calls" in message or message["role"] == "tool"]
        if not history:
            return list(request.messages)
        try:
            calls = self._renderer.call_syntax()
        except CallsUnknown as error:
            raise RequestRefused(f"Tool calls in `messages` are not supported: {error}.", "messages") from None
        if not calls.renders_results and any(message["role"] == "tool" for message in history):
            raise RequestRefused("The model's chat template writes no messages of the role `tool`.", "messages")
        messages = _with_names(request.messages)
        return [_with_arguments_as_text(message) for message in messages] if calls.arguments_as_text else messages

    def _tokens(self, prompt: str | Sequence[int]) -> list[int]:
        try:
            return self._renderer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        except PromptRefused as error:
            raise RequestRefused(str(error), "prompt") from None

    def _check_prompt(self, tokens: Sequence[int], parameter: str) -> None:
        longest = min(self._limits.max_prompt_tokens, self._loaded.batch.context_tokens - 1)
        if not tokens:
            raise RequestRefused("The prompt is empty.", parameter)
        if len(tokens) > longest:
            # OpenAI's own words: by them clients' libraries know what to shorten.
            raise RequestRefused(
                f"Input tokens exceed the configured limit of {longest} tokens: the prompt has {len(tokens)}.",
                parameter,
                "context_length_exceeded",
            )
        beyond = next((token for token in tokens if not 0 <= token < self._loaded.vocabulary), None)
        if beyond is not None:
            raise RequestRefused(
                f"There is no token {beyond}: the model has {self._loaded.vocabulary}, counted from 0.", parameter
            )

    # The answer

    def _answer_limit(self, request: GenerationRequest) -> int:
        asked = self._limits.default_new_tokens if request.max_tokens is None else request.max_tokens
        if asked > self._limits.max_new_tokens:
            raise RequestRefused(
                f"An answer may have {self._limits.max_new_tokens} tokens here; {asked} were asked for.", "max_tokens"
            )
        return asked

    def _check_bias(self, request: GenerationRequest) -> None:
        beyond = next((token for token in request.logit_bias if not 0 <= token < self._loaded.vocabulary), None)
        if beyond is not None:
            raise RequestRefused(
                f"There is no token {beyond}: the model has {self._loaded.vocabulary}, counted from 0.", "logit_bias"
            )

    def _check_logprobs(self) -> None:
        try:
            self.vocabulary.bytes_of(0)
        except GrammarRefused as error:
            raise RequestRefused(f"{error}.", "logprobs", "unsupported_parameter") from None

    # Tools and schemas

    def _calls(self, request: ChatRequest) -> CallSyntax | None:
        if not request.tools or request.tool_choice == "none":
            return None
        try:
            return self._renderer.call_syntax()
        except CallsUnknown as error:
            raise RequestRefused(f"`tools` are not supported: {error}.", "tools", "unsupported_parameter") from None

    def _constraint(self, request: ChatRequest, calls: CallSyntax | None) -> tuple[Constraint | None, str | None]:
        try:
            if calls is None:
                if request.response_schema is None:
                    return None, None
                return self.vocabulary.json_constraint(request.response_schema), "response_format"
            return self._call_constraint(request, calls), "tools"
        except GrammarRefused as error:
            parameter = "response_format" if calls is None else "tools"
            schema = f" at {error.place}" if error.place else ""
            raise RequestRefused(f"The JSON schema cannot be held{schema}: {error}.", parameter) from None

    def _call_constraint(self, request: ChatRequest, calls: CallSyntax) -> Constraint:
        tools = {number: tool["function"] for number, tool in enumerate(request.tools)}
        if request.function is not None:
            tools = {number: tool for number, tool in tools.items() if tool["name"] == request.function}
        if request.response_schema is not None and not calls.mark:
            raise RequestRefused(
                "`response_format` and `tools` together are not supported: this model's tool calls look like JSON.",
                "response_format",
                "unsupported_parameter",
            )
        functions = [
            Function(tool["name"], {**_arguments(tool), "x-guidance": json_options(strict=_strict(tool))})
            for tool in tools.values()
        ]
        text_schema = None
        if request.response_schema is not None:
            text_schema = {**request.response_schema, "x-guidance": json_options(strict=True)}
        try:
            grammar = calls.grammar(
                functions,
                required=request.tool_choice == "required",
                several=request.parallel_tool_calls and request.function is None,
                text_schema=text_schema,
                spell=self.vocabulary.spell,
                words=self.vocabulary.words(),
            )
            return self.vocabulary.constraint(grammar)
        except GrammarRefused as error:
            self._find_wrong_schema(request, tools)
            raise RequestRefused(f"The JSON schemas cannot be held together: {error}.", "tools") from None

    def _find_wrong_schema(self, request: ChatRequest, tools: dict[int, Any]) -> None:
        for number, tool in tools.items():
            self._check_schema(_arguments(tool), _strict(tool), f"tools[{number}].function.parameters")
        if request.response_schema is not None:
            self._check_schema(request.response_schema, True, "response_format")

    def _check_schema(self, schema: Any, strict: bool, parameter: str) -> None:
        try:
            self.vocabulary.check_schema(schema, strict=strict)
        except GrammarRefused as error:
            place = f" at {error.place}" if error.place else ""
            raise RequestRefused(f"The JSON schema cannot be held{place}: {error}.", parameter) from None


def _choice(request: GenerationRequest, prompt: Sequence[int], number: int, constraint: Constraint | None) -> Choice:
    return Choice(
        temperature=request.temperature,
        top_p=request.top_p,
        # Each of several answers draws numbers of its own.
        seed=None if request.seed is None else f"{request.seed}/{number}",
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        bias=request.logit_bias,
        prompt=prompt,
        constraint=None if constraint is None else constraint.copy(),
        logprobs=request.logprobs,
    )


def _arguments(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments, which are an object always, as far as it has to be held."""
    schema = tool.get("parameters")
    if schema is None:
        return NO_ARGUMENTS
    return {"type": "object", **(schema if _strict(tool) else without_lookaround(schema))}


def _strict(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("strict"))


def _with_names(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A tool's message with the name of the function that was called: OpenAI's clients give the call's id alone, and
    some templates want the name."""
    names: dict[str, str] = {}
    named = []
    for message in messages:
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and "name" not in message and message["tool_call_id"] in names:
            message = {**message, "name": names[message["tool_call_id"]]}
        named.append(message)
    return named


def _with_arguments_as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}
