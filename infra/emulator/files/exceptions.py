"""The file service's errors: code, status and sentence as Azure has them, and their XML.

Source of codes and sentences: "Azure Files error codes" and "Common REST API error codes" of the storage services REST
reference, and recorded answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

from infra.emulator import faults
from infra.emulator.fault_switch import Fault
from infra.emulator.identity import TENANT

_CATALOGUE: dict[str, tuple[int, str]] = {
    "AuthenticationFailed": (
        403,
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly"
        " including the signature.",
    ),
    "AuthorizationFailure": (403, "This request is not authorized to perform this operation."),
    "AuthorizationPermissionMismatch": (
        403,
        "This request is not authorized to perform this operation using this permission.",
    ),
    "AuthorizationProtocolMismatch": (403, "This request is not authorized to perform this operation."),
    "AuthorizationResourceTypeMismatch": (
        403,
        "This request is not authorized to perform this operation using this resource type.",
    ),
    "AuthorizationServiceMismatch": (403, "This request is not authorized to perform this operation."),
    "AuthorizationSourceIPMismatch": (403, "This request is not authorized to perform this operation."),
    "CannotVerifyCopySource": (404, "The specified resource does not exist."),
    "DirectoryNotEmpty": (409, "The specified directory is not empty."),
    "FileInvalidPermissionKey": (400, "The specified file permission key does not exist in the share."),
    "FileOAuthManagementApiRestrictedToSrp": (
        409,
        "This API does not support bearer tokens. For OAuth, use the Storage Resource Provider APIs instead. Learn"
        " more: https://aka.ms/azurefiles/restapi.",
    ),
    "InternalError": (500, "The server encountered an internal error. Please retry the request."),
    "InvalidAuthenticationInfo": (
        401,
        "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    ),
    "InvalidFileOrDirectoryPathName": (400, "The file or directory path is too long."),
    "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct format."),
    "InvalidInput": (400, "One of the request inputs is not valid."),
    "InvalidMd5": (
        400,
        "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and base64 encoded.",
    ),
    "InvalidMetadata": (
        400,
        "The metadata specified is invalid. It has characters that are not permitted.",
    ),
    "InvalidQueryParameterValue": (
        400,
        "Value for one of the query parameters specified in the request URI is invalid.",
    ),
    "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
    "InvalidResourceName": (400, "The specified resource name contains invalid characters."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidXmlDocument": (400, "XML specified is not syntactically valid."),
    "KeyBasedAuthenticationNotPermitted": (
        403,
        "Key based authentication is not permitted on this storage account.",
    ),
    "LeaseAlreadyPresent": (409, "There is already a lease present."),
    "LeaseIdMismatchWithFileOperation": (412, "The lease ID specified did not match the lease ID for the file."),
    "LeaseIdMismatchWithLeaseOperation": (
        409,
        "The lease ID specified did not match the lease ID for the file share or file.",
    ),
    "LeaseIdMismatchWithShareOperation": (
        412,
        "The lease ID specified did not match the lease ID for the file share.",
    ),
    "LeaseIsBreakingAndCannotBeAcquired": (
        409,
        "There is already a breaking lease, and it cannot be acquired until the lease is released or broken.",
    ),
    "LeaseIsBreakingAndCannotBeChanged": (409, "There is a breaking lease, and the lease ID cannot be changed."),
    "LeaseIsBrokenAndCannotBeRenewed": (
        409,
        "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.",
    ),
    "LeaseLost": (412, "A lease ID was specified, but the lease for the file share or file has expired."),
    "LeaseNotPresentWithFileOperation": (412, "There is currently no lease on the file."),
    "LeaseNotPresentWithLeaseOperation": (409, "There is currently no lease on the file share or file."),
    "LeaseNotPresentWithShareOperation": (412, "There is currently no lease on the file share."),
    "Md5Mismatch": (
        400,
        "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
    ),
    "MetadataTooLarge": (400, "The metadata specified exceeds the maximum allowed limit (8KB)."),
    "MissingContentLengthHeader": (411, "Content-Length HTTP header was not specified."),
    "MissingRequiredHeader": (400, "An HTTP header that's mandatory for this request is not specified."),
    "MissingRequiredQueryParameter": (
        400,
        "A query parameter that's mandatory for this request is not specified.",
    ),
    "NoAuthenticationInformation": (
        401,
        "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    ),
    "NoPendingCopyOperation": (409, "There is currently no pending copy operation."),
    "OutOfRangeInput": (400, "One of the request inputs is out of range."),
    "OutOfRangeQueryParameterValue": (
        400,
        "One of the query parameters specified in the request URI is outside the permissible range.",
    ),
    "ParentNotFound": (404, "The specified parent path does not exist."),
    "ReadOnlyAttribute": (409, "The specified resource is read-only and cannot be modified at this time."),
    "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum permissible limit."),
    "ResourceAlreadyExists": (409, "The specified resource already exists."),
    "ResourceNotFound": (404, "The specified resource does not exist."),
    "ResourceTypeMismatch": (
        409,
        "The specified resource type does not match the type of the existing resource.",
    ),
    "ServerBusy": (503, "The server is busy."),
    "ShareAlreadyExists": (409, "The specified share already exists."),
    "ShareNotFound": (404, "The specified share does not exist."),
    "ShareSizeLimitReached": (403, "The share, or the disk under the local stand-in for Azure, is full."),
    "UnsupportedHttpVerb": (405, "The resource doesn't support specified Http Verb."),
}


_OF_FAULTS = {
    faults.UNAVAILABLE: "ServerBusy",
    faults.INTERNAL_ERROR: "InternalError",
    faults.FULL_SHARE: "ShareSizeLimitReached",
}
TOKEN_CHALLENGE = {
    "WWW-Authenticate": (
        f"Bearer authorization_uri=https://login.microsoftonline.com/{TENANT}/oauth2/authorize"
        " resource_id=https://storage.azure.com"
    )
}


class StorageError(Exception):
    """An error answer. `details` are the XML elements after Message, in their order."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    def as_xml(self, request_id: str, time: str) -> bytes:
        """The body of the answer; `time` is ISO 8601 with seven digits."""
        details = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in self.details.items())
        message = escape(f"{self.message}\nRequestId:{request_id}\nTime:{time}")
        return (
            '\ufeff<?xml version="1.0" encoding="utf-8"?>'
            f"<Error><Code>{self.code}</Code><Message>{message}</Message>{details}</Error>"
        ).encode()


