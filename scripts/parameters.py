"""Parameters files in ARM form, held against what the template says of its parameters.

Knows no environment and no environment.yaml: it is handed the files, the base first. No network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts import keys
from scripts.errors import Problem, did_you_mean
from scripts.template import Parameter, Template


def merged(
    base: Path, own: Path, root: Path, template: Template | None, problems: list[Problem]
) -> dict[str, Mapping[str, Any]]:
    """The entries of both files, own over base; what is wrong with them is added to problems.

    template is None when it could not be read; then only the form of the files is checked.
    """
    result: dict[str, Mapping[str, Any]] = {}
    for file in (base, own):
        shown = file.relative_to(root).as_posix()
        entries = _read(file, shown, problems)
        if template is not None:
            for name, entry in entries.items():
                problems += _entry_problems(name, entry, template.parameters, shown)
        result |= entries
    if template is not None:
        problems += [
            Problem(
                own.relative_to(root).as_posix(),
                f"parameters.{parameter.name}",
                None,
                "the template has no default for this parameter, and it is given no value",
                f'Add it: "{parameter.name}": {{"value": ...}}',
            )
            for parameter in template.parameters.values()
            # Secure ones come from the process environment, never from a file.
            if parameter.required and not parameter.secure and _is_default(result.get(parameter.name, {}))
        ]
    return result


def _is_default(entry: Mapping[str, Any]) -> bool:
    return "reference" not in entry and entry.get("value") is None


def _read(file: Path, shown: str, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """The entries of an ARM parameters file that have the right form; the others are noted."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        names = [name for name, _ in pairs]
        twice.extend(name for name in result if names.count(name) > 1)
        return result

    def no_number(word: str) -> None:
        raise ValueError(f"{word} is not a JSON value")

    try:
        document = json.loads(file.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=no_number)
    except FileNotFoundError:
        problems.append(Problem(shown, "", None, "the file is missing", 'Write at least: {"parameters": {}}'))
        return {}
    except UnicodeDecodeError as error:
        problems.append(Problem(shown, f"byte {error.start}", None, "it is not UTF-8 text", "Save it as UTF-8"))
        return {}
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        problems.append(Problem(shown, place, None, f"it is not JSON: {error.msg}", "Correct the line"))
        return {}
    except (ValueError, RecursionError) as error:  # A number that is none, or brackets without end.
        problems.append(Problem(shown, "", None, f"it is not JSON: {error}", "Correct the file"))
        return {}
    except OSError as error:
        problems.append(Problem(shown, "", None, f"it cannot be read: {error.strerror}", "Make it a readable file"))
        return {}
    problems += [Problem(shown, key, None, "the key stands here twice", "Remove one of the two") for key in twice]
    parameters = document.get("parameters") if isinstance(document, dict) else None
    if not isinstance(parameters, dict):
        problems.append(
            Problem(shown, "parameters", None, "the object `parameters` is missing", 'Write: {"parameters": {...}}')
        )
        return {}
    known = ("$schema", "contentVersion", "parameters")
    problems += [
        Problem(shown, key, None, f"unknown key{did_you_mean(key, known)}", f"The keys here are: {', '.join(known)}")
        for key in document
        if key not in known
    ]
    entries = {}
    for name, entry in parameters.items():
        if isinstance(entry, dict) and list(entry) in (["value"], ["reference"]):
            entries[name] = entry
        else:
            problems.append(
                Problem(
                    shown,
                    f"parameters.{name}",
                    None,
                    'must be an object with exactly one key, "value" or "reference"',
                    f'Write: "{name}": {{"value": ...}}',
                )
            )
    return entries


