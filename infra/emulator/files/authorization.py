"""Whether a request to the file service may pass: account keys, shared access signatures, Entra ID tokens."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Protocol

from infra.emulator.exceptions import AzureError
from infra.emulator.files import signatures
from infra.emulator.files.context import Context, Grant, parse_query
from infra.emulator.files.exceptions import TOKEN_CHALLENGE, StorageError, error, expired_token, not_emulated
from infra.emulator.files.formats import iso, now, parse_iso
from infra.emulator.files.shares import Shares

_CLOCK_SKEW_SECONDS = 15 * 60
_TOKEN_CACHE_SECONDS = 5.0
_SHARES_OPEN_TO_TOKENS_SINCE = "2024-11-04"


class AccountDirectory(Protocol):
    """What the file service asks about accounts and callers."""

    def keys(self, account: str) -> list[bytes] | None:
        """The account's keys, decoded; None when there is no such account."""

    def allows_shared_key(self, account: str) -> bool:
        """Whether keys, and what is signed with them, are good for the account's data."""

    def token_may(self, token: str, action: str) -> bool:
        """Whether a bearer token may `read` or `write` what is in shares, `read-shares` or `write-shares` themselves.

        Raises AzureError for a token that is not good.
        """


@dataclass(frozen=True)
class Need:
    """What a request must be allowed: one of the SAS `permissions`, on an account SAS `resource` type (any of them).

    `service_sas`: whether a SAS for one share or file can allow it at all.
    """

    permissions: str
    resource: str
    service_sas: bool = True

    @property
    def action(self) -> str:
        """For a token. Shares and the service are the resource manager's: no data role has a right to them, not even
        to a share's lease ("Permissions for File service operations" of the storage services REST reference)."""
        action = "read" if self.permissions[0] in "rl" else "write"
        return action if self.service_sas else f"{action}-shares"


class Authorizer:
    """Checks requests against the accounts that a directory knows."""

    def __init__(self, accounts: AccountDirectory, shares: Shares) -> None:
        self._accounts = accounts
        self._shares = shares
        self._tokens: dict[tuple[str, str], tuple[float, bool]] = {}

    def check(self, context: Context, need: Need) -> Grant:
        """What the caller may. Raises StorageError 401, 403, and 404 for an account that does not exist."""
        keys = self._accounts.keys(context.account)
        if keys is None:
            raise StorageError(
                404, "ResourceNotFound", f"There is no storage account '{context.account}' in the local stand-in."
            )
        authorization = context.request.headers.get("Authorization")
        if authorization is None:
            if "sig" in context.query:
                path = "/".join((context.share, *context.names))
                return self._check_sas(context, context.account, keys, path, context.query, need)
            if context.request.headers.get("x-ms-version") is None:
                raise error("InvalidHeaderValue", HeaderName="x-ms-version", HeaderValue="")
            raise error("NoAuthenticationInformation", TOKEN_CHALLENGE)
        if context.request.headers.get("x-ms-version") is None:
            raise _refused("Unversioned authenticated access is not allowed.")
        scheme, _, credential = authorization.partition(" ")
        if scheme == "SharedKey":
            self._check_shared_key(context, keys, credential)
            return Grant()
        if scheme.lower() == "bearer":
            self._check_token(context, credential.strip(), need.action)
            if not need.service_sas and context.version < _SHARES_OPEN_TO_TOKENS_SINCE:
                raise error("FileOAuthManagementApiRestrictedToSrp")
            return Grant()
        if scheme == "SharedKeyLite":
            raise not_emulated("authorization by SharedKeyLite (use SharedKey)")
        raise _refused(f"The authorization scheme '{scheme}' is not known.")

    def check_source(self, context: Context, account: str, path: str, raw_query: str, need: Need) -> None:
        """Whether the caller may use a second file or directory, the source of a copy or rename. Raises StorageError.

        A source in the caller's own account needs nothing more than his key or token; any other one a SAS in its
        address, or x-ms-copy-source-authorization.
        """
        keys = self._accounts.keys(account)
        if keys is None:
            raise error("CannotVerifyCopySource")
        query = parse_query(raw_query)
        token = context.header("x-ms-copy-source-authorization")
        if "sig" in query:
            self._check_sas(context, account, keys, path, query, need)
        elif token is not None:
            self._check_token(context, token.partition(" ")[2].strip(), need.action)
        elif not (account == context.account and context.grant.whole_account):
            raise error("CannotVerifyCopySource")

    def _check_shared_key(self, context: Context, keys: list[bytes], credential: str) -> None:
        request = context.request
        if not self._accounts.allows_shared_key(context.account):
            raise error("KeyBasedAuthenticationNotPermitted")
        account, _, signature = credential.strip().partition(":")
        if account != context.account:
            raise _refused("The account of the Authorization header is not the one that is addressed.")
        date = request.headers.get("x-ms-date") or request.headers.get("Date")
        if date is None:
            raise _refused("Request date header not specified.")
        _check_date(date)
        text = signatures.shared_key_text(
            request.method, request.headers, request.headers.items(), account, request.rel_url.raw_path, context.query
        )
        if not any(hmac.compare_digest(signatures.sign(key, text), signature) for key in keys):
            raise _refused(
                f"The MAC signature found in the HTTP request '{signature}' is not the same as any computed signature."
                f" Server used following string to sign: '{text}'."
            )

    def _check_token(self, context: Context, token: str, action: str) -> None:
        if context.request.scheme != "https":
            raise error("AuthenticationFailed", AuthenticationErrorDetail="A token may only be sent over HTTPS.")
        known = self._tokens.get((token, action))
        if known is None or known[0] < time.time():
            # Checking an RSA signature costs as much as a small request; a token is good for a while anyway.
            known = (min(time.time() + _TOKEN_CACHE_SECONDS, _expiry(token)), self._ask(token, action))
            if len(self._tokens) > 100:
                self._tokens.clear()
            self._tokens[token, action] = known
        if context.request.headers.get("x-ms-file-request-intent", "").lower() != "backup":
            raise error("MissingRequiredHeader", HeaderName="x-ms-file-request-intent")
        if not known[1]:
            raise error("AuthorizationPermissionMismatch")

    def _ask(self, token: str, action: str) -> bool:
        try:
            return self._accounts.token_may(token, action)
        except AzureError as refusal:
            if refusal.code == "InvalidAuthenticationTokenAudience":
                raise _refused("Audience validation failed. Audience did not match.") from None
            if refusal.code == "ExpiredAuthenticationToken":
                raise expired_token() from None
            detail = "Signature validation failed."
            raise error("InvalidAuthenticationInfo", TOKEN_CHALLENGE, AuthenticationErrorDetail=detail) from None

    def _check_sas(
        self, context: Context, account: str, keys: list[bytes], path: str, query: Mapping[str, str], need: Need
    ) -> Grant:
        if not self._accounts.allows_shared_key(account):
            raise error("KeyBasedAuthenticationNotPermitted")
        if "skoid" in query:
            raise not_emulated("a SAS signed with a user delegation key (use the account's key)")
        of_account = "ss" in query or "srt" in query
        _check_signature(account, keys, path, query, of_account)
        policy = {} if of_account else self._policy(account, path, query)
        permissions = policy.get("permission") or query.get("sp", "")
        _check_time(policy.get("start") or query.get("st"), policy.get("expiry") or query.get("se"))
        _check_origin(context, query)
        if of_account:
            if "f" not in query.get("ss", ""):
                raise error("AuthorizationServiceMismatch")
            if not set(need.resource) & set(query.get("srt", "")):
                raise error("AuthorizationResourceTypeMismatch")
        elif not need.service_sas:
            raise error("AuthorizationFailure")
        if not set(need.permissions) & set(permissions):
            raise error("AuthorizationPermissionMismatch")
        return Grant(permissions, whole_account=False)

    def _policy(self, account: str, path: str, query: Mapping[str, str]) -> dict[str, str]:
        """The stored access policy that the signature names by si."""
        if not query.get("si"):
            return {}
        share = self._shares.find(account, path.partition("/")[0])
        for policy in share.access_policies if share is not None else []:
            if policy["id"] == query["si"]:
                return policy
        raise _refused("The access policy that the signature names does not exist.")


