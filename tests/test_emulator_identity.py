"""The token endpoint, through the real azure-identity and in plain HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientAssertionCredential, ClientSecretCredential

from tests.conftest import RunningStandIn
from tests.workflows.github import Issuer, running_issuer

AUDIENCE = "api://AzureADTokenExchange"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


def _options(stand_in: RunningStandIn) -> dict[str, Any]:
    return {
        "authority": stand_in.announcement["authority"],
        "disable_instance_discovery": True,
        "connection_verify": stand_in.announcement["certificate"],
    }


def _get(stand_in: RunningStandIn, path: str, token: str | None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.get(
        stand_in.announcement["resource_manager"] + path, headers=headers, verify=stand_in.trust, timeout=60
    )


def _federate(stand_in: RunningStandIn, issuer: Issuer, client: str, *, reader: bool = False) -> httpx.Response:
    return httpx.post(
        stand_in.announcement["authority"] + "/stand-in/federated-credentials",
        headers={"Authorization": f"Bearer {stand_in.token(reader=reader)}"},
        json={"client_id": stand_in.announcement[client], "issuer": issuer.url, "subject": issuer.subject},
        verify=stand_in.trust,
        timeout=60,
    )


def _assertion_credential(stand_in: RunningStandIn, assertion: str) -> ClientAssertionCredential:
    tenant, client = stand_in.announcement["tenant"], stand_in.announcement["client_id"]
    return ClientAssertionCredential(tenant, client, lambda: assertion, **_options(stand_in))


def test_a_client_secret_gets_a_token_that_the_resource_manager_takes(stand_in: RunningStandIn) -> None:
    announced = stand_in.announcement
    credential = ClientSecretCredential(
        announced["tenant"], announced["client_id"], announced["client_secret"], **_options(stand_in)
    )
    token = credential.get_token(announced["resource_manager"] + "/.default").token
    answer = _get(stand_in, f"/subscriptions/{announced['subscription']}?api-version=2022-12-01", token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tenantId"] == announced["tenant"]


def test_a_wrong_secret_is_refused_in_entras_words(stand_in: RunningStandIn) -> None:
    announced = stand_in.announcement
    credential = ClientSecretCredential(announced["tenant"], announced["client_id"], "wrong", **_options(stand_in))
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        credential.get_token("https://storage.azure.com/.default")


@pytest.mark.parametrize(
    ("field", "value", "number"),
    [
        ("client_id", "10c0a1de-0000-4000-8000-0000000000ff", 700016),
        ("grant_type", "password", 70003),
        ("scope", "", 900144),
    ],
)
def test_what_the_token_endpoint_refuses(stand_in: RunningStandIn, field: str, value: str, number: int) -> None:
    announced = stand_in.announcement
    form = {
        "grant_type": "client_credentials",
        "client_id": announced["client_id"],
        "client_secret": announced["client_secret"],
        "scope": "https://storage.azure.com/.default",
    }
    address = f"{announced['authority']}/{announced['tenant']}/oauth2/v2.0/token"
    answer = httpx.post(address, data=form | {field: value}, verify=stand_in.trust, timeout=60)
    assert answer.status_code in (400, 401)
    assert answer.json()["error_codes"] == [number]


def test_an_assertion_is_accepted_only_for_a_registered_subject(stand_in: RunningStandIn, issuer: Issuer) -> None:
    issuer.subject = "repo:octo/model:environment:dev"
    assert _federate(stand_in, issuer, "client_id").status_code == 201
    credential = _assertion_credential(stand_in, issuer.assertion(AUDIENCE))
    assert credential.get_token("https://storage.azure.com/.default").token
    # Entra compares to the letter, case included.
    issuer.subject = "repo:octo/model:environment:Dev"
    credential = _assertion_credential(stand_in, issuer.assertion(AUDIENCE))
    with pytest.raises(ClientAuthenticationError, match=r"AADSTS700213.*environment:Dev"):
        credential.get_token("https://storage.azure.com/.default")


def test_an_assertion_of_another_audience_or_key_is_refused(stand_in: RunningStandIn, issuer: Issuer) -> None:
    issuer.subject = "repo:octo/model:environment:staging"
    assert _federate(stand_in, issuer, "client_id").status_code == 201
    credential = _assertion_credential(stand_in, issuer.assertion("https://example.com"))
    with pytest.raises(ClientAuthenticationError, match="AADSTS700212"):
        credential.get_token("https://storage.azure.com/.default")
    head, body, _ = issuer.assertion(AUDIENCE).split(".")
    forged = ".".join([head, body, issuer.assertion("other").split(".")[2]])
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000272"):
        _assertion_credential(stand_in, forged).get_token("https://storage.azure.com/.default")


def test_only_the_writer_registers_a_subject(stand_in: RunningStandIn, issuer: Issuer) -> None:
    assert _federate(stand_in, issuer, "client_id", reader=True).status_code == 403


@pytest.mark.parametrize(
    ("audience", "code"),
    [(None, "AuthenticationFailed"), ("https://storage.azure.com", "InvalidAuthenticationTokenAudience")],
)
def test_the_resource_manager_refuses_no_token_and_another_audience(
    stand_in: RunningStandIn, audience: str | None, code: str
) -> None:
    token = None if audience is None else stand_in.token(audience)
    answer = _get(stand_in, "/subscriptions?api-version=2022-12-01", token)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code
    assert "www-authenticate" in answer.headers
