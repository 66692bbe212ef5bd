"""The services' error bodies, as recorded or reported, become errors that name the thing and the next step."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts import errors, service_errors


def body(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ExpiredAuthenticationToken", 401, errors.NotSignedIn),
        ("AuthorizationFailed", 403, errors.Forbidden),
        ("RequestDisallowedByPolicy", 403, errors.Forbidden),
        ("AuthorizationPermissionMismatch", 403, errors.Forbidden),
        ("StorageAccountAlreadyTaken", 409, errors.NameTaken),
        ("MaxNumberOfGlobalEnvironmentsInSubExceeded", 400, errors.QuotaExceeded),
        ("MaxNumberOfSomethingNewExceeded", 400, errors.QuotaExceeded),
        ("SubscriptionGpuQuotaReached", 400, errors.QuotaExceeded),
        ("ManagedEnvironmentNoAvailableCapacityInRegion", 400, errors.RegionUnsuitable),
        ("WorkloadProfileInvalidType", 400, errors.RegionUnsuitable),
        ("LocationNotAvailableForResourceGroup", 400, errors.RegionUnsuitable),
        ("MissingSubscriptionRegistration", 409, errors.NotRegistered),
        ("ContainerAppOperationInProgress", 409, errors.Busy),
        ("DeploymentActive", 409, errors.Busy),
        ("SubscriptionRequestsThrottled", 429, errors.Throttled),
        ("TooManyRequests", 429, errors.Throttled),
        ("InvalidTemplate", 400, errors.Invalid),
        ("ResourceNotFound", 404, errors.NotFound),
        ("InternalServerError", 500, errors.ServiceFault),
        ("SomethingElse", 400, errors.Invalid),
        ("SomethingElse", None, errors.CloudError),
    ],
)
def test_codes_and_their_kinds(code: str, status: int | None, kind: type[errors.CloudError]) -> None:
    error = service_errors.from_body("provisioning dev", body(code, "The reason."), status)
    assert type(error) is kind
    assert (error.code, error.status) == (code, status)
    assert error.message == f"Provisioning dev failed: {code}: The reason."
    assert error.next_step.endswith((".", "REGION", "NAMESPACE", "ENVIRONMENT"))


def test_a_denied_action_names_identity_action_and_scope() -> None:
    message = (
        "The client '10c0a1de' with object id '77' does not have authorization to perform action "
        "'Microsoft.App/containerApps/write' over scope '/subscriptions/1/resourceGroups/g' or the scope is invalid. "
        "If access was recently granted, please refresh your credentials."
    )
    error = service_errors.from_body("provisioning dev", body("AuthorizationFailed", message), 403)
    assert isinstance(error, errors.Forbidden)
    assert error.message == "Provisioning dev failed: the identity lacks the permission"
    assert error.details == (
        "identity: 10c0a1de (object id 77)",
        "action: Microsoft.App/containerApps/write",
        "scope: /subscriptions/1/resourceGroups/g",
    )


def test_the_innermost_causes_of_a_failed_deployment_are_found_also_in_text() -> None:
    taken = body("StorageAccountAlreadyTaken", "The storage account named x is already taken.")
    failed = body(
        "DeploymentFailed",
        "At least one resource deployment operation failed.",
        details=[
            {"code": "Conflict", "message": json.dumps(taken, indent=2)},
            {
                "code": "ResourceDeploymentFailure",
                "message": "The resource write operation failed.",
                "details": [{"code": "WorkloadProfileNotFound", "message": "No profile GPU.", "target": "app"}],
            },
        ],
    )
    assert service_errors.causes(failed) == [
        service_errors.Cause("StorageAccountAlreadyTaken", "The storage account named x is already taken.", None),
        service_errors.Cause("WorkloadProfileNotFound", "No profile GPU.", "app"),
    ]
    error = service_errors.from_body("provisioning dev", failed, None)
    assert isinstance(error, errors.NameTaken)
    assert error.details == ("WorkloadProfileNotFound [app]: No profile GPU.",)


def test_a_body_without_the_member_error_is_read_too() -> None:
    found = service_errors.causes({"code": "ContainerAppOperationError", "message": "Failed to provision revision."})
    assert found == [service_errors.Cause("ContainerAppOperationError", "Failed to provision revision.", None)]


@pytest.mark.parametrize("answer", [None, "", "<html>", [], {}, {"error": "x"}, {"error": {"details": []}}])
def test_a_body_that_says_nothing_leaves_the_status(answer: Any) -> None:
    assert service_errors.causes(answer) == []
    error = service_errors.from_body("reading x", answer, 502)
    assert isinstance(error, errors.ServiceFault)
    assert error.message == "Reading x failed: HTTP status 502"


def test_nesting_without_end_ends() -> None:
    nested: dict[str, Any] = {"code": "DeploymentFailed", "message": "m"}
    nested["details"] = [nested]
    assert len(service_errors.causes(nested)) <= 1


@pytest.mark.parametrize(
    ("message", "code", "step"),
    [
        (
            "AADSTS700213: No matching federated identity record found for presented assertion subject "
            "'repo:o/r:ref:refs/heads/main'. Trace ID: 1",
            "AADSTS700213",
            "federated credential",
        ),
        ("AADSTS7002138: The subject differs in case.", "AADSTS7002138", "federated credential"),
        ("AADSTS70021: No matching federated identity record found.", "AADSTS70021", "federated credential"),
        ("AADSTS700024: Client assertion is not within its valid time range.", "AADSTS700024", "run the job again"),
        ("AADSTS7000215: Invalid client secret provided.", "AADSTS7000215", "AZURE_CLIENT_SECRET"),
        ("Please run 'az login' to set up an account", None, "az login"),
        ("", None, "az login"),
        ("", None, "id-token: write"),
    ],
)
def test_signing_in(message: str, code: str | None, step: str) -> None:
    error = service_errors.from_sign_in("previewing dev", message)
    assert isinstance(error, errors.NotSignedIn)
    assert error.code == code
    assert step in error.next_step
    assert message.split("\n")[0] in error.message
