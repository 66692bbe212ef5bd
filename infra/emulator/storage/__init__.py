"""Microsoft.Storage: storage accounts with their keys, and the management side of their file shares."""

from infra.emulator.storage.provider import StorageProvider

__all__ = ["StorageProvider"]
