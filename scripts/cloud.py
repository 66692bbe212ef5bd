"""A cloud is a row of endpoints; with a credential it gives clients. The only importer of azure.*, and only when asked.

Knows no template, no release and no container app's purpose. The stand-in is one more row, read from what it announced.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from scripts import errors, service_errors
from scripts.environment import PLACEHOLDER, Environment
from scripts.errors import BadInput, CloudError, Problem
from scripts.file_credentials import AccessSignature, AccountKey, EntraToken, FileCredential
from scripts.files import ShareClient

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.exceptions import AzureError
    from azure.mgmt.appcontainers import ContainerAppsAPIClient
    from azure.mgmt.resource.deployments import DeploymentsMgmtClient
    from azure.mgmt.resource.resources import ResourceManagementClient
    from azure.mgmt.storage import StorageManagementClient

Role = Literal["deploy", "what_if"]


class Closeable(Protocol):
    def close(self) -> None: ...


Client = TypeVar("Client", bound=Closeable)

LOCAL = "local"
STAND_IN_VARIABLE = "INFEROPS_STAND_IN"
STAND_IN_FILE = Path(".local/stand-in.json")

# How the resource manager's clients retry (azure-core's words): a deployment must outlast a throttled minute.
RETRIES = {"retry_total": 6, "retry_connect": 2, "retry_read": 3, "retry_status": 6, "retry_backoff_factor": 0.5}
TIMEOUTS = {"connection_timeout": 10, "read_timeout": 120}

KEY_VARIABLE = "AZURE_STORAGE_KEY"
SIGNATURE_VARIABLE = "AZURE_STORAGE_SAS_TOKEN"
ACCOUNT_VARIABLE = "AZURE_STORAGE_ACCOUNT"
"""Where the Azure CLI, too, takes an account's key or signature from, and the account that they are for."""

FILE_SCOPE = "https://storage.azure.com/.default"
"""What a token is for that opens file shares, in every cloud."""


@dataclass(frozen=True)
class LocalIdentities:
    """The stand-in's own identities, as it announced them."""

    tenant: str
    client_id: str
    client_secret: str
    reader_client_id: str
    reader_client_secret: str


@dataclass(frozen=True)
class Cloud:
    name: str
    authority: str
    resource_manager: str
    file_endpoint: str
    """The address of an account's file service, with {account} in place of its name."""
    polling_interval_seconds: float
    """Between two looks at a long operation, where the service does not say how long to wait."""
    certificate: Path | None = None
    """A PEM file to trust in place of the machine's own list; None for that list."""
    identities: LocalIdentities | None = None


CLOUDS = {
    cloud.name: cloud
    for cloud in (
        Cloud(
            name="azure",
            authority="https://login.microsoftonline.com",
            resource_manager="https://management.azure.com",
            file_endpoint="https://{account}.file.core.windows.net",
            polling_interval_seconds=5,
        ),
        Cloud(
            name="azure-usgovernment",
            authority="https://login.microsoftonline.us",
            resource_manager="https://management.usgovcloudapi.net",
            file_endpoint="https://{account}.file.core.usgovcloudapi.net",
            polling_interval_seconds=5,
        ),
        Cloud(
            name="azure-china",
            authority="https://login.chinacloudapi.cn",
            resource_manager="https://management.chinacloudapi.cn",
            file_endpoint="https://{account}.file.core.chinacloudapi.cn",
            polling_interval_seconds=5,
        ),
    )
}


def cloud_of(environment: Environment, variables: Mapping[str, str]) -> Cloud:
    """The environment's row. Raises BadInput when the stand-in that `local` means has announced nothing."""
    if environment.cloud != LOCAL:
        return CLOUDS[environment.cloud]
    file = Path(variables.get(STAND_IN_VARIABLE) or environment.root / STAND_IN_FILE)
    try:
        announced = json.loads(file.read_text(encoding="utf-8"))
        return Cloud(
            name=LOCAL,
            authority=announced["authority"],
            resource_manager=announced["resource_manager"],
            file_endpoint=announced["resource_manager"] + "/{account}",
            polling_interval_seconds=0.2,
            certificate=Path(announced["certificate"]),
            identities=LocalIdentities(
                tenant=announced["tenant"],
                client_id=announced["client_id"],
                client_secret=announced["client_secret"],
                reader_client_id=announced["reader_client_id"],
                reader_client_secret=announced["reader_client_secret"],
            ),
        )
    except FileNotFoundError:
        message = "the stand-in for Azure has not been started on this machine: this file is missing"
        raise BadInput([Problem(str(file), "", None, message, "Start it: make local")]) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        message = f"this is not what a stand-in announces ({type(error).__name__}: {error})"
        raise BadInput([Problem(str(file), "", None, message, "Start the stand-in again: make local")]) from None


