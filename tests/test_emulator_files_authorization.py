"""Who may do what with files: account keys, shared access signatures, tokens, and how refusals look."""

from __future__ import annotations

import base64
import json
import random
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.fileshare import (
    AccessPolicy,
    AccountSasPermissions,
    FileSasPermissions,
    ResourceTypes,
    Services,
    ShareClient,
    ShareFileClient,
    ShareSasPermissions,
    ShareServiceClient,
    generate_account_sas,
    generate_file_sas,
    generate_share_sas,
)

from tests.files_service import ACCOUNT, KEY, SECOND_KEY, RunningFiles, Token, running_files, shared_key

SOON = datetime.now(timezone.utc) + timedelta(hours=1)
PAST = datetime.now(timezone.utc) - timedelta(hours=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFiles]:
    with running_files(tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture
def share(files: RunningFiles) -> ShareClient:
    """A share with directory/file.txt in it."""
    share = files.share(f"share-{uuid.uuid4().hex[:12]}")
    share.create_directory("directory").upload_file("file.txt", b"content")
    return share


def _code(problem: pytest.ExceptionInfo[Any]) -> tuple[int | None, str]:
    code = getattr(problem.value, "error_code", None)
    return problem.value.status_code, str(getattr(code, "value", code))


def _file(files: RunningFiles, share: ShareClient, credential: Any) -> ShareFileClient:
    name = str(share.share_name)
    return ShareFileClient(files.url, name, "directory/file.txt", credential=credential, **files.options())


def _share(files: RunningFiles, share: ShareClient, credential: Any) -> ShareClient:
    return ShareClient(files.url, str(share.share_name), credential=credential, **files.options())


def test_both_keys_are_good_and_no_other(files: RunningFiles, share: ShareClient) -> None:
    for key in (KEY, SECOND_KEY):
        credential = {"account_name": ACCOUNT, "account_key": key}
        assert _file(files, share, credential).download_file().readall() == b"content"
    wrong = {"account_name": ACCOUNT, "account_key": "AAAA" * 20}
    with pytest.raises(ClientAuthenticationError) as refused:
        _file(files, share, wrong).download_file()
    assert _code(refused) == (403, "AuthenticationFailed")
    assert "Server used following string to sign: 'GET" in str(refused.value)


def test_host_style_address_is_signed_without_the_account_in_its_path(files: RunningFiles, share: ShareClient) -> None:
    path = f"/{share.share_name}/directory/file.txt"
    headers = {
        "x-ms-date": formatdate(usegmt=True),
        "x-ms-version": "2026-10-06",
        "Host": f"{ACCOUNT}.file.localhost:{files.port}",
    }
    headers["Authorization"] = shared_key("GET", path, "", headers, 0)
    with httpx.Client(verify=files.trust, timeout=60) as client:
        answer = client.get(f"https://127.0.0.1:{files.port}{path}", headers=headers)
        assert (answer.status_code, answer.content) == (200, b"content")
        query = "comp=list&restype=directory"
        headers["Authorization"] = shared_key("GET", f"/{share.share_name}", query, headers, 0)
        listed = client.get(f"https://127.0.0.1:{files.port}/{share.share_name}?{query}", headers=headers)
    assert f'ServiceEndpoint="https://{ACCOUNT}.file.localhost:{files.port}/"' in listed.text


def test_headers_are_signed_in_the_order_of_the_official_client(share: ShareClient) -> None:
    """Underscores, digits and case: the service's order is not that of the characters' codes."""
    chance = random.Random(3)
    client = share.get_file_client("directory/file.txt")
    for _ in range(12):
        names = {
            "_" * chance.randrange(2) + "".join(chance.choices("ab_A9z0", k=chance.randrange(1, 5))) for _ in range(9)
        }
        metadata = {name.lower(): "x" for name in names if not name[0].isdigit()}
        client.set_file_metadata(metadata)
        assert client.get_file_properties().metadata == metadata


@pytest.mark.parametrize(
    ("headers", "status", "code", "words"),
    [
        ({"x-ms-version": "2026-10-06"}, 401, "NoAuthenticationInformation", "www-authenticate"),
        ({}, 400, "InvalidHeaderValue", "<HeaderName>x-ms-version</HeaderName>"),
        ({"x-ms-version": "yesterday"}, 400, "InvalidHeaderValue", "<HeaderValue>yesterday</HeaderValue>"),
        ({"Authorization": "SharedKey teststore:x"}, 403, "AuthenticationFailed", "Unversioned authenticated access"),
        (
            {"Authorization": "SharedKey teststore:x", "x-ms-version": "2026-10-06"},
            403,
            "AuthenticationFailed",
            "Request date header not specified",
        ),
        (
            {
                "Authorization": "SharedKey teststore:x",
                "x-ms-version": "2026-10-06",
                "x-ms-date": "Wed, 15 Jan 2020 23:43:40 GMT",
            },
            403,
            "AuthenticationFailed",
            "Request date header too old",
        ),
        (
            {"Authorization": "SharedKey another:x", "x-ms-version": "2026-10-06"},
            403,
            "AuthenticationFailed",
            "is not the one that is addressed",
        ),
        ({"Authorization": "SharedKeyLite teststore:x", "x-ms-version": "2026-10-06"}, 501, "NotImplemented", "Lite"),
        ({"Authorization": "Digest x", "x-ms-version": "2026-10-06"}, 403, "AuthenticationFailed", "Digest"),
    ],
)
def test_requests_that_do_not_authenticate(
    files: RunningFiles, share: ShareClient, headers: dict[str, str], status: int, code: str, words: str
) -> None:
    answer = httpx.get(
        f"{files.url}/{share.share_name}/directory/file.txt", headers=headers, verify=files.trust, timeout=60
    )
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code)
    assert answer.content.startswith(b"\xef\xbb\xbf<?xml") and words in answer.text
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer authorization_uri=https://login.")