def _entry_problems(
    name: str, entry: Mapping[str, Any], declared: Mapping[str, Parameter], shown: str
) -> list[Problem]:
    where = f"parameters.{name}"
    if name not in declared:
        message = f"the template has no such parameter{did_you_mean(name, declared)}"
        return [Problem(shown, where, None, message, f"The template has: {', '.join(declared)}")]
    parameter = declared[name]
    if "reference" in entry:
        return _reference_problems(entry["reference"], f"{where}.reference", shown)
    value = entry["value"]
    if value is None:
        return []
    if parameter.secure:
        return [
            Problem(
                shown,
                where,
                None,  # Never the value: it may be a real secret.
                "a secret must not stand in a committed file",
                "Remove it, renew the secret if it was real, and use a Key Vault reference or the process environment",
            )
        ]
    wrong = value_message(value, parameter)
    if wrong is not None:
        return [Problem(shown, f"{where}.value", json.dumps(value), wrong, _step(parameter))]
    return _key_limits_problems(value, parameter, declared, shown) if name == keys.LIMITS else []


def _key_limits_problems(
    given: Mapping[str, Any], parameter: Parameter, declared: Mapping[str, Parameter], shown: str
) -> list[Problem]:
    """What is wrong with the limits of keys by name, an object of objects: the template takes any."""
    where, problems = f"parameters.{parameter.name}.value", []
    limits = {limit: declared[every] for limit, every in keys.LIMITS_OF_EVERY_KEY.items() if every in declared}
    for name, entry in given.items():
        if not keys.is_name(name):
            step = "Write a key's name: up to 64 letters, digits, dots, hyphens and underscores"
            problems.append(Problem(shown, where, json.dumps(name), "no key can have this name", step))
        if not isinstance(entry, dict) or not entry:
            message = f"must be an object with {' or '.join(limits)} or both"
            problems.append(Problem(shown, f"{where}.{name}", json.dumps(entry), message, _step(parameter)))
            continue
        for limit, number in entry.items():
            place = f"{where}.{name}.{limit}"
            if limit not in limits:
                message = f"there is no such limit{did_you_mean(limit, limits)}"
                problems.append(Problem(shown, place, None, message, f"The limits are: {', '.join(limits)}"))
            elif wrong := value_message(number, limits[limit]):
                problems.append(Problem(shown, place, json.dumps(number), wrong, _step(limits[limit])))
    return problems


def _step(parameter: Parameter) -> str:
    return parameter.description.splitlines()[0] if parameter.description else "Correct it"


def _reference_problems(reference: Any, where: str, shown: str) -> list[Problem]:
    vault = reference.get("keyVault") if isinstance(reference, dict) else None
    if (
        isinstance(vault, dict)
        and list(vault) == ["id"]
        and isinstance(vault["id"], str)
        and isinstance(reference.get("secretName"), str)
        and set(reference) <= {"keyVault", "secretName", "secretVersion"}
    ):
        return []
    return [
        Problem(
            shown,
            where,
            None,
            "it is not a Key Vault reference",
            'Write: {"keyVault": {"id": "/subscriptions/..."}, "secretName": "..."}',
        )
    ]


def value_message(value: Any, parameter: Parameter) -> str | None:
    """What is wrong with a parameter's value, or None."""
    kinds = {"string": str, "int": int, "bool": bool, "array": list, "object": dict}
    kind = kinds.get(parameter.type)
    # In Python a bool is an int; in ARM it is not.
    if kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        return f"must be of type {parameter.type}"
    if parameter.allowed:
        for item in value if isinstance(value, list) else [value]:
            if item not in parameter.allowed:
                meant = did_you_mean(str(item), [str(choice) for choice in parameter.allowed])
                return f"must be one of {json.dumps(list(parameter.allowed))}{meant}"
    measure = value if isinstance(value, int) else len(value) if isinstance(value, (str, list)) else None
    unit = "" if isinstance(value, int) else " characters" if isinstance(value, str) else " items"
    if measure is not None and parameter.minimum is not None and measure < parameter.minimum:
        return f"must be at least {parameter.minimum}{unit}"
    if measure is not None and parameter.maximum is not None and measure > parameter.maximum:
        return f"must be at most {parameter.maximum}{unit}"
    return None
