"""Microsoft Entra ID as far as a service principal needs it: tokens for a client secret or a federated assertion.

Knows two principals, one that may write and one that may only read, and which federated credentials they have.
"""

from __future__ import annotations

import json
import re
import secrets
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from infra.emulator import faults
from infra.emulator.exceptions import AzureError
from infra.emulator.fault_switch import Fault
from infra.emulator.faults import Faults
from infra.emulator.provider import Principal
from infra.emulator.store import Store

TENANT = "10c0a1de-0000-4000-8000-00000000000a"
SUBSCRIPTION = "10c0a1de-0000-4000-8000-00000000000b"
WRITER = Principal("10c0a1de-0000-4000-8000-00000000000c", "10c0a1de-0000-4000-8000-0000000000c0", "deployer", True)
READER = Principal("10c0a1de-0000-4000-8000-00000000000d", "10c0a1de-0000-4000-8000-0000000000d0", "reader", False)
_PRINCIPALS = {principal.client_id: principal for principal in (WRITER, READER)}

TOKEN_SECONDS = 3600
FEDERATION_AUDIENCE = "api://AzureADTokenExchange"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
STORAGE_AUDIENCES = frozenset({"https://storage.azure.com"})


class SignInError(Exception):
    """A refusal of the token endpoint: OAuth's error word, and the AADSTS number that Entra gives it."""

    def __init__(self, status: int, error: str, number: int, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.number = status, error, number

    def response(self) -> web.Response:
        """The JSON that Entra answers."""
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        now = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        description = f"AADSTS{self.number}: {self} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}"
        body = {
            "error": self.error,
            "error_description": description,
            "error_codes": [self.number],
            "timestamp": now,
            "trace_id": trace,
            "correlation_id": correlation,
        }
        return web.json_response(body, status=self.status)


@dataclass(frozen=True)
class FederatedCredential:
    """`client_id` accepts assertions of `issuer` (a URL) about `subject`, compared to the letter as Entra does."""

    client_id: str
    issuer: str
    subject: str


class Identity:
    """Issues tokens and tells who stands behind one."""

    def __init__(self, store: Store, base_url: str, rules: Faults | None = None) -> None:
        self._store, self._base_url = store, base_url
        self._faults = Faults() if rules is None else rules
        with store.transaction():
            if store.get("identity", "keys") is None:
                store.put("identity", "keys", _new_keys())
        keys: dict[str, Any] = store.get("identity", "keys") or {}
        self._secrets: dict[str, str] = keys["secrets"]
        self._private_key = serialization.load_pem_private_key(keys["private_key"].encode(), None)
        assert isinstance(self._private_key, rsa.RSAPrivateKey)
        self._key_id: str = keys["key_id"]
        self._management_audiences = frozenset(
            {base_url, "https://management.azure.com", "https://management.core.windows.net"}
        )

    def secret(self, principal: Principal) -> str:
        """The client secret of `principal`."""
        return self._secrets[principal.client_id]

    def federate(self, credential: FederatedCredential) -> None:
        """Adds a federated credential, as a person does in Entra before a workflow can sign in."""
        key = f"{credential.client_id} {credential.issuer} {credential.subject}"
        self._store.put("federated", key, vars(credential))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Everything under /{tenant}/ (or common, organizations): token endpoint, its description, its public keys."""
        tenant, _, rest = request.path.strip("/").partition("/")
        try:
            if tenant not in (TENANT, "common", "organizations"):
                raise SignInError(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")
            if rest in ("oauth2/v2.0/token", "oauth2/token") and request.method == "POST":
                form = {key: str(value) for key, value in (await request.post()).items()}
                return web.json_response(await self._token(form), headers={"Cache-Control": "no-store"})
        except SignInError as refusal:
            return refusal.response()
        if rest in ("v2.0/.well-known/openid-configuration", ".well-known/openid-configuration"):
            return web.json_response(self._description())
        if rest == "discovery/v2.0/keys":
            return web.json_response({"keys": [self._public_key()]})
        if rest == "discovery/instance":
            endpoint = f"{self._base_url}/{TENANT}/v2.0/.well-known/openid-configuration"
            return web.json_response({"tenant_discovery_endpoint": endpoint, "metadata": []})
        return web.json_response(
            {"error": "not_implemented", "error_description": f"The local stand-in does not do {request.path}."},
            status=501,
        )

    def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """An error of the fault switch, as Entra words it."""
        response = _sign_in_error(fault).response()
        response.headers.update(fault.headers)
        return response

    def principal(self, authorization: str | None, audiences: Collection[str] | None = None) -> Principal:
        """Who calls with this Authorization header.

        Audiences default to the resource manager's. Raises AzureError 401 in the resource manager's words.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        return self.principal_of(token.strip(), audiences or self._management_audiences)

    def principal_of(self, token: str, audiences: Collection[str]) -> Principal:
        """Who stands behind the token. Raises AzureError 401: not one of ours, expired, or for another audience."""
        assert isinstance(self._private_key, rsa.RSAPrivateKey)
        try:
            # The audience is compared below: a client may or may not end it with a slash.
            options: Any = {"verify_aud": False, "require": ["exp", "aud", "appid"]}
            claims = jwt.decode(token, self._private_key.public_key(), algorithms=["RS256"], options=options)
        except jwt.ExpiredSignatureError:
            raise expired_token() from None
        except jwt.InvalidTokenError as problem:
            raise _unauthorized("InvalidAuthenticationToken", f"The access token is invalid: {problem}.") from None
        if str(claims["aud"]).rstrip("/") not in {audience.rstrip("/") for audience in audiences}:
            message = (
                "The access token has been obtained for wrong audience or resource"
                f" '{claims['aud']}'. It should exactly match with one of the allowed audiences"
                f" {', '.join(repr(audience) for audience in sorted(audiences))}."
            )
            raise _unauthorized("InvalidAuthenticationTokenAudience", message)
        return _PRINCIPALS[claims["appid"]]

    async def _token(self, form: dict[str, str]) -> dict[str, Any]:
        grant = form.get("grant_type")
        if grant != "client_credentials":
            raise SignInError(
                400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{grant}'."
            )
        principal = _PRINCIPALS.get(form.get("client_id", ""))
        if principal is None:
            message = f"Application with identifier '{form.get('client_id')}' was not found in the directory."
            raise SignInError(400, "unauthorized_client", 700016, message)
        if "client_assertion" in form:
            await self._check_assertion(principal, form)
        elif not secrets.compare_digest(form.get("client_secret", "").encode(), self.secret(principal).encode()):
            message = f"Invalid client secret provided for app '{principal.client_id}'."
            raise SignInError(401, "invalid_client", 7000215, message)
        audience = (form.get("scope") or form.get("resource") or "").split(" ")[0].removesuffix("/.default")
        if not audience:
            raise SignInError(400, "invalid_request", 900144, "The request body must contain the parameter: 'scope'.")
        seconds = self._faults.token_seconds(TOKEN_SECONDS)
        return {
            "token_type": "Bearer",
            "expires_in": seconds,
            "ext_expires_in": seconds,
            "access_token": self._sign(principal, audience, seconds),
        }

    def _sign(self, principal: Principal, audience: str, seconds: int) -> str:
        assert isinstance(self._private_key, rsa.RSAPrivateKey)
        now = int(time.time())
        claims = {
            "aud": audience,
            "iss": f"{self._base_url}/{TENANT}/v2.0",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "appid": principal.client_id,
            "oid": principal.object_id,
            "sub": principal.object_id,
            "tid": TENANT,
            "idtyp": "app",
            "ver": "1.0",
        }
        return jwt.encode(claims, self._private_key, algorithm="RS256", headers={"kid": self._key_id})

    async def _check_assertion(self, principal: Principal, form: dict[str, str]) -> None:
        """The rules of workload identity federation: a credential for issuer and subject, then the signature."""
        assertion = form["client_assertion"]
        if form.get("client_assertion_type") != _ASSERTION_TYPE:
            raise SignInError(400, "invalid_request", 900144, "client_assertion_type must be jwt-bearer.")
        try:
            claims = jwt.decode(assertion, options={"verify_signature": False})
            header = jwt.get_unverified_header(assertion)
        except jwt.InvalidTokenError as problem:
            raise SignInError(401, "invalid_client", 50027, f"JWT token is invalid or malformed: {problem}.") from None
        issuer, subject = str(claims.get("iss")), str(claims.get("sub"))
        credentials = [FederatedCredential(**value) for _, value in self._store.items("federated")]
        if FederatedCredential(principal.client_id, issuer, subject) not in credentials:
            message = (
                f"No matching federated identity record found for presented assertion subject '{subject}'. Check your"
                " federated identity credential Subject, Audience and Issuer against the presented assertion."
            )
            raise SignInError(401, "invalid_client", 700213, message)
        key = await _published_key(issuer, str(header.get("kid")))
        try:
            jwt.decode(assertion, key, algorithms=["RS256"], audience=FEDERATION_AUDIENCE, issuer=issuer)
        except jwt.ExpiredSignatureError:
            message = "Client assertion is not within its valid time range. Expired at the presented 'exp'."
            raise SignInError(401, "invalid_client", 700024, message) from None
        except jwt.InvalidAudienceError:
            message = (
                f"No matching federated identity record found for presented assertion audience '{claims.get('aud')}'."
            )
            raise SignInError(401, "invalid_client", 700212, message) from None
        except jwt.InvalidTokenError as problem:
            message = f"Client assertion failed signature validation: {problem}."
            raise SignInError(401, "invalid_client", 7000272, message) from None

    def _description(self) -> dict[str, Any]:
        root = f"{self._base_url}/{TENANT}"
        return {
            "issuer": f"{root}/v2.0",
            "authorization_endpoint": f"{root}/oauth2/v2.0/authorize",
            "token_endpoint": f"{root}/oauth2/v2.0/token",
            "jwks_uri": f"{root}/discovery/v2.0/keys",
            "response_types_supported": ["code", "token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def _public_key(self) -> dict[str, Any]:
        assert isinstance(self._private_key, rsa.RSAPrivateKey)
        public: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._private_key.public_key()))
        return public | {"use": "sig", "kid": self._key_id}


def expired_token() -> AzureError:
    """The resource manager's answer to a token that was good once."""
    message = "The access token expiry UTC time is earlier than current UTC time."
    return _unauthorized("ExpiredAuthenticationToken", message)


def _sign_in_error(fault: Fault) -> SignInError:
    """Numbers: "Microsoft Entra authentication and authorization error codes"."""
    if fault.kind == faults.THROTTLED:
        return SignInError(429, "temporarily_unavailable", 90055, "There are too many incoming requests.")
    if fault.kind == faults.UNAVAILABLE:
        message = "The Microsoft Online Directory Service (MSODS) isn't available."
        return SignInError(503, "temporarily_unavailable", 90033, message)
    if fault.kind == faults.REFUSED:
        number = re.fullmatch(r"AADSTS(\d+)", fault.code or "")
        return SignInError(fault.status, "invalid_request", int(number[1]) if number else 50000, fault.message or "")
    return SignInError(fault.status, "server_error", 50000, "There's an issue with the sign-in service.")


def _new_keys() -> dict[str, Any]:
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "private_key": pem.decode(),
        "key_id": secrets.token_hex(8),
        # Of letters and digits: one that began with a hyphen would be an option to `az login --password`.
        "secrets": {client_id: secrets.token_hex(20) for client_id in _PRINCIPALS},
    }


def _unauthorized(code: str, message: str) -> AzureError:
    challenge = f'Bearer authorization_uri="https://login.microsoftonline.com/{TENANT}", error="invalid_token"'
    return AzureError(401, code, message, headers={"WWW-Authenticate": challenge}, from_gateway=True)


async def _published_key(issuer: str, key_id: str) -> Any:
    """The issuer's public key, read from its discovery document. Only issuers on this machine are asked."""
    if urlsplit(issuer).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise SignInError(
            401, "invalid_client", 700211, f"No matching federated identity record found for issuer '{issuer}'."
        )
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            async with session.get(issuer.rstrip("/") + "/.well-known/openid-configuration") as response:
                location = (await response.json())["jwks_uri"]
            async with session.get(location) as response:
                published = await response.json()
        return next(jwt.PyJWK(key).key for key in published["keys"] if key.get("kid") == key_id)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, StopIteration, jwt.PyJWKError):
        message = f"The keys of issuer '{issuer}' could not be read, or hold no key '{key_id}'."
        raise SignInError(401, "invalid_client", 50027, message) from None
