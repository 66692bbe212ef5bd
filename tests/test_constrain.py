"""Grammars over the real tokenizer: what a mask lets through, and where in a schema something is wrong."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from constrain import Constraint, GrammarRefused, Vocabulary

from tests.call_templates import HERMES, make_calling_tokenizer

END = 1


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = make_calling_tokenizer(HERMES)
    # Padding and truncation are somebody else's business, and change nothing.
    tokenizer.backend_tokenizer.enable_padding(length=50)
    tokenizer.backend_tokenizer.enable_truncation(3)
    return Vocabulary(tokenizer, len(tokenizer) + 9, [END, 0])


def allowed(constraint: Constraint, vocabulary: Vocabulary) -> list[int]:
    """The tokens that the mask lets through."""
    bits = np.unpackbits(constraint.mask(), bitorder="little")
    tokens = np.flatnonzero(bits).tolist()
    assert constraint.ended or all(constraint.allows(token) for token in tokens[:: max(1, len(tokens) // 5)])
    return [int(token) for token in tokens]


def written(constraint: Constraint, vocabulary: Vocabulary, numbers: random.Random) -> str:
    """A text of tokens that the grammar allows, drawn at random, to its end."""
    text = b""
    for step in range(400):
        tokens = [token for token in allowed(constraint, vocabulary) if token not in (END, 0)]
        if constraint.ended or (step > 60 and constraint.allows(END)):
            return text.decode()
        # The longest tokens, mostly: they cut across the grammar's own parts.
        token = max(numbers.sample(tokens, min(3, len(tokens))), key=lambda each: len(vocabulary.bytes_of(each)))
        if any(vocabulary.bytes_of(each) == b'"' for each in tokens) and numbers.random() < 0.3:
            token = next(each for each in tokens if vocabulary.bytes_of(each) == b'"')
        constraint.accept(token)
        assert constraint.error is None
        text += vocabulary.bytes_of(token)
    raise AssertionError(text)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["fox", "dog", 3, None]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "home": {"$ref": "#/$defs/place"},
        "either": {"oneOf": [{"const": "a"}, {"type": "boolean"}]},
    },
    "required": ["name", "kind", "legs", "home", "either"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,3}$"}},
            "required": ["code"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_masks_let_through_obeys_the_schema(vocabulary: Vocabulary, seed: int) -> None:
    text = written(vocabulary.json_constraint(SCHEMA), vocabulary, random.Random(seed))
    jsonschema.validate(json.loads(text), SCHEMA)


def test_copies_go_their_own_ways(vocabulary: Vocabulary) -> None:
    first = vocabulary.json_constraint({"enum": [1, 2]})
    second = first.copy()
    for token in allowed(first, vocabulary):
        if vocabulary.bytes_of(token) == b"1":
            first.accept(token)
    assert first.ended
    assert not second.ended
    assert sorted(allowed(first, vocabulary)) == [0, END]
    assert END not in allowed(second, vocabulary)


def test_tokens_beyond_the_tokenizer_s_are_never_allowed(vocabulary: Vocabulary) -> None:
    size = len(make_calling_tokenizer(HERMES))
    assert max(allowed(vocabulary.constraint("start: /(.|\\n)*/"), vocabulary)) < size


def test_blanks_do_not_go_on_for_ever(vocabulary: Vocabulary) -> None:
    constraint = vocabulary.json_constraint({"type": "object"})
    blanks = [token for token in allowed(constraint, vocabulary) if vocabulary.bytes_of(token).isspace()]
    steps = 0
    while any(constraint.allows(token) for token in blanks):
        constraint.accept(next(token for token in blanks if constraint.allows(token)))
        steps += 1
        assert steps < 30


@pytest.mark.parametrize(
    ("schema", "place", "reason"),
    [
        ({"type": "strin"}, "", "Invalid type: strin"),
        ({"properties": {"a": {"items": {"type": "strin"}}}}, "/properties/a/items", "Invalid type: strin"),
        ({"properties": {"a/b": {"anyOf": [{}, {"not": {}}]}}}, "/properties/a~1b/anyOf/1", "Unimplemented keys"),
        ({"$defs": {"x": {"not": {}}}, "items": {"$ref": "#/$defs/x"}}, "/items", "Unimplemented keys"),
        ({"properties": {"a": 5}}, "/properties/a", "must be an object or boolean"),
        ({"properties": {"a": {"pattern": "("}}}, "/properties/a", "regex parse error: error: unclosed group"),
        ({"$ref": "https://example.com/schema"}, "", "not present in a registry"),
        ({"$ref": "#"}, "", "no text fulfils it"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "", "Unsatisfiable"),
        ({"x": float("nan")}, "", "not JSON compliant"),
        ({"enum": ["x" * 200_001]}, "", "at most 200000 can be held"),
        ({"properties": {f"p{n}": {} for n in range(300)} | {"last": {"not": {}}}}, "", "Unimplemented keys"),
    ],
)
def test_where_a_schema_is_wrong(vocabulary: Vocabulary, schema: Any, place: str, reason: str) -> None:
    with pytest.raises(GrammarRefused, match=reason) as refused:
        vocabulary.json_constraint(schema)
    assert refused.value.place == place


def test_what_is_not_strict_is_left_to_the_model(vocabulary: Vocabulary) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    vocabulary.check_schema(schema, strict=False)
    with pytest.raises(GrammarRefused, match="uniqueItems"):
        vocabulary.check_schema(schema, strict=True)


def test_the_bytes_of_tokens(vocabulary: Vocabulary) -> None:
    tokenizer = make_calling_tokenizer(HERMES)
    tokens = tokenizer("the 日本 🙂 fox")["input_ids"]
    assert b"".join(vocabulary.bytes_of(token) for token in tokens).decode() == "the 日本 🙂 fox"
