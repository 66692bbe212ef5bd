"""What Azure Files answers -> values and errors: its headers and its XML.

Sources: the pages List Directories and Files, Get File Properties, and Status and error codes of its REST reference.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from scripts import service_errors
from scripts.errors import CloudError, NotSignedIn
from scripts.http_answer import Answer

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

METADATA = "x-ms-meta-"
"""What the header of a metadata's name begins with."""


@dataclass(frozen=True)
class FileProperties:
    """What the service tells of a file. Times are as it writes them, ISO 8601 in UTC to 100 ns.

    content_md5 is in base64, None for a file that was given none; copy_status is pending, success, aborted or failed,
    None for a file that is not a copy. Metadata's names are in lower case.
    """

    bytes: int
    metadata: Mapping[str, str]
    content_md5: str | None
    copy_status: str | None
    created: str
    last_written: str


def properties(answer: Answer) -> FileProperties:
    """Of the answer to Get File Properties."""
    told = answer.headers
    return FileProperties(
        bytes=int(told.get("content-length", "0")),
        metadata=metadata(answer),
        content_md5=told.get("content-md5"),
        copy_status=told.get("x-ms-copy-status"),
        created=told.get("x-ms-file-creation-time", ""),
        last_written=told.get("x-ms-file-last-write-time", ""),
    )


def metadata(answer: Answer) -> dict[str, str]:
    """A file's metadata, by names in lower case."""
    return {name[len(METADATA) :]: value for name, value in answer.headers.items() if name.startswith(METADATA)}


def size_in_all(answer: Answer) -> int:
    """Bytes of the file that an answer has a range, or all, of."""
    told = answer.headers.get("content-range", "").rpartition("/")[2]
    return int(told) if told.isascii() and told.isdigit() else len(answer.content)


def listed(what: str, answer: Answer) -> tuple[list[tuple[str, int | None]], str]:
    """A page of a list, (name, bytes or None for a folder), and where the next one begins; empty for the last.

    Raises CloudError, with what says what was being done, for an answer that is not a listing.
    """
    root = _parsed(answer.content)
    entries = None if root is None else root.find("Entries")
    if root is None or entries is None:
        raise CloudError(
            f"{what[:1].upper()}{what[1:]} failed: the answer is not an Azure Files listing.",
            "Check that nothing answers in its place, such as a proxy that asks for a password.",
        )
    found: list[tuple[str, int | None]] = []
    for entry in entries:
        name = entry.find("Name")
        text = "" if name is None else name.text or ""
        # A name with characters that no XML can hold is percent-encoded.
        if name is not None and name.get("Encoded") == "true":
            text = unquote(text)
        size = None if entry.tag == "Directory" else int(entry.findtext("Properties/Content-Length", "0"))
        found.append((text, size))
    return found, root.findtext("NextMarker", "")


def refusal(what: str, answer: Answer, *, if_unknown: str | None = None) -> CloudError:
    """The error for an answer that says no. Its code stands in a header, a sentence only in a body.

    if_unknown is the credential's own next step for when it is not taken for good.
    """
    root = _parsed(answer.content)
    code = answer.headers.get("x-ms-error-code") or ("" if root is None else root.findtext("Code", ""))
    sentence = "" if root is None else root.findtext("Message", "").partition("\n")[0].strip()
    message = sentence or f"HTTP status {answer.status} {answer.reason}".strip()
    error = service_errors.from_body(what, {"code": code, "message": message}, answer.status)
    if if_unknown is None or not isinstance(error, NotSignedIn):
        return error
    # Of one line where it is about times, of many where it is what was to be signed.
    detail = "" if root is None else root.findtext("AuthenticationErrorDetail", "").strip()
    details = [detail] if detail and "\n" not in detail else []
    return NotSignedIn(error.message, if_unknown, details=details, code=error.code, status=error.status)


def _parsed(document: bytes) -> Element | None:
    """The root of an XML document; None for what is none."""
    # Of what a deploy asks, most is answered without a body.
    from xml.etree import ElementTree

    try:
        return ElementTree.fromstring(document) if document else None  # noqa: S314 (from the service, over TLS)
    except ElementTree.ParseError:
        return None
