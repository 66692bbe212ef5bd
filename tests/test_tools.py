"""Tool calls in the form of each family: found out from the template, held by the grammar, read back in any pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from constrain import Constraint, Vocabulary, json_options
from hypothesis import given, settings
from hypothesis import strategies as st
from text import AnswerStream, PromptRenderer, TextStream
from tools import ArgumentsPiece, CallBegins, CallPiece, CallReader, CallsUnknown, CallSyntax, Function

from tests.call_templates import HERMES, NAME_LAST, TEMPLATES, make_calling_tokenizer
from tests.fixtures_inference import CHAT_TEMPLATE

END = 1
QUESTION = {"role": "user", "content": "the fox?"}
FUNCTIONS: list[dict[str, Any]] = [
    {
        "name": "find",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
    {"name": "count-2", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]


class Family:
    """One template with its tokenizer, and what was found out about it."""

    def __init__(self, template: str) -> None:
        self.tokenizer = make_calling_tokenizer(template)
        self.renderer = PromptRenderer(self.tokenizer, [END])
        self.vocabulary = Vocabulary(self.tokenizer, len(self.tokenizer) + 3, [END])

    def answer(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[int]:
        """The tokens that the template writes for an answer of these calls."""
        syntax = self.renderer.call_syntax()
        made = [
            {
                "id": f"abcdefgh{number}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": json.dumps(given, ensure_ascii=False) if syntax.arguments_as_text else given,
                },
            }
            for number, (name, given) in enumerate(calls)
        ]
        message = {"role": "assistant", "content": "", "tool_calls": made}
        text = self.tokenizer.apply_chat_template([QUESTION, message], tools=TOOLS, tokenize=False)
        before, _, after = text.rpartition("the fox?<|end|>")
        assert before
        tokens = self.tokenizer(after.removeprefix("<|assistant|>"), add_special_tokens=False)["input_ids"]
        return self.without_blanks(tokens)

    def without_blanks(self, tokens: list[int]) -> list[int]:
        """Blanks before an answer's mark are the template's, not the model's."""
        while self.tokenizer.decode(tokens[:1]).isspace():
            tokens = tokens[1:]
        return tokens

    def constraint(self, **arguments: Any) -> Constraint:
        options = {"required": False, "several": True, "text_schema": None} | arguments
        functions = [
            Function(each["name"], {**each["parameters"], "x-guidance": json_options(strict=True)})
            for each in FUNCTIONS
        ]
        grammar = self.renderer.call_syntax().grammar(
            functions, spell=self.vocabulary.spell, words=self.vocabulary.words(), **options
        )
        return self.vocabulary.constraint(grammar)


_FAMILIES: dict[str, Family] = {}


@pytest.fixture(params=sorted(TEMPLATES))
def family(request: pytest.FixtureRequest) -> Family:
    return _FAMILIES.setdefault(request.param, Family(TEMPLATES[request.param]))


def obeys(constraint: Constraint, tokens: Sequence[int]) -> bool:
    """Whether the grammar takes all of these tokens; it is at their end then."""
    for token in tokens:
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    assert constraint.error is None
    return True


