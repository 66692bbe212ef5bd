"""Azure Files' REST data plane for SMB shares, over real folders.

service: the entry; routes: which operation; *_operations: HTTP; shares, tree: state and rules on disk; leases, names,
formats, signatures: rules without state; authorization: who may.
"""

from infra.emulator.files.authorization import AccountDirectory
from infra.emulator.files.exceptions import StorageError
from infra.emulator.files.service import FileService

__all__ = ["AccountDirectory", "FileService", "StorageError"]