def test_keys_may_be_forbidden(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_files(tmp_path_factory.mktemp("keyless")) as files:
        share = files.share("keyless")
        sas = generate_share_sas(ACCOUNT, "keyless", KEY, ShareSasPermissions(list=True), SOON)
        files.accounts.shared_key_allowed = False
        for client in (share, _share(files, share, sas)):
            with pytest.raises(HttpResponseError) as refused:
                list(client.list_directories_and_files())
            assert _code(refused) == (403, "KeyBasedAuthenticationNotPermitted")
        with_token = files.client(Token("writer"), token_intent="backup").get_share_client("keyless")
        assert list(with_token.list_directories_and_files()) == []


def test_token_reads_and_writes_as_its_role_says(files: RunningFiles, share: ShareClient) -> None:
    name = str(share.share_name)
    writer = files.client(Token("writer"), token_intent="backup").get_share_client(name)
    reader = files.client(Token("reader"), token_intent="backup").get_share_client(name)
    writer.get_file_client("written").create_file(1, data=b"x")
    assert reader.get_file_client("written").download_file().readall() == b"x"
    assert [item.name for item in reader.list_directories_and_files()] == ["directory", "written"]
    for change in (
        reader.get_file_client("written").delete_file,
        lambda: reader.create_directory("new"),
        reader.delete_share,
        reader.acquire_lease,
    ):
        with pytest.raises(HttpResponseError) as refused:
            change()
        assert _code(refused) == (403, "AuthorizationPermissionMismatch")


def test_a_data_role_has_no_right_to_the_share_itself(files: RunningFiles, share: ShareClient) -> None:
    """ "Permissions for File service operations": Lease Share is .../fileServices/shares/lease/action."""
    with_data = files.client(Token("data"), token_intent="backup").get_share_client(str(share.share_name))
    with_data.get_file_client("written").create_file(1, data=b"x")
    lease = with_data.get_file_client("written").acquire_lease()
    lease.release()
    for refused_call in (with_data.acquire_lease, with_data.get_share_properties, with_data.delete_share):
        with pytest.raises(HttpResponseError) as refused:
            refused_call()
        assert _code(refused) == (403, "AuthorizationPermissionMismatch")


def test_tokens_are_for_what_is_in_shares_alone_in_older_versions(files: RunningFiles, share: ShareClient) -> None:
    headers = {"Authorization": "Bearer writer", "x-ms-file-request-intent": "backup"}
    address = f"{files.url}/{share.share_name}?restype=share"
    with httpx.Client(verify=files.trust, headers=headers, timeout=60) as client:
        old = client.get(address, headers={"x-ms-version": "2024-08-04"})
        new = client.get(address, headers={"x-ms-version": "2024-11-04"})
        inside = client.get(
            f"{files.url}/{share.share_name}/directory/file.txt", headers={"x-ms-version": "2024-08-04"}
        )
    assert (old.status_code, old.headers["x-ms-error-code"]) == (409, "FileOAuthManagementApiRestrictedToSrp")
    assert (new.status_code, inside.content) == (200, b"content")


@pytest.mark.parametrize(
    ("token", "status", "code", "words"),
    [
        ("expired", 401, "InvalidAuthenticationInfo", "Lifetime validation failed. The token is expired."),
        ("forged", 401, "InvalidAuthenticationInfo", "Signature validation failed."),
        ("wrong-audience", 403, "AuthenticationFailed", "Audience validation failed. Audience did not match."),
    ],
)
def test_tokens_that_are_refused(
    files: RunningFiles, share: ShareClient, token: str, status: int, code: str, words: str
) -> None:
    client = files.client(Token(token), token_intent="backup").get_share_client(str(share.share_name))
    with pytest.raises(ClientAuthenticationError, match=words) as refused:
        list(client.list_directories_and_files())
    assert _code(refused) == (status, code)


def test_token_needs_the_intent(files: RunningFiles, share: ShareClient) -> None:
    headers = {"Authorization": "Bearer writer", "x-ms-version": "2026-10-06"}
    url = f"{files.url}/{share.share_name}/directory/file.txt"
    answer = httpx.get(url, headers=headers, verify=files.trust, timeout=60)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "MissingRequiredHeader")
    assert "<HeaderName>x-ms-file-request-intent</HeaderName>" in answer.text
    answer = httpx.get(url, headers={**headers, "x-ms-file-request-intent": "backup"}, verify=files.trust, timeout=60)
    assert answer.content == b"content"