def _refused(detail: str) -> StorageError:
    return error("AuthenticationFailed", AuthenticationErrorDetail=detail)


def _check_signature(account: str, keys: list[bytes], path: str, query: Mapping[str, str], of_account: bool) -> None:
    if of_account:
        text = signatures.account_sas_text(account, query)
    else:
        if query.get("sr") not in ("s", "f"):
            raise _refused("sr is mandatory. Cannot be empty")
        signed = path.partition("/")[0] if query["sr"] == "s" else path
        text = signatures.service_sas_text(account, signed, query)
    if not any(hmac.compare_digest(signatures.sign(key, text), query["sig"]) for key in keys):
        raise _refused(f"Signature did not match. String to sign used was {text}")


def _check_time(start: str | None, expiry: str | None) -> None:
    present = now()
    ends = parse_iso(expiry or "")
    begins = parse_iso(start) if start else present
    if ends is None or begins is None:
        raise _refused("se is mandatory. Cannot be empty" if not expiry else f"'{start} {expiry}' is not a time.")
    if not begins <= present < ends:
        raise _refused(
            f"Signature not valid in the specified time frame: Start [{start or ''}] - Expiry [{expiry}]"
            f" - Current [{iso(present)}]"
        )


def _check_origin(context: Context, query: Mapping[str, str]) -> None:
    if query.get("spr") == "https" and context.request.scheme != "https":
        raise error("AuthorizationProtocolMismatch")
    allowed = query.get("sip")
    if allowed and not _is_in(context.request.remote or "", allowed):
        raise error("AuthorizationSourceIPMismatch", SourceIP=context.request.remote or "")


def _is_in(address: str, allowed: str) -> bool:
    """Whether an address is the one, or in the range first-last, that a SAS names."""
    first, _, last = allowed.partition("-")
    try:
        return (
            int(ipaddress.ip_address(first))
            <= int(ipaddress.ip_address(address))
            <= int(ipaddress.ip_address(last or first))
        )
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _unix_time(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _check_date(date: str) -> None:
    sent = _unix_time(date)
    if sent is None:
        raise _refused(f"Request date header is not a date: '{date}'")
    if abs(time.time() - sent) > _CLOCK_SKEW_SECONDS:
        raise _refused(f"Request date header too old: '{date}'")


def _expiry(token: str) -> float:
    """The `exp` of a token whose signature has been, or is about to be, checked by the directory."""
    try:
        payload = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError, binascii.Error):
        return 0.0
