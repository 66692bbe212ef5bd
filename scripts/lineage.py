"""Whether a release's adapters were trained on its base model, by the names that both give.

The replica refuses the same adapters when it starts (inference/lineage.py, which knows nothing of this room; one table
of tests/test_lineage.py holds for both). Said here, it costs neither an upload nor a restart of what serves.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts import share as shares
from scripts.bundle import shown
from scripts.errors import BadInput, Problem
from scripts.release import ADAPTER_MARK, BASE_MARK, Package

if TYPE_CHECKING:
    from scripts.files import ShareClient

TRAINED_ON = "base_model_name_or_path"

_CACHED = re.compile(r"models--(?:.+--)?(.+)")
"""A model's folder in the cache of huggingface_hub; the folders below it are called by commits."""

_COPY = re.compile(
    r"([-_.](hf|unsloth|bnb|gptq|awq|gguf|mlx|quantized|nf4|fp8|fp16|bf16|int[48]|[48]-?bit|w\d+a\d+))+$"
)
"""What stands at the end of a name for the same weights in another format."""

_EMPTY_WORD = re.compile(
    r"(base|model|llm|pretrained|weight|checkpoint|ckpt|snapshot|step|epoch|run|final|latest|last|best|merged|output|out"
    r"|result|cache|data|input|tmp|default|main|sft|dpo|lora|v?\d+|\d+[bkm]|[0-9a-f]{8,})s?"
)
"""Words of folders that a training script, a container or a cache names: of them alone, no model is called."""


def model_name(said: str) -> str | None:
    """The name of a model, in a form for comparing, that a path or an id of a model hub ends with; None without one."""
    parts = [part for part in said.replace("\\", "/").split("/") if part.strip(". ")]
    cached = [match[1] for match in map(_CACHED.fullmatch, parts) if match]
    last = (cached or parts or [""])[-1].strip().lower()
    name = _COPY.sub("", last)
    words = [word for word in re.split(r"[-_. ]+", name) if word]
    return None if all(_EMPTY_WORD.fullmatch(word) for word in words) else name


def check(share: ShareClient, package: Package) -> None:
    """See that no adapter names another base model than the one it would be served on.

    One small read for each adapter that is on the share already, and for the base when an adapter names one. Raises
    BadInput with every adapter that does; where one of the two names none, or a file makes no sense, the replica says
    what there is to say.
    """
    trained_on = {}
    for name, folder in package.release.adapters.items():
        said = _text(_read(share, package, folder, ADAPTER_MARK), TRAINED_ON)
        if model_name(said):
            trained_on[name] = said
    if not trained_on:
        return
    base = package.release.base
    own = _text(_read(share, package, base, BASE_MARK), "_name_or_path")
    served_on = list(dict.fromkeys(name for name in map(model_name, (base, own)) if name))
    problems = [
        Problem(
            _shown(package, package.release.adapters[adapter]),
            TRAINED_ON,
            said,
            f"the adapter {adapter} was trained on another base model than {base}, which is {' or '.join(served_on)}",
            f"Serve it on its own base, or correct {TRAINED_ON} if it was trained on a copy of this one",
        )
        for adapter, said in trained_on.items()
        if served_on and model_name(said) not in served_on
    ]
    if problems:
        raise BadInput(problems)


def _read(share: ShareClient, package: Package, folder: str, name: str) -> Any:
    """A JSON file of a model's folder, from this machine when its deploy brings the folder along; None without one."""
    local = _local(package, folder, name)
    try:
        if local is not None:
            return json.loads(local.read_bytes())
        found = shares.read_small_file(share, f"{folder}/{name}")
        return json.loads(found.content) if found else None
    except (OSError, ValueError, RecursionError):
        return None


def _local(package: Package, folder: str, name: str) -> Path | None:
    files = (file for bundle in package.bundles if bundle.folder == folder for file in bundle.files)
    return next((file.source for file in files if file.entry.path == name), None)


def _shown(package: Package, folder: str) -> str:
    local = _local(package, folder, ADAPTER_MARK)
    return shown(local) if local is not None else f"{folder}/{ADAPTER_MARK} on the share"


def _text(document: Any, key: str) -> str:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, str) else ""
