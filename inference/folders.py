"""What stands in a model's or an adapter's folder: every file is looked at before anything of it is loaded, so that a
broken folder is named with its reason. Reads headers only; knows neither torch nor what a model does with a tensor.
"""

from __future__ import annotations

import errno
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")

LARGEST_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit for its header."""

ELEMENT_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""The format's names of number formats that fill whole bytes, as the safetensors crate lists them (Dtype)."""


LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Why a file cannot be read that is as it is; other reasons are of the share and the network, and may pass."""


class ModelFolderError(ValueError):
    """A model or adapter folder that cannot be used; the message names the folder and the reason."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")


class ModelFolderUnread(OSError):
    """A folder that could not be read this time: its share did not answer, for one. The message is as above."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")


def unusable(folder: Path, reason: str, error: BaseException) -> ModelFolderError | ModelFolderUnread:
    """What to raise for a folder at which `error` came up: the second when that, or what it came of, may pass."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno not in LASTING:
            return ModelFolderUnread(folder, reason)
        cause = cause.__cause__ or cause.__context__
    return ModelFolderError(folder, reason)


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's numbers lie: `bytes` bytes from `begin` on in `file`."""

    file: Path
    dtype: str
    """The format's own name, such as BF16."""
    shape: tuple[int, ...]
    begin: int
    bytes: int


def check_model_folder(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a base model's folder by name. Raises ModelFolderError when a part is missing or broken, OSError
    when it cannot be read now."""
    _require_folder(folder)
    read_json(folder, "config.json")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelFolderError(folder, f"has no tokenizer ({', '.join(TOKENIZERS[:-1])} or {TOKENIZERS[-1]})")
    if not (folder / INDEX).is_file():
        return _stored_tensors(folder, WEIGHTS)
    weight_map = read_json(folder, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(folder, f"{INDEX} has no weight_map")
    files = {name: _stored_tensors(folder, name) for name in sorted(set(map(str, weight_map.values())))}
    for tensor, name in weight_map.items():
        if tensor not in files[str(name)]:
            raise ModelFolderError(folder, f"{INDEX} says that {name} holds {tensor}, and it does not")
    return {tensor: stored for held in files.values() for tensor, stored in held.items()}


def check_adapter_folder(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a LoRA adapter's folder by name. Raises as above."""
    _require_folder(folder)
    config = read_json(folder, ADAPTER_CONFIG)
    kind, bias = config.get("peft_type"), config.get("bias", "none")
    if bias != "none":
        # https://huggingface.co/docs/peft: even with the adapter disabled, the model is no longer the base model then.
        raise ModelFolderError(
            folder,
            f"{ADAPTER_CONFIG} says bias {bias!r}: such an adapter replaces the base model's own biases, so that "
            "nothing else could be served beside it; train it with bias 'none'",
        )
    if kind != "LORA":
        raise ModelFolderError(folder, f"{ADAPTER_CONFIG} says peft_type {kind!r}; only LORA adapters are served")
    return _stored_tensors(folder, ADAPTER_WEIGHTS)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder. Raises ModelFolderError when there is none, OSError when it cannot be read now."""
    try:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(folder, f"has no {name}") from None
    except OSError as error:
        raise unusable(folder, f"{name} cannot be read ({error.strerror})", error) from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(folder, f"{name} is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ModelFolderError(folder, f"{name} is not a JSON object")
    return document


def shape_words(shape: tuple[int, ...]) -> str:
    """[4096, 16], as model code and error messages write shapes."""
    return str(list(shape))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        nearest = next(parent for parent in folder.parents if parent.exists())
        raise ModelFolderError(folder, f"there is no such folder (it exists up to {nearest})")


def _stored_tensors(folder: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of one file, by its header: eight bytes with its length, the header as JSON, then the numbers without
    gaps to the end of the file (https://huggingface.co/docs/safetensors)."""
    file = folder / name
    if not file.is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {', '.join(others)} would run code when loaded: save it as safetensors" if others else ""
        raise ModelFolderError(folder, f"has no {name}{hint}")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= min(LARGEST_HEADER_BYTES, size - 8):
                raise ModelFolderError(folder, f"{name} is not a safetensors file, or is cut off ({size} bytes)")
            header = stream.read(length)
    except OSError as error:
        raise unusable(folder, f"{name} cannot be read ({error.strerror})", error) from None
    try:
        entries = json.loads(header)
        tensors = {key: _stored(file, entry, 8 + length) for key, entry in entries.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelFolderError(folder, f"{name} has a broken safetensors header") from None
    _check_layout(folder, name, tensors, 8 + length, size)
    return tensors


def _stored(file: Path, entry: Mapping[str, Any], data: int) -> StoredTensor:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    return StoredTensor(
        file, str(entry["dtype"]), tuple(int(side) for side in entry["shape"]), data + begin, end - begin
    )


def _check_layout(folder: Path, name: str, tensors: Mapping[str, StoredTensor], data: int, size: int) -> None:
    at = data
    for key, stored in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].bytes)):
        if stored.dtype not in ELEMENT_BYTES:
            raise ModelFolderError(folder, f"{name}: {key} has the number format {stored.dtype}, which is not served")
        needed = math.prod(stored.shape) * ELEMENT_BYTES[stored.dtype]
        if stored.begin != at or stored.bytes != needed or min(stored.shape, default=0) < 0:
            raise ModelFolderError(
                folder,
                f"{name} has a broken safetensors header: {key} is {stored.dtype} {shape_words(stored.shape)} in "
                f"{stored.bytes} bytes at {stored.begin}",
            )
        at += stored.bytes
    if size != at:
        raise ModelFolderError(folder, f"{name} has {size} bytes and its header says {at}: it was not copied whole")