def test_sas_of_a_file_is_good_for_that_file_alone(files: RunningFiles, share: ShareClient) -> None:
    sas = generate_file_sas(
        ACCOUNT, str(share.share_name), ["directory", "file.txt"], KEY, FileSasPermissions(read=True), SOON
    )
    assert _file(files, share, sas).download_file().readall() == b"content"
    with pytest.raises(HttpResponseError) as write:
        _file(files, share, sas).upload_range(b"x", 0, 1)
    assert _code(write) == (403, "AuthorizationPermissionMismatch")
    share.get_file_client("other").upload_file(b"x")
    with pytest.raises(ClientAuthenticationError) as other:
        _share(files, share, sas).get_file_client("other").download_file()
    assert _code(other) == (403, "AuthenticationFailed")
    assert "Signature did not match. String to sign used was" in str(other.value)


def test_sas_of_a_share_is_good_for_what_is_in_it(files: RunningFiles, share: ShareClient) -> None:
    permission = ShareSasPermissions(read=True, list=True, create=True)
    sas = generate_share_sas(ACCOUNT, str(share.share_name), KEY, permission, SOON)
    limited = _share(files, share, sas)
    assert [item.name for item in limited.list_directories_and_files()] == ["directory"]
    limited.create_directory("new")
    limited.get_file_client("new/file").create_file(0)
    with pytest.raises(HttpResponseError) as overwrite:
        limited.get_file_client("new/file").create_file(1)
    assert _code(overwrite) == (403, "AuthorizationPermissionMismatch"), "create is not write"
    for refused_call in (limited.get_share_properties, limited.delete_share):
        with pytest.raises(HttpResponseError) as refused:
            refused_call()
        assert _code(refused) == (403, "AuthorizationFailure")


def test_sas_says_how_the_content_is_served(files: RunningFiles, share: ShareClient) -> None:
    sas = generate_file_sas(
        ACCOUNT,
        str(share.share_name),
        ["directory", "file.txt"],
        KEY,
        FileSasPermissions(read=True),
        SOON,
        content_type="text/markdown; charset=utf-8",
        content_disposition='attachment; filename="read me.md"',
    )
    answer = httpx.get(f"{files.url}/{share.share_name}/directory/file.txt?{sas}", verify=files.trust, timeout=60)
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="read me.md"'


@pytest.mark.parametrize(
    ("start", "expiry", "detail"),
    [(None, PAST, "Signature not valid in the specified time frame"), (SOON, SOON, "Start \\[")],
)
def test_sas_has_its_time(files: RunningFiles, share: ShareClient, start: Any, expiry: datetime, detail: str) -> None:
    sas = generate_share_sas(ACCOUNT, str(share.share_name), KEY, ShareSasPermissions(read=True), expiry, start)
    with pytest.raises(ClientAuthenticationError, match=detail) as refused:
        _file(files, share, sas).download_file()
    assert _code(refused) == (403, "AuthenticationFailed")


@pytest.mark.parametrize(
    ("allowed", "passes"), [("127.0.0.1", True), ("127.0.0.0-127.0.0.9", True), ("10.0.0.1", False)]
)
def test_sas_has_its_addresses(files: RunningFiles, share: ShareClient, allowed: str, passes: bool) -> None:
    sas = generate_share_sas(ACCOUNT, str(share.share_name), KEY, ShareSasPermissions(read=True), SOON, ip=allowed)
    client = _file(files, share, sas)
    if passes:
        assert client.download_file().readall() == b"content"
    else:
        with pytest.raises(HttpResponseError) as refused:
            client.download_file()
        assert _code(refused) == (403, "AuthorizationSourceIPMismatch")


