"""What an Azure service answers when it refuses -> the project's CloudError with the next step.

Pure: knows the services' error codes and the forms of their error bodies, no SDK and no network. The codes are those of
learn.microsoft.com, "Resolve common Azure deployment errors", of the Container Apps issue tracker (ACA#n below is
github.com/microsoft/azure-container-apps/issues/n), and of the REST references of Azure Files and Microsoft Entra.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scripts import errors
from scripts.errors import CloudError

DEEPEST_NESTING = 10


@dataclass(frozen=True)
class Cause:
    """One error as a service words it; target is what it is about, where the service says so."""

    code: str
    message: str
    target: str | None

    def __str__(self) -> str:
        about = f" [{self.target}]" if self.target else ""
        return f"{self.code}{about}: {self.message}" if self.code else f"{self.message}{about}"


@dataclass(frozen=True)
class Meaning:
    """What a code means for the person: which error it is, and what to do."""

    kind: type[CloudError]
    next_step: str


WAIT = "Wait until it has ended and run the same command again."
SIGN_IN = (
    "Sign in again (az login), or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET to an identity of the "
    "subscription's tenant. A job of GitHub Actions needs the permission id-token: write, which pull requests of forks "
    "and of Dependabot do not get."
)
GRANT = (
    "Give the identity a role with that action on that scope: Contributor on the resource group to provision and to "
    "deploy; for what-if Reader and the action Microsoft.Resources/deployments/whatIf/action (docs/azure.md)."
)
FILE_ROLE = (
    "Give the identity the role Storage File Data Privileged Contributor on the storage account, or one that may list "
    "the account's keys, such as Contributor."
)
FEDERATION = (
    "Open the identity's federated credentials and make one with exactly the issuer, subject and audience of the "
    "message (case matters; a credential made minutes ago may still be spreading: try again)."
)
RAISE_QUOTA = "Ask for a higher quota (Azure portal, Quotas), delete what is not needed, or use another region."
OTHER_REGION = (
    "Choose a region and a workload profile that go together (parameters location and workloadProfileType): "
    "az containerapp env workload-profile list-supported --location REGION"
)
OTHER_NAME = "Choose another name in the environment's inference.parameters.json; it must be unique in all of Azure."
CORRECT_TEMPLATE = "Correct the value it names in the parameters file or the template, and run what-if again."

MEANINGS: dict[str, Meaning] = {
    # Signing in
    "ExpiredAuthenticationToken": Meaning(errors.NotSignedIn, SIGN_IN),
    "InvalidAuthenticationToken": Meaning(errors.NotSignedIn, SIGN_IN),
    "InvalidAuthenticationTokenTenant": Meaning(errors.NotSignedIn, SIGN_IN),
    "AuthenticationFailed": Meaning(errors.NotSignedIn, SIGN_IN),
    "InvalidAuthenticationInfo": Meaning(errors.NotSignedIn, SIGN_IN),
    "NoAuthenticationInformation": Meaning(errors.NotSignedIn, SIGN_IN),
    # Permissions
    "AuthorizationFailed": Meaning(errors.Forbidden, GRANT),
    "LinkedAuthorizationFailed": Meaning(errors.Forbidden, GRANT),
    "AuthorizationFailure": Meaning(errors.Forbidden, FILE_ROLE),
    "AuthorizationPermissionMismatch": Meaning(errors.Forbidden, FILE_ROLE),
    "InsufficientAccountPermissions": Meaning(errors.Forbidden, FILE_ROLE),
    "KeyBasedAuthenticationNotPermitted": Meaning(
        errors.Forbidden,
        "Allow shared key access on the storage account: a container app can mount the share in no other way.",
    ),
    "RequestDisallowedByPolicy": Meaning(
        errors.Forbidden, "Change what the policy named in the message forbids, or ask its owner for an exemption."
    ),
    # Names
    "StorageAccountAlreadyTaken": Meaning(errors.NameTaken, OTHER_NAME),
    "StorageAccountAlreadyExists": Meaning(errors.NameTaken, OTHER_NAME),
    "StorageAccountInAnotherResourceGroup": Meaning(errors.NameTaken, OTHER_NAME),
    # Quota
    "MaxNumberOfGlobalEnvironmentsInSubExceeded": Meaning(errors.QuotaExceeded, RAISE_QUOTA),
    "MaxNumberOfRegionalEnvironmentsInSubExceeded": Meaning(errors.QuotaExceeded, RAISE_QUOTA),
    "DeploymentQuotaExceeded": Meaning(
        errors.QuotaExceeded,
        "A resource group keeps at most 800 deployments: delete old ones (az deployment group delete) and try again.",
    ),
    # Regions and workload profiles
    "ManagedEnvironmentNoAvailableCapacityInRegion": Meaning(
        errors.RegionUnsuitable, "Try again later, or use another region (parameter location)."
    ),
    "WorkloadProfileInvalidType": Meaning(errors.RegionUnsuitable, OTHER_REGION),
    "WorkloadProfileNotFound": Meaning(errors.RegionUnsuitable, OTHER_REGION),
    "LocationNotAvailableForResourceType": Meaning(errors.RegionUnsuitable, OTHER_REGION),
    "LocationNotAvailableForResourceGroup": Meaning(errors.RegionUnsuitable, OTHER_REGION),
    # Resource providers
    "MissingSubscriptionRegistration": Meaning(
        errors.NotRegistered,
        "Register the one in the message, once per subscription: az provider register --wait --namespace NAMESPACE",
    ),
    # Other operations
    "DeploymentActive": Meaning(errors.Busy, WAIT),
    "ManagedEnvironmentOperationInProgress": Meaning(errors.Busy, WAIT),
    "ContainerAppOperationInProgress": Meaning(errors.Busy, WAIT),
    "ContainerAppLockConflict": Meaning(errors.Busy, WAIT),
    "ResourceGroupBeingDeleted": Meaning(errors.Busy, WAIT),
    "LeaseAlreadyPresent": Meaning(errors.Busy, WAIT),
    # Requests
    "SubscriptionRequestsThrottled": Meaning(errors.Throttled, "Wait a minute and run the same command again."),
    "ServerBusy": Meaning(errors.Throttled, "Wait a minute and run the same command again."),
    "InvalidTemplate": Meaning(errors.Invalid, CORRECT_TEMPLATE),
    "InvalidTemplateDeployment": Meaning(errors.Invalid, CORRECT_TEMPLATE),
    "ContainerAppOperationError": Meaning(
        errors.DeploymentFailed,
        "Look at what the replica said (inferops logs), correct the image or the command, and provision again.",
    ),
}

BY_STATUS: dict[int, Meaning] = {
    400: Meaning(errors.Invalid, CORRECT_TEMPLATE),
    401: Meaning(errors.NotSignedIn, SIGN_IN),
    403: Meaning(errors.Forbidden, GRANT),
    404: Meaning(errors.NotFound, "Check the name; what is missing is made by: inferops provision ENVIRONMENT"),
    409: Meaning(errors.Busy, "See what the message says is in the way, and run the same command again."),
    429: Meaning(errors.Throttled, "Wait a minute and run the same command again."),
}
UNKNOWN = Meaning(CloudError, "Read the service's message above; inferops status ENVIRONMENT shows how things stand.")
SERVICE_FAULT = Meaning(
    errors.ServiceFault, "Run the same command again; if it persists, see https://azure.status.microsoft."
)

# Codes that only wrap the real cause.
WRAPPERS = frozenset(
    {
        "DeploymentFailed",
        "DeploymentWhatIfResourceError",
        "InvalidTemplateDeployment",
        "MultipleErrorsOccurred",
        "PreflightValidationCheckFailed",
        "ResourceDeploymentFailure",
        "ValidationForResourceFailed",
    }
)

# Microsoft Entra's codes: learn.microsoft.com, "Microsoft Entra authentication and authorization error codes".
SIGN_IN_MEANINGS: dict[str, Meaning] = {
    **dict.fromkeys(
        ("AADSTS70021", "AADSTS700211", "AADSTS700212", "AADSTS700213", "AADSTS7002138"),
        Meaning(errors.NotSignedIn, FEDERATION),
    ),
    "AADSTS700024": Meaning(errors.NotSignedIn, "The workflow's token is too old: run the job again."),
    "AADSTS700016": Meaning(
        errors.NotSignedIn, "Check the client ids and the tenant under `identity` in environment.yaml."
    ),
    "AADSTS90002": Meaning(errors.NotSignedIn, "Check the tenant under `identity` in environment.yaml."),
    "AADSTS7000215": Meaning(errors.NotSignedIn, "Check AZURE_CLIENT_SECRET: it must be the secret, not its id."),
    "AADSTS7000222": Meaning(errors.NotSignedIn, "The client secret has expired: make a new one for the identity."),
}

AUTHORIZATION_FAILED = re.compile(
    r"The client '(?P<who>[^']*)' with object id '(?P<object>[^']*)' does not have authorization to perform action "
    r"'(?P<action>[^']*)' over scope '(?P<scope>[^']*)'"
)


def from_body(
    what: str, body: Any, status: int | None, *, fallback: str = "", otherwise: Meaning = UNKNOWN
) -> CloudError:
    """The error for an answer's parsed body. what says in a gerund what was being done, with the thing's name.

    fallback is the message for a body without one, otherwise the meaning of a code and status that are not known.
    """
    found = causes(body) or [Cause("", fallback or f"HTTP status {status}", None)]
    return from_causes(what, found, status, otherwise=otherwise)


def from_causes(what: str, found: list[Cause], status: int | None, *, otherwise: Meaning = UNKNOWN) -> CloudError:
    """The error for causes, innermost only; the first whose code is known says what kind of error it is."""
    main = next((cause for cause in found if cause.code in MEANINGS), found[0])
    meaning = _meaning(main.code, status, otherwise)
    denied = AUTHORIZATION_FAILED.search(main.message)
    details = [str(cause) for cause in found if cause is not main]
    if denied:
        details = [
            f"identity: {denied['who']} (object id {denied['object']})",
            f"action: {denied['action']}",
            f"scope: {denied['scope']}",
            *details,
        ]
        message = "the identity lacks the permission"
    else:
        message = str(main)
    return meaning.kind(
        f"{what[:1].upper()}{what[1:]} failed: {message}",
        meaning.next_step,
        details=details,
        code=main.code or None,
        status=status,
    )


def from_sign_in(what: str, message: str) -> CloudError:
    """The error for a token that could not be had; message is the one of the credential or of the token endpoint."""
    match = re.search(r"AADSTS\d+", message)
    code = match[0] if match else None
    meaning = SIGN_IN_MEANINGS.get(code or "", Meaning(errors.NotSignedIn, SIGN_IN))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    first, rest = (lines[0], lines[1:]) if lines else ("the credential gave no reason", [])
    return meaning.kind(
        f"Signing in failed, before {what}: {first}", meaning.next_step, details=rest[:8], code=code, status=401
    )


def no_answer(what: str, reason: str) -> CloudError:
    """The error for a service that does not answer; reason is what the network says."""
    return errors.Unreachable(
        f"{what[:1].upper()}{what[1:]} failed: there was no answer ({reason})",
        "Check the network and its proxy; for the environment `local`, start the stand-in: make local",
    )


def untrusted(what: str, reason: str) -> CloudError:
    """The error for a server whose certificate is not one to trust; reason says why."""
    return errors.Untrusted(
        f"{what[:1].upper()}{what[1:]} failed: the server's certificate is not trusted ({reason})",
        "Check that no proxy replaces certificates (REQUESTS_CA_BUNDLE names the ones to trust); "
        "for the environment `local`: make local",
    )


def causes(body: Any) -> list[Cause]:
    """The innermost errors of a body, in order; a body may nest them in details, or as JSON text in a message."""
    found: list[Cause] = []
    for cause in _innermost(body, DEEPEST_NESTING):
        if cause not in found:
            found.append(cause)
    return found


def _innermost(body: Any, depth: int) -> Iterator[Cause]:
    node = _error_node(body)
    if node is None or depth == 0:
        return
    message = str(node.get("message") or "").strip()
    inner = [item for detail in node.get("details") or [] for item in _innermost(detail, depth - 1)]
    inner = inner or list(_innermost(_embedded(message), depth - 1))
    code = str(node.get("code") or "")
    if inner and (code in WRAPPERS or _embedded(message) is not None or code not in MEANINGS):
        yield from inner
    elif message or code:
        target = node.get("target")
        yield Cause(code, message or code, str(target) if target else None)


def _error_node(body: Any) -> Mapping[str, Any] | None:
    if not isinstance(body, Mapping):
        return None
    node = body.get("error", body)  # Microsoft.App sometimes leaves out "error": ACA#175, ACA#431.
    if isinstance(node, Mapping) and (node.get("code") or node.get("message")):
        return node
    return None


def _embedded(message: str) -> Any:
    """The JSON that a message consists of, or None."""
    if not message.startswith("{"):
        return None
    try:
        return json.loads(message)
    except json.JSONDecodeError:
        return None


def _meaning(code: str, status: int | None, otherwise: Meaning) -> Meaning:
    if code in MEANINGS:
        return MEANINGS[code]
    if "quota" in code.lower() or code.startswith("MaxNumberOf"):
        return Meaning(errors.QuotaExceeded, RAISE_QUOTA)
    if status is not None and status >= 500:
        return SERVICE_FAULT
    return BY_STATUS.get(status or 0, otherwise)
