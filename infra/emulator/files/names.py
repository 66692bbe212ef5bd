"""Which names Azure Files accepts for shares, directories and files.

Source: "Naming and referencing shares, directories, files, and metadata" of the storage services REST reference.
"""

from __future__ import annotations

import re

from infra.emulator.files.exceptions import StorageError, error

_SHARE = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9]))*", re.ASCII)
_FORBIDDEN = re.compile(r'["\\:|<>*?\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(?:LPT[1-9]|COM[1-9]|PRN|AUX|NUL|CON|CLOCK\$|\.{1,2})", re.IGNORECASE)
_NAME_CHARACTERS = 255
_PATH_CHARACTERS = 2048
_DEPTH = 250
# The limit of the file systems under a local folder, where Azure counts characters.
_NAME_BYTES = 255


def check_share_name(name: str) -> None:
    """Raises StorageError: 3 to 63 lower-case letters, digits and single hyphens."""
    if not 3 <= len(name) <= 63:
        raise error("OutOfRangeInput")
    if not _SHARE.fullmatch(name):
        raise error("InvalidResourceName")


def split_path(path: str, keep_trailing_dots: bool) -> tuple[str, ...]:
    """The names of a decoded path below its share. Raises StorageError for a name that Azure refuses.

    Without x-ms-allow-trailing-dot the service trims dots at the end of every name.
    """
    names = [name for name in path.split("/") if name]
    if not keep_trailing_dots:
        names = [name if name in (".", "..") else name.rstrip(".") for name in names]
    if len(path) > _PATH_CHARACTERS or len(names) > _DEPTH:
        raise error("InvalidFileOrDirectoryPathName")
    for name in names:
        if not name or _FORBIDDEN.search(name) or _RESERVED.fullmatch(name):
            raise error("InvalidResourceName")
        if len(name) > _NAME_CHARACTERS:
            raise error("InvalidFileOrDirectoryPathName")
        if len(name) > 63 and len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES:
            raise StorageError(
                400,
                "InvalidFileOrDirectoryPathName",
                f"The name is longer than the {_NAME_BYTES} bytes that the disk under the local stand-in can hold.",
            )
        if not name.isascii() and not is_text(name):
            raise error("InvalidResourceName")
    return tuple(names)


def is_text(name: str) -> bool:
    """No half of a surrogate pair: neither Azure nor the disk could hold it."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
