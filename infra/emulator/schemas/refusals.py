"""How each service says that a body does not fit its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.schemas.bodies import Problem, problems
from infra.emulator.schemas.library import load


def check(
    resource_type: str, api_version: str, body: dict[str, Any], *, partial: bool = False, preview: bool = False
) -> None:
    """Raises AzureError 400 for a body with wrong types, wrong values, unknown or missing properties.

    A read-only property is no fault. `partial`: a PATCH, in which nothing is required. `preview`: what cannot be known
    before a deployment stands there as the expression for it, which may stand for anything.
    """
    schema = load(resource_type, api_version)
    if schema is None:
        return
    of_storage = resource_type.lower().startswith("microsoft.storage/")
    # Recorded of Microsoft.App alone: counts that come as texts are accepted.
    texts_as_values = resource_type.lower().startswith("microsoft.app/")
    found = problems(schema, body, partial=partial, preview=preview, texts_as_values=texts_as_values)
    if found:
        raise _of_storage(found) if of_storage else _of_deserializer(found[0])


def _of_storage(found: Sequence[Problem]) -> AzureError:
    """Microsoft.Storage names what is wrong, all of it. How it words an unknown property is not known: as any other."""
    names = list(dict.fromkeys(problem.path.removeprefix("properties.") for problem in found))
    message = f"Values for request parameters are invalid: {', '.join(names)}."
    return AzureError(400, "InvalidValuesForRequestParameters", message)


def _of_deserializer(problem: Problem) -> AzureError:
    """The words of the deserialiser that the resource manager is known to use, which names the first fault.

    Neither how Microsoft.App nor how Microsoft.OperationalInsights words these refusals is known, that of an unknown
    property least of all.
    """
    if problem.kind == "unknown":
        reason = f"Could not find member '{problem.name}' on object of type '{problem.owner}'. Path '{problem.path}'."
    elif problem.kind == "missing":
        reason = f"Required property '{problem.name}' not found in JSON. Path '{problem.parent}'."
    else:
        reason = f"Error converting value {problem.value!r} to {problem.wanted}. Path '{problem.path}'."
    return AzureError(
        400,
        "InvalidRequestContent",
        f"The request content was invalid and could not be deserialized: '{reason}'.",
    )