class Clients:
    """Signed-in clients of one subscription, each made when it is first asked for. Close it, or use it in `with`."""

    def __init__(
        self,
        cloud: Cloud,
        environment: Environment,
        credential: TokenCredential,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.cloud = cloud
        self.subscription = environment.subscription
        self.resource_group = environment.resource_group
        self._credential = credential
        self._variables = variables
        self._open = contextlib.ExitStack()

    @cached_property
    def deployments(self) -> DeploymentsMgmtClient:
        from azure.mgmt.resource.deployments import DeploymentsMgmtClient

        return self._keep(DeploymentsMgmtClient(self._credential, self.subscription, **self._manager()))

    @cached_property
    def resources(self) -> ResourceManagementClient:
        from azure.mgmt.resource.resources import ResourceManagementClient

        return self._keep(ResourceManagementClient(self._credential, self.subscription, **self._manager()))

    @cached_property
    def container_apps(self) -> ContainerAppsAPIClient:
        from azure.mgmt.appcontainers import ContainerAppsAPIClient

        return self._keep(ContainerAppsAPIClient(self._credential, self.subscription, **self._manager()))

    @cached_property
    def storage(self) -> StorageManagementClient:
        from azure.mgmt.storage import StorageManagementClient

        return self._keep(StorageManagementClient(self._credential, self.subscription, **self._manager()))

    def share(self, account: str, share_name: str) -> ShareClient:
        """A client of one file share, by the key or signature that a person has set, or by what the identity may do.

        AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN is taken unless AZURE_STORAGE_ACCOUNT names another account. Then
        the account's key comes first: who may provision may list it (the template itself does), it covers the lease on
        the share, and the account must allow it, because a container app can mount the share in no other way. An
        identity that may not list keys uses its token, for which it needs Storage File Data Privileged Contributor, and
        to change anything the right to lease the share (lock.py).
        """
        credential = self._given_key_or_signature(account) or self._key_or_token(account)
        return self._keep(self._share(account, share_name, credential))

    def check_share_can_be_opened(self, account: str | None) -> None:
        """Raise BadInput for what the process environment has that no share can be opened with; contacts nothing.

        For whoever changes other things before the share is opened. account is None as long as it is not known.
        """
        account = account or self._variables.get(ACCOUNT_VARIABLE) or "ACCOUNT"
        # What would be fetched otherwise has no part in the check.
        credential = self._given_key_or_signature(account) or AccountKey(account, "")
        self._share(account, "SHARE", credential).close()

    def _share(self, account: str, share_name: str, credential: FileCredential) -> ShareClient:
        address = self.cloud.file_endpoint.format(account=account)
        return ShareClient(address, share_name, credential, self.cloud.certificate)

    def _given_key_or_signature(self, account: str) -> FileCredential | None:
        if self._variables.get(ACCOUNT_VARIABLE, account) != account:
            return None
        key, signature = (self._variables.get(name) for name in (KEY_VARIABLE, SIGNATURE_VARIABLE))
        if key:
            return AccountKey(account, key)
        return AccessSignature(signature) if signature else None

    def _key_or_token(self, account: str) -> FileCredential:
        try:
            return AccountKey(account, self.account_key(account))
        except errors.Forbidden:
            return file_token(self._credential)

    def account_key(self, account: str) -> str:
        """The storage account's first key. A secret: pass it on, never print it. Raises CloudError."""
        with translated(f"listing the keys of the storage account {account}"):
            keys = self.storage.storage_accounts.list_keys(self.resource_group, account).keys_property
        if not keys or not keys[0].value:
            raise CloudError(
                f"The storage account {account} has no key.",
                f"Renew one: az storage account keys renew --account-name {account} --key key1",
            )
        return str(keys[0].value)

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Clients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _manager(self) -> dict[str, Any]:
        return {
            "base_url": self.cloud.resource_manager,
            "credential_scopes": [f"{self.cloud.resource_manager}/.default"],
            "polling_interval": self.cloud.polling_interval_seconds,
            **_trust(self.cloud),
            **RETRIES,
            **TIMEOUTS,
        }

    def _keep(self, client: Client) -> Client:
        self._open.callback(client.close)
        return client


def connect(
    environment: Environment,
    role: Role = "deploy",
    assertion: Callable[[], str] | None = None,
    variables: Mapping[str, str] = os.environ,
) -> Clients:
    """Clients for the environment's subscription; nothing is contacted yet.

    role chooses the identity: what_if may only read. assertion fetches a fresh OIDC assertion each time that it is
    called; it is used when the environment names its identities. variables is the process environment. Raises BadInput
    when the environment cannot be signed in to as it stands.
    """
    # Without a handler of its own the SDK's warnings would reach stderr through Python's last resort.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    cloud = cloud_of(environment, variables)
    return Clients(cloud, environment, _credential(cloud, environment, role, assertion, variables), variables)


def file_token(credential: TokenCredential) -> EntraToken:
    """The identity's tokens, as the file service wants them."""

    def fetch(what: str) -> tuple[str, float]:
        with translated(what):
            token = credential.get_token(FILE_SCOPE)
        return token.token, token.expires_on

    return EntraToken(fetch)


def _credential(
    cloud: Cloud,
    environment: Environment,
    role: Role,
    assertion: Callable[[], str] | None,
    variables: Mapping[str, str],
) -> TokenCredential:
    from azure import identity

    options: dict[str, Any] = {"authority": cloud.authority, **_trust(cloud), **RETRIES, **TIMEOUTS}
    if cloud.identities is not None:
        # Instance discovery asks Microsoft's own endpoint about the authority, which knows no stand-in.
        options["disable_instance_discovery"] = True
    known = environment.identity
    if assertion is not None and known is not None:
        client = known.deploy_client if role == "deploy" else known.what_if_client
        return identity.ClientAssertionCredential(known.tenant, client, assertion, **options)
    secret = [variables.get(name) for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")]
    if secret[0] and secret[1] and secret[2]:
        return identity.ClientSecretCredential(secret[0], secret[1], secret[2], **options)
    if cloud.identities is not None:
        announced = cloud.identities
        if role == "deploy":
            return identity.ClientSecretCredential(
                announced.tenant, announced.client_id, announced.client_secret, **options
            )
        return identity.ClientSecretCredential(
            announced.tenant, announced.reader_client_id, announced.reader_client_secret, **options
        )
    tenant = known.tenant if known is not None and known.tenant != PLACEHOLDER else ""
    # The Azure CLI first: it is what a person has signed in with; the others follow only when it is not there.
    return identity.ChainedTokenCredential(
        identity.AzureCliCredential(tenant_id=tenant, process_timeout=30),
        identity.DefaultAzureCredential(exclude_cli_credential=True, authority=cloud.authority),
    )


def _trust(cloud: Cloud) -> dict[str, Any]:
    return {} if cloud.certificate is None else {"connection_verify": str(cloud.certificate)}


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the SDK's errors into the project's. what says in a gerund what is being done, with the thing's name.

    Raises CloudError, or one of its kinds, with the service's code and HTTP status where there are any.
    """
    from azure.core.exceptions import AzureError

    try:
        yield
    except AzureError as error:
        raise _translate(error, what) from error


def _translate(error: AzureError, what: str) -> CloudError:
    from azure.core import exceptions

    if isinstance(error, exceptions.HttpResponseError) and error.response is not None:
        # The token endpoint's answers carry an AADSTS code in error_description, which the SDK puts into the message.
        if "AADSTS" in error.message:
            return service_errors.from_sign_in(what, error.message)
        status = error.status_code
        return service_errors.from_body(what, _body(error.response), status, fallback=error.message)
    network = (exceptions.ServiceRequestError, exceptions.ServiceResponseError)
    if isinstance(error, exceptions.ClientAuthenticationError):
        # A credential wraps what keeps it from the token endpoint.
        if not isinstance(error.__cause__, network):
            return service_errors.from_sign_in(what, error.message)
        what = f"signing in, before {what},"
    if _is_about_trust(error):
        return service_errors.untrusted(what, _innermost(error))
    if isinstance(error, network) or isinstance(error.__cause__, network):
        return service_errors.no_answer(what, _innermost(error))
    return CloudError(f"{what[:1].upper()}{what[1:]} failed: {error.message}", service_errors.UNKNOWN.next_step)


def _body(response: Any) -> Any:
    """The answer's JSON, or None when it has none or was not read."""
    try:
        return json.loads(response.text())
    except (ValueError, AttributeError, RuntimeError):
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        nested = [argument for argument in current.args if isinstance(argument, BaseException)]
        reason = getattr(current, "reason", None)
        current = (
            getattr(current, "inner_exception", None)
            or (reason if isinstance(reason, BaseException) else None)
            or (nested[0] if nested else None)
            or current.__cause__
            or current.__context__
        )


def _is_about_trust(error: BaseException) -> bool:
    return any(isinstance(link, ssl.SSLError) for link in _chain(error))


def _innermost(error: BaseException) -> str:
    last = list(_chain(error))[-1]
    return str(last) or type(last).__name__