def read(syntax: CallSyntax, pieces: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls (name, arguments) of an answer that comes in these pieces."""
    reader = CallReader(syntax)
    text, calls = "", list[tuple[str, str]]()
    for piece in pieces:
        for found in reader.push(piece):
            if isinstance(found, CallBegins):
                assert found.number == len(calls)
                calls.append((found.name, ""))
            elif isinstance(found, ArgumentsPiece):
                calls[found.number] = (calls[found.number][0], calls[found.number][1] + found.text)
            else:
                assert not calls, "text comes before calls"
                text += found
    assert reader.calls == len(calls)
    return text + reader.finish(), calls


# The form


@pytest.mark.parametrize(
    ("name", "mark", "opening", "middle", "between", "closing"),
    [
        (
            "hermes",
            "<tool_call>",
            '<tool_call>\n{"name": "',
            '", "arguments": ',
            '}\n</tool_call>\n<tool_call>\n{"name": "',
            "}\n</tool_call>",
        ),
        ("llama", "", '{"name": "', '", "parameters": ', None, "}"),
        (
            "mistral",
            "[TOOL_CALLS]",
            '[TOOL_CALLS] [{"name": "',
            '", "arguments": ',
            ', "id": "probeId01"}, {"name": "',
            ', "id": "probeId01"}]',
        ),
        ("mistral-args", "[TOOL_CALLS]", "[TOOL_CALLS]", "[ARGS]", "[TOOL_CALLS]", ""),
        (
            "fenced",
            "[TOOL_CALLS]",
            "[TOOL_CALLS]function ",
            "\n```json\n",
            "\n```\nfunction ",
            "\n```[/TOOL_CALLS]",
        ),
    ],
)
def test_the_template_tells_the_form(
    name: str, mark: str, opening: str, middle: str, between: str | None, closing: str
) -> None:
    found = Family(TEMPLATES[name]).renderer.call_syntax()
    assert (found.mark, found.opening, found.middle) == (mark, opening, middle)
    assert (found.between, found.closing) == (between, closing)
    assert found.arguments_as_text == (name == "fenced")
    assert found.renders_results


def test_a_name_after_the_arguments_is_written_before_them() -> None:
    found = PromptRenderer(make_calling_tokenizer(NAME_LAST), [END]).call_syntax()
    assert (found.opening, found.middle) == ('<tool_call>\n{"name": "', '", "arguments": ')
    assert (found.between, found.closing) == ('}\n</tool_call><tool_call>\n{"name": "', "}\n</tool_call>")
    assert found.renders_results


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHAT_TEMPLATE, "does not tell the model about tools"),
        (HERMES.replace("<tool_call>", "' + raise_exception('no calls') + '"), "refuses tool calls: no calls"),
        (
            HERMES.replace("{{ call.function.arguments | tojson }}", "{{ call.function.arguments | length }}"),
            "does not write a call as a name and then arguments in JSON",
        ),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}", "refuses tools: no tools"),
    ],
)
def test_a_template_that_cannot_say_calls(template: str, reason: str) -> None:
    renderer = PromptRenderer(make_calling_tokenizer(template), [END])
    for _ in range(2):
        with pytest.raises(CallsUnknown, match=reason):
            renderer.call_syntax()


def test_thoughts_that_a_template_leaves_empty_are_no_part_of_a_call() -> None:
    thinking = HERMES.replace("<|assistant|>{{ message", "<|assistant|><think>\n\n</think>\n\n{{ message")
    found = PromptRenderer(make_calling_tokenizer(thinking), [END]).call_syntax()
    assert found.opening == '<tool_call>\n{"name": "'


# Grammar and reader, against what the template itself writes

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("find", {"word": 'a "fox" {in} a \\ [box]\n'}),
    ("count-2", {"n": -7}),
    ("find", {"word": "日本 🙂"}),
]


WRONG_CALLS: list[tuple[str, dict[str, Any]]] = [("find", {"n": 1}), ("count-2", {"n": "one"}), ("unknown", {})]


def test_calls_as_the_template_writes_them_are_taken_and_read(family: Family) -> None:
    syntax = family.renderer.call_syntax()
    several = syntax.between is not None
    for calls in ([CALLS[0]], [CALLS[1]], CALLS if several else [CALLS[2]]):
        tokens = family.answer(calls)
        assert tokens[-1] == END
        for required in (True, False):
            constraint = family.constraint(required=required)
            assert obeys(constraint, tokens[:-1])
            assert constraint.ended or constraint.allows(END)
        stream = TextStream(family.tokenizer, skip_special_tokens=False)
        pieces = [stream.push(token) for token in tokens[:-1]]
        text, found = read(syntax, [*pieces, stream.finish()])
        assert text == ""
        assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def test_what_the_grammar_does_not_let_through(family: Family) -> None:
    good = family.answer([CALLS[0]])
    text = family.tokenizer("the lazy dog", add_special_tokens=False)["input_ids"]
    assert obeys(family.constraint(), text), "text is an answer too"
    assert family.constraint().allows(END)
    assert not obeys(family.constraint(required=True), text)
    assert not family.constraint(required=True).allows(END), "no answer is none of the calls"
    for wrong in WRONG_CALLS:
        tokens = family.answer([wrong])
        assert not obeys(family.constraint(required=True), tokens), wrong
        if family.renderer.call_syntax().mark:
            assert not obeys(family.constraint(), [*text, *tokens]), "after the mark of a call comes a call"
    if family.renderer.call_syntax().between is not None:
        assert not obeys(family.constraint(required=True, several=False), family.answer(CALLS[:2]))
    assert obeys(family.constraint(required=True, several=False), good[:-1])


def test_thinking_is_text() -> None:
    family = Family(HERMES)
    tokens = family.tokenizer("<think>the fox</think>\nthe dog", add_special_tokens=False)["input_ids"]
    assert family.vocabulary.spell("a<think>b") == ["a", tokens[0], "b"], "the grammar takes it for a mark"
    assert obeys(family.constraint(), tokens)
    assert obeys(family.constraint(), [*tokens, *family.answer([CALLS[0]])[:-1]])


def test_calls_may_follow_text(family: Family) -> None:
    syntax = family.renderer.call_syntax()
    if not syntax.mark:
        pytest.skip("in this form a call begins its answer")
    text = family.tokenizer("let me see", add_special_tokens=False)["input_ids"]
    tokens = [*text, *family.answer([CALLS[1]])[:-1]]
    assert obeys(family.constraint(), tokens)
    stream = TextStream(family.tokenizer, skip_special_tokens=False)
    pieces = [stream.push(token) for token in tokens]
    assert read(syntax, [*pieces, stream.finish()]) == ("let me see", [("count-2", '{"n": -7}')])


def test_an_answer_of_a_schema_or_of_calls() -> None:
    family = Family(HERMES)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for text, taken in (('{"a": 5}', True), ("5", False), ("the fox", False)):
        tokens = family.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert obeys(family.constraint(text_schema=schema), tokens) == taken
    assert obeys(family.constraint(text_schema=schema), family.answer([CALLS[0]])[:-1])


arguments = st.dictionaries(
    st.text(max_size=4),
    st.one_of(st.text(max_size=8), st.integers(), st.lists(st.text(max_size=3), max_size=2)),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["hermes", "llama", "mistral", "fenced"])
def test_any_pieces_read_the_same(name: str, data: st.DataObject) -> None:
    syntax = _FAMILIES.setdefault(name, Family(TEMPLATES[name])).renderer.call_syntax()
    several = syntax.between is not None
    calls = data.draw(
        st.lists(st.tuples(st.sampled_from(["find", "count-2"]), arguments), max_size=3 if several else 1)
    )
    before = data.draw(st.text(st.sampled_from('the fox<tol_ca>[] \n{"'), max_size=20)) if syntax.mark else ""
    written = ""
    for number, (function, given_) in enumerate(calls):
        written += (syntax.between or "") if number else syntax.opening
        written += function + syntax.middle + json.dumps(given_)
    whole = before + (written + syntax.closing if calls else "")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    text, found = read(syntax, pieces)
    assert text == (before.rstrip() if calls else before)
    assert [(function, json.loads(given_)) for function, given_ in found] == calls


ENDS = st.lists(
    st.one_of(
        st.text(st.sampled_from('the fox\n{"}'), min_size=1, max_size=4),
        st.sampled_from(["<tool_call>", "[TOOL_CALLS]", "\n", "find", "word", "arguments"]),
    ),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(before=st.text(st.sampled_from('the fox<tol_ca>[] \n{"'), max_size=20), stop=ENDS, data=st.data())
@pytest.mark.parametrize("name", ["hermes", "llama", "mistral", "fenced"])
def test_stop_strings_end_the_text_and_leave_calls_alone(
    name: str, before: str, stop: list[str], data: st.DataObject
) -> None:
    family = _FAMILIES.setdefault(name, Family(TEMPLATES[name]))
    syntax = family.renderer.call_syntax()
    calls = [CALLS[0]] if data.draw(st.booleans()) or syntax.between is None else CALLS
    written = family.answer(calls)[:-1]
    before = before if syntax.mark else ""
    shown = AnswerStream(family.tokenizer, stop, syntax)
    text, told = "", list[CallPiece]()
    for token in [*family.tokenizer(before, add_special_tokens=False)["input_ids"], *written]:
        more, pieces = shown.push(token)
        assert not (more and told), "text comes before calls"
        text, told = text + more, [*told, *pieces]
        if shown.stopped:
            break
    more, pieces = shown.finish()
    text, told = text + more, [*told, *pieces]
    found = [(piece.name, "") for piece in told if isinstance(piece, CallBegins)]
    for piece in told:
        if isinstance(piece, ArgumentsPiece):
            found[piece.number] = (found[piece.number][0], found[piece.number][1] + piece.text)
    whole = before.rstrip()
    assert shown.stopped == any(word in whole for word in stop)
    assert shown.called == bool(found)
    if shown.stopped:
        assert found == []
        assert not any(word in text for word in stop)
        assert any(whole.startswith(text + word) for word in stop)
    else:
        assert text == whole
        assert [(function, json.loads(given_)) for function, given_ in found] == calls


def test_an_answer_that_is_cut_short() -> None:
    syntax = Family(HERMES).renderer.call_syntax()
    whole = 'ok\n<tool_call>\n{"name": "find", "arguments": {"word": "fo'
    assert read(syntax, [whole]) == ("ok", [("find", '{"word": "fo')])
    assert read(syntax, [whole[:25]]) == ("ok", [])
    assert read(syntax, ["ok <tool"]) == ("ok <tool", []), "the beginning of a mark is text when nothing follows"
