"""The error tree: what a person reads, and the exit code a script sees."""

from __future__ import annotations

import pytest

from scripts import errors


def test_a_message_ends_with_the_next_step() -> None:
    error = errors.InferopsError("The share is full.", "Raise its quota.", details=["used 5 GiB of 5 GiB"])
    assert str(error).splitlines() == ["The share is full.", "  used 5 GiB of 5 GiB", "Next: Raise its quota."]


def test_bad_input_lists_every_problem_with_its_place_and_value() -> None:
    problems = [
        errors.Problem("environments/dev/environment.yaml", "line 3, cloud", "'azur'", "no such cloud", "Use azure."),
        errors.Problem(None, "", None, "no environment was named", "Name one."),
    ]
    lines = str(errors.BadInput(problems)).splitlines()
    assert lines[0].startswith("2 problems")
    assert lines[1] == ("  environments/dev/environment.yaml: line 3, cloud: no such cloud (found 'azur'). Use azure.")
    assert lines[2] == "  no environment was named. Name one."


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.InferopsError("a", "b"), 1),
        (errors.NotSignedIn("a", "b", code="AADSTS700213"), 1),
        (errors.DeploymentFailed("a", "b"), 1),
        (errors.BadInput([errors.Problem(None, "", None, "a", "b")]), 2),
        (errors.ProofFailed("a", "b"), 4),
    ],
)
def test_exit_codes(error: errors.InferopsError, exit_code: int) -> None:
    assert error.exit_code == exit_code


def test_cloud_errors_keep_the_services_own_words() -> None:
    error = errors.Forbidden("No right to read the group.", "Ask for Reader.", code="AuthorizationFailed", status=403)
    assert isinstance(error, errors.CloudError)
    assert (error.code, error.status) == ("AuthorizationFailed", 403)
