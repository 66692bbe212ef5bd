"""Operations on the service and on shares."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from aiohttp import web

from infra.emulator.files import formats, leases
from infra.emulator.files.backend import Backend, permission_of, remember_permission
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import error, invalid_header, not_emulated
from infra.emulator.files.formats import element
from infra.emulator.files.shares import DEFAULT_QUOTA_GIB, MAXIMUM_QUOTA_GIB, Share

_TIERS = ("TransactionOptimized", "Hot", "Cool", "Premium")
_POLICIES = 5
_PAGE = 5000
_SERVICE_PROPERTIES = (
    "<StorageServiceProperties>"
    "<HourMetrics><Version>1.0</Version><Enabled>true</Enabled><IncludeAPIs>true</IncludeAPIs>"
    "<RetentionPolicy><Enabled>true</Enabled><Days>7</Days></RetentionPolicy></HourMetrics>"
    "<MinuteMetrics><Version>1.0</Version><Enabled>false</Enabled>"
    "<RetentionPolicy><Enabled>false</Enabled></RetentionPolicy></MinuteMetrics>"
    "<Cors />"
    "<ProtocolSettings><SMB><Multichannel><Enabled>false</Enabled></Multichannel></SMB></ProtocolSettings>"
    "</StorageServiceProperties>"
)


async def get_service_properties(_: Backend, context: Context) -> web.Response:
    """Get File Service Properties: those of a new account, which nothing here changes."""
    return context.xml(formats.xml(_SERVICE_PROPERTIES))


async def list_shares(backend: Backend, context: Context) -> web.Response:
    """List Shares: prefix, marker, maxresults, include=metadata."""
    query = context.query
    include = {word.strip().lower() for word in query.get("include", "").split(",") if word.strip()}
    if include - {"metadata", "snapshots", "deleted"}:
        raise error("InvalidQueryParameterValue", QueryParameterName="include", QueryParameterValue=query["include"])
    prefix, marker = query.get("prefix", ""), query.get("marker", "")
    found = [item for item in backend.shares.list(context.account) if item[0].startswith(prefix)]
    after = marker.rpartition("/")[2]
    found = [item for item in found if item[0] >= after]
    size = page_size(query.get("maxresults"))
    items = "".join(_share_xml(name, share, "metadata" in include) for name, share in found[:size])
    following = f"/{context.account}/{found[size][0]}" if len(found) > size else ""
    body = f'<EnumerationResults ServiceEndpoint="{context.endpoint}">'
    body += "".join(
        element(tag, query[name])
        for tag, name in (("Prefix", "prefix"), ("Marker", "marker"), ("MaxResults", "maxresults"))
        if query.get(name)
    )
    body += f"<Shares>{items}</Shares>" if items else "<Shares />"
    body += element("NextMarker", following) + "</EnumerationResults>"
    return context.xml(formats.xml(body))


def page_size(text: str | None) -> int:
    """How many items a list may hold. Raises StorageError 400."""
    if text is None:
        return _PAGE
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise error(
            "OutOfRangeQueryParameterValue",
            QueryParameterName="maxresults",
            QueryParameterValue=text,
            MinimumAllowed="1",
            MaximumAllowed=str(_PAGE),
        )
    return min(int(text), _PAGE)


def _share_xml(name: str, share: Share, with_metadata: bool) -> str:
    lease = leases.headers(leases.load(share.lease))
    duration = lease.get("x-ms-lease-duration")
    properties = (
        element("Last-Modified", formats.http_date(share.modified))
        + element("Etag", formats.etag(share.modified))
        + element("LeaseStatus", lease["x-ms-lease-status"])
        + element("LeaseState", lease["x-ms-lease-state"])
        + (element("LeaseDuration", duration) if duration else "")
        + element("Quota", str(share.quota_gib))
        + element("AccessTier", share.access_tier)
        + element("AccessTierChangeTime", formats.http_date(share.access_tier_changed))
        + element("DefaultEncryptionScope", "$account-encryption-key")
        + element("DenyEncryptionScopeOverride", "false")
    )
    metadata = formats.metadata_xml(share.metadata) if with_metadata else ""
    return f"<Share>{element('Name', name)}<Properties>{properties}</Properties>{metadata}</Share>"


async def create_share(backend: Backend, context: Context) -> web.Response:
    """Create Share."""
    if (context.header("x-ms-enabled-protocols") or "SMB").upper() != "SMB":
        raise not_emulated("NFS shares (x-ms-enabled-protocols)")
    tier = _tier(context)
    metadata = formats.parse_metadata(context.request.headers.items())
    share = backend.shares.create(context.account, context.share, _quota(context) or DEFAULT_QUOTA_GIB, metadata)
    if tier is not None:
        share.access_tier = tier
        backend.shares.put(context.account, context.share, share)
    return context.answer(201, _versions(share))


async def get_share_properties(backend: Backend, context: Context) -> web.Response:
    """Get Share Properties, and Get Share Metadata, which answers the less of the two."""
    share = backend.shares.get(context.account, context.share)
    lease = backend.shares.lease(share)
    leases.check_given(lease, context.header("x-ms-lease-id"), noun="Share")
    headers = {**_versions(share), **formats.metadata_headers(share.metadata)}
    if context.query.get("comp") != "metadata":
        headers |= {
            "x-ms-share-quota": str(share.quota_gib),
            "x-ms-access-tier": share.access_tier,
            "x-ms-access-tier-change-time": formats.http_date(share.access_tier_changed),
            "x-ms-has-immutability-policy": "false",
            "x-ms-has-legal-hold": "false",
            **leases.headers(lease),
        }
    return context.answer(200, headers)


async def delete_share(backend: Backend, context: Context) -> web.Response:
    """Delete Share, with all that is in it."""
    _writable(backend, context)
    backend.shares.delete(context.account, context.share)
    return context.answer(202)


async def set_share_properties(backend: Backend, context: Context) -> web.Response:
    """Set Share Properties: quota and access tier."""
    share = _writable(backend, context)
    quota, tier = _quota(context), _tier(context)
    if quota is not None:
        share.quota_gib = quota
    if tier is not None and tier != share.access_tier:
        share.access_tier, share.access_tier_changed = tier, formats.now()
    return context.answer(200, _versions(backend.shares.touch(context.account, context.share, share)))


async def set_share_metadata(backend: Backend, context: Context) -> web.Response:
    """Set Share Metadata: replaces all of it."""
    share = _writable(backend, context)
    share.metadata = formats.parse_metadata(context.request.headers.items())
    return context.answer(200, _versions(backend.shares.touch(context.account, context.share, share)))


async def get_share_stats(backend: Backend, context: Context) -> web.Response:
    """Get Share Stats: the bytes of all files."""
    share = backend.shares.get(context.account, context.share)
    used = await backend.shares.measure(context.account, context.share)
    body = f"<ShareStats>{element('ShareUsageBytes', str(used))}</ShareStats>"
    return context.xml(formats.xml(body), _versions(share))


async def get_share_acl(backend: Backend, context: Context) -> web.Response:
    """Get Share ACL: the stored access policies."""
    share = backend.shares.get(context.account, context.share)
    items = ""
    for policy in share.access_policies:
        inner = "".join(
            element(tag, policy[name])
            for tag, name in (("Start", "start"), ("Expiry", "expiry"), ("Permission", "permission"))
            if name in policy
        )
        access = f"<AccessPolicy>{inner}</AccessPolicy>" if inner else ""
        items += f"<SignedIdentifier>{element('Id', policy['id'])}{access}</SignedIdentifier>"
    body = f"<SignedIdentifiers>{items}</SignedIdentifiers>" if items else "<SignedIdentifiers />"
    return context.xml(formats.xml(body), _versions(share))


async def set_share_acl(backend: Backend, context: Context) -> web.Response:
    """Set Share ACL: replaces the stored access policies, five at most."""
    async with backend.bodies.read(context.request) as body:
        policies = _parse_policies(bytes(body))
    share = _writable(backend, context)
    share.access_policies = policies
    return context.answer(200, _versions(backend.shares.touch(context.account, context.share, share)))


async def create_permission(backend: Backend, context: Context) -> web.Response:
    """Create Permission: keeps a security descriptor at the share and answers its key."""
    async with backend.bodies.read(context.request) as body:
        try:
            descriptor = json.loads(body)["permission"]
        except (ValueError, KeyError, TypeError):
            raise error("InvalidInput") from None
    if not isinstance(descriptor, str):
        raise error("InvalidInput")
    return context.answer(201, {"x-ms-file-permission-key": remember_permission(backend, context, descriptor)})


async def get_permission(backend: Backend, context: Context) -> web.Response:
    """Get Permission: the security descriptor of a key."""
    share = backend.shares.get(context.account, context.share)
    descriptor = permission_of(share, context.required("x-ms-file-permission-key"))
    return context.answer(200, None, json.dumps({"permission": descriptor}).encode(), "application/json")


def _parse_policies(body: bytes) -> list[dict[str, str]]:
    if not body:
        return []
    try:
        # Who sends it holds a key of the account, and expat bounds how far entities expand.
        root = ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError:
        raise error("InvalidXmlDocument") from None
    policies = []
    for identifier in root.iter("SignedIdentifier"):
        policy = {"id": identifier.findtext("Id") or ""}
        for tag in ("Start", "Expiry"):
            text = identifier.findtext(f"AccessPolicy/{tag}")
            if text:
                ticks = formats.parse_iso(text)
                if ticks is None:
                    raise error("InvalidXmlDocument")
                policy[tag.lower()] = formats.iso(ticks)
        permission = identifier.findtext("AccessPolicy/Permission")
        if permission:
            policy["permission"] = permission
        if not 1 <= len(policy["id"]) <= 64:
            raise error("InvalidXmlDocument")
        policies.append(policy)
    if len(policies) > _POLICIES:
        raise error("InvalidXmlDocument")
    return policies


def _versions(share: Share) -> dict[str, str]:
    return {"ETag": formats.etag(share.modified), "Last-Modified": formats.http_date(share.modified)}


def _writable(backend: Backend, context: Context) -> Share:
    share = backend.shares.get(context.account, context.share)
    leases.check_write(backend.shares.lease(share), context.header("x-ms-lease-id"), noun="Share")
    return share


def _quota(context: Context) -> int | None:
    return formats.parse_count("x-ms-share-quota", context.header("x-ms-share-quota"), 1, MAXIMUM_QUOTA_GIB)


def _tier(context: Context) -> str | None:
    text = context.header("x-ms-access-tier")
    if text is not None and text not in _TIERS:
        raise invalid_header("x-ms-access-tier", text)
    return text