def error(code: str, headers: Mapping[str, str] | None = None, **details: str) -> StorageError:
    """The catalogue's error; keywords are its details, as `HeaderName="Range"`."""
    status, message = _CATALOGUE[code]
    return StorageError(status, code, message, details, headers)


def invalid_header(name: str, value: str) -> StorageError:
    """A header that cannot be read."""
    return error("InvalidHeaderValue", HeaderName=name, HeaderValue=value)


def of_fault(fault: Fault) -> StorageError:
    """What the fault switch asks for. The service throttles by 503 ServerBusy; which code a 429 has is not known."""
    if fault.kind in _OF_FAULTS:
        return error(_OF_FAULTS[fault.kind], fault.headers)
    if fault.kind == faults.EXPIRED_TOKEN:
        return expired_token()
    code, message = fault.code or "TooManyRequests", fault.message or "The account is being throttled."
    return StorageError(fault.status, code, message, headers=fault.headers)


def expired_token() -> StorageError:
    """A token that was good once."""
    detail = "Lifetime validation failed. The token is expired."
    return error("InvalidAuthenticationInfo", TOKEN_CHALLENGE, AuthenticationErrorDetail=detail)


def not_emulated(what: str) -> StorageError:
    """What Azure Files does and this stand-in does not: 501, never an invented success."""
    return StorageError(501, "NotImplemented", f"The local stand-in for Azure does not do this: {what}.")