def test_sas_by_stored_access_policy_ends_with_the_policy(files: RunningFiles, share: ShareClient) -> None:
    policy = AccessPolicy(ShareSasPermissions(read=True), SOON.replace(microsecond=0), PAST.replace(microsecond=0))
    share.set_share_access_policy({"reading": policy})
    found = share.get_share_access_policy()["signed_identifiers"]
    assert [(item.id, item.access_policy.permission) for item in found] == [("reading", "r")]
    sas = generate_share_sas(ACCOUNT, str(share.share_name), KEY, policy_id="reading")
    assert _file(files, share, sas).download_file().readall() == b"content"
    with pytest.raises(HttpResponseError) as write:
        _file(files, share, sas).delete_file()
    assert _code(write) == (403, "AuthorizationPermissionMismatch")
    share.set_share_access_policy({})
    with pytest.raises(ClientAuthenticationError) as gone:
        _file(files, share, sas).download_file()
    assert _code(gone) == (403, "AuthenticationFailed")


def _account_sas(types: ResourceTypes, permission: AccountSasPermissions, **options: Any) -> str:
    return generate_account_sas(ACCOUNT, KEY, types, permission, SOON, **options)


def test_account_sas_is_good_for_its_resource_types(files: RunningFiles, share: ShareClient) -> None:
    everything = AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True)
    name = str(share.share_name)

    def client(types: ResourceTypes) -> ShareServiceClient:
        return ShareServiceClient(files.url, _account_sas(types, everything), **files.options())

    service = client(ResourceTypes(service=True))
    assert name in [item.name for item in service.list_shares()]
    for refused_call in (
        service.get_share_client(name).get_share_properties,
        service.get_share_client(name).get_file_client("directory/file.txt").download_file,
        lambda: list(client(ResourceTypes(container=True)).list_shares()),
    ):
        with pytest.raises(HttpResponseError) as refused:
            refused_call()
        assert _code(refused) == (403, "AuthorizationResourceTypeMismatch")
    assert client(ResourceTypes(container=True)).get_share_client(name).get_share_properties().quota
    inside = client(ResourceTypes(object=True)).get_share_client(name)
    assert inside.get_file_client("directory/file.txt").download_file().readall() == b"content"
    renamed = inside.get_file_client("directory/file.txt").rename_file("directory/renamed.txt")
    assert renamed.exists()


def test_account_sas_is_good_for_its_services_and_permissions(files: RunningFiles, share: ShareClient) -> None:
    reading = AccountSasPermissions(read=True)
    objects = ResourceTypes(object=True)
    blobs = _account_sas(objects, reading, services=Services(blob=True))
    with pytest.raises(HttpResponseError) as service:
        _file(files, share, blobs).download_file()
    assert _code(service) == (403, "AuthorizationServiceMismatch")
    with pytest.raises(HttpResponseError) as permission:
        _file(files, share, _account_sas(objects, reading)).delete_file()
    assert _code(permission) == (403, "AuthorizationPermissionMismatch")
    forged = _account_sas(objects, reading).replace("sp=r", "sp=rd")
    with pytest.raises(ClientAuthenticationError) as changed:
        _file(files, share, forged).delete_file()
    assert _code(changed) == (403, "AuthenticationFailed")


def test_copy_source_needs_its_own_permission_with_a_sas(files: RunningFiles, share: ShareClient) -> None:
    name = str(share.share_name)
    writing = generate_share_sas(ACCOUNT, name, KEY, ShareSasPermissions(create=True, write=True), SOON)
    reading = generate_file_sas(ACCOUNT, name, ["directory", "file.txt"], KEY, FileSasPermissions(read=True), SOON)
    source = f"{files.url}/{name}/directory/file.txt"
    target = _share(files, share, writing).get_file_client("copy")
    with pytest.raises(HttpResponseError) as refused:
        target.start_copy_from_url(source)
    assert _code(refused) == (404, "CannotVerifyCopySource")
    assert target.start_copy_from_url(f"{source}?{reading}")["copy_status"] == "success"
    assert share.get_file_client("copy").download_file().readall() == b"content"


@pytest.mark.parametrize(("life_seconds", "asked"), [(3600, 1), (-1, 4)])
def test_token_is_looked_up_once_in_a_while_but_never_after_its_end(
    files: RunningFiles, share: ShareClient, life_seconds: int, asked: int
) -> None:
    claims = json.dumps({"exp": time.time() + life_seconds, "jti": str(uuid.uuid4())}).encode()
    token = f"header.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.signature"
    files.accounts.roles[token] = "writer"
    client = files.client(Token(token), token_intent="backup").get_share_client(str(share.share_name))
    for _ in range(4):
        client.get_file_client("directory/file.txt").get_file_properties()
    assert files.accounts.asked.count((token, "read")) == asked
