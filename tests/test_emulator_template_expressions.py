"""The syntax of expressions, the reading of JSON texts, and the limits of both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.emulator.template import JsonError, TemplateError, read
from infra.emulator.template.context import Unevaluated
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Access, Call, Literal, is_expression, parse, to_text, unescape
from infra.emulator.template.json_text import path_text
from infra.emulator.template.values import culture_key, json_text, number_text, text_of
from tests.template_scope import Resources, document, lay_out, storage


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[x]", True),
        ("[[x]", False),
        ("[x", False),
        (" [x]", False),
        ("[]", True),
        ("", False),
    ],
)
def test_what_is_an_expression(text: str, expected: bool) -> None:
    assert is_expression(text) is expected


def test_an_escaped_bracket_loses_one_bracket_only_where_the_text_is_closed() -> None:
    assert unescape("[[x]") == "[x]"
    assert unescape("[[x") == "[[x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concat('a'", "expected token 'RightParenthesis' and actual 'EndOfData'"),
        ("", "expected token 'Identifier' and actual 'EndOfData'"),
        ("concat('a',)", "expected token 'Identifier' and actual 'RightParenthesis'"),
        ("f().1", "expected token 'Identifier' and actual 'Integer'"),
        ("f(#)", "the string character '#' at position '2' is not expected"),
        ("'open", "the string character ''' at position '0' is not expected"),
        ("2147483648", "not a 32-bit integer"),
        ("f() g()", "expected token 'EndOfData' and actual 'Identifier'"),
    ],
)
def test_errors_of_syntax_are_in_the_engines_words(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message.replace("(", r"\(")):
        parse(text)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
literals = st.one_of(st.text(max_size=8), st.integers(-(2**31), 2**31 - 1)).map(Literal)


def _deeper(nodes: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arguments = st.lists(nodes, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Call, names, arguments, st.one_of(st.none(), names)),
        st.builds(Access, st.builds(Call, names, arguments), nodes),
    )


@given(st.recursive(literals, _deeper, max_leaves=12))
def test_the_text_of_a_tree_reads_back_as_the_tree(tree: Any) -> None:
    assert parse(to_text(tree)) == tree


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


@given(values)
def test_any_value_can_stand_in_an_expression_as_text(value: Any) -> None:
    template = document(outputs={"o": {"type": "array", "value": f"[createArray({to_text(Literal(value))})]"}})
    assert lay_out(template).outputs(Resources())["o"]["value"] == [value]


@given(values)
def test_json_is_read_as_any_other_reader_reads_it(value: Any) -> None:
    assert read(json.dumps(value, indent=1))[0] == value
    assert read(json_text(value))[0] == value
    assert read(json_text(value, quote="'"))[0] == value


def test_what_is_not_evaluated_keeps_its_place_in_the_text_of_a_value() -> None:
    part = Unevaluated(Access(Call("reference", (Literal("x"),)), Literal("id")))
    assert to_text(Literal({"a": [part, 2**40, None, 1.5]})) == (
        "createObject('a', createArray(reference('x').id, json('1099511627776'), null(), json('1.5')))"
    )


def test_positions_are_those_of_the_resource_managers_errors() -> None:
    value, positions = read('{\n  // a comment\n  "a": {"b": [1, "two"]},\n\n  \'c\': null, d: true,\n}')
    assert value == {"a": {"b": [1, "two"]}, "c": None, "d": True}
    assert positions.find(()) == (1, 1)
    assert positions.find(("a",)) == (3, 8)
    assert positions.find(("a", "b")) == (3, 14)
    assert positions.find(("a", "b", 1)) == (3, 22)
    assert positions.find(("c",)) == (5, 11)
    assert positions.find(("a", "b", 7, "deeper")) == (3, 14), "the nearest place that is in the text"
    assert read("{}")[1].find(("x",)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ('{"a": }', "Unexpected character", (1, 6)),
        ('{\n"a" 1}', "Expected ':'", (2, 4)),
        ('{"a": 1', "unexpected character was encountered: the end of the text", (1, 7)),
        ('"a', "Unterminated string", (1, 2)),
        (r'"\x"', "Bad JSON escape sequence", (1, 3)),
        (r'"\u12"', "hexadecimal digits", (1, 3)),
        ("[1] 2", "Additional text", (1, 4)),
        ("", "Unexpected character", (1, 0)),
        ("[" * 200, "maximum depth", (1, 101)),
        ("{,}", "Invalid property identifier", (1, 1)),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(text: str, message: str, place: tuple[int, int]) -> None:
    with pytest.raises(JsonError, match=message) as caught:
        read(text)
    assert (caught.value.line, caught.value.column) == place


def test_surrogates_in_escapes_become_one_character() -> None:
    assert read(r'"\ud83d\ude00"')[0] == "😀"


def test_path_text() -> None:
    assert path_text(("properties", "template", "resources", 0, "tags", "a.b")) == (
        "properties.template.resources[0].tags['a.b']"
    )


def test_texts_of_numbers_and_values() -> None:
    assert [number_text(number) for number in (1000.0, 1.5, 1e20, 1e-7, 12)] == ["1000", "1.5", "1E+20", "1E-07", "12"]
    assert text_of({"a": [True, None, 1.0, "é\u2028\x01"]}) == '{"a":[true,null,1.0,"é\\u2028\\u0001"]}'
    assert text_of(None) == ""


def test_strings_sort_as_in_the_culture_en_us() -> None:
    words = ["b", "B", "a", "A", "ä", "1", "_", "-", "", "ab", "a b"]
    assert sorted(words, key=culture_key) == ["", "_", "-", "1", "a", "A", "ä", "a b", "ab", "b", "B"]


def _nested_calls(depth: int) -> str:
    return "string(" * depth + "'x'" + ")" * depth


def test_an_expression_may_be_nested_deeply_but_not_endlessly() -> None:
    outputs = {"o": {"type": "string", "value": f"[{_nested_calls(90)}]"}}
    assert lay_out(document(outputs=outputs)).outputs(Resources())["o"]["value"] == "x"
    with pytest.raises(ExpressionError, match="more than 100 levels deep"):
        parse(_nested_calls(2_000))
    with pytest.raises(ExpressionError, match="the limit is 24576 characters"):
        parse(f"string('{'x' * 25_000}')")


def test_variables_that_use_one_another_may_be_many_but_not_endless() -> None:
    def chain(length: int) -> dict[str, Any]:
        links = {f"v{number}": f"[variables('v{number + 1}')]" for number in range(length)}
        return document(
            variables={**links, f"v{length}": "end"}, outputs={"o": {"type": "string", "value": "[variables('v0')]"}}
        )

    assert lay_out(chain(60)).outputs(Resources())["o"]["value"] == "end"
    with pytest.raises(TemplateError, match="nested too deeply"):
        lay_out(chain(300))


def test_a_function_that_calls_itself_ends_in_an_error() -> None:
    functions = [{"namespace": "n", "members": {"f": {"output": {"type": "int", "value": "[n.f()]"}}}}]
    with pytest.raises(TemplateError, match="nested too deeply"):
        lay_out(document(functions=functions, variables={"v": "[n.f()]"}))


def test_a_body_that_is_nested_too_deeply_ends_in_an_error() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(TemplateError, match="nested too deeply"):
        lay_out(document(resources=[storage(properties=deep)]))
