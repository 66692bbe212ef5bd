"""Whether an adapter was trained on the base model that it is to be served on, by the names that both give.

Equal shapes do not prove the same base: models of one family differ in their weights alone. Folders are renamed and
copied, though, so that names decide only where they say something. Knows folders' configurations and no weights.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from folders import ADAPTER_CONFIG, ModelFolderError, read_json
from settings import AdapterFolder

log = logging.getLogger("lineage")

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
    """The name of a model, in a form for comparing, that a path or an id of a model hub ends with; None without one.

    A mirror's organization and another number format are not told apart: `unsloth/Phi-3-mini-bnb-4bit` is `phi-3-mini`.
    """
    parts = [part for part in said.replace("\\", "/").split("/") if part.strip(". ")]
    cached = [match[1] for match in map(_CACHED.fullmatch, parts) if match]
    last = (cached or parts or [""])[-1].strip().lower()
    name = _COPY.sub("", last)
    words = [word for word in re.split(r"[-_. ]+", name) if word]
    return None if all(_EMPTY_WORD.fullmatch(word) for word in words) else name


def check_base(adapter: AdapterFolder, base: Path) -> None:
    """Raise ModelFolderError when adapter and base name different models; where one names none, the log warns.

    The base is named by its folder, and by its config.json where the version of transformers that wrote it does so.
    """
    said = read_json(adapter.folder, ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(said, str) or not said.strip():
        return
    own = read_json(base, "config.json").get("_name_or_path")
    of_base = [str(base), *([own] if isinstance(own, str) else [])]
    trained_on, served_on = model_name(said), {name for name in map(model_name, of_base) if name}
    if trained_on in served_on or any(Path(said).name.lower() == Path(text).name.lower() for text in of_base):
        return
    if trained_on is None or not served_on:
        log.warning(
            "adapter %s was trained on %s (%s of %s says so) and is served on %s",
            adapter.name,
            said,
            ADAPTER_CONFIG,
            adapter.folder,
            base,
        )
        return
    raise ModelFolderError(
        adapter.folder,
        f"was trained on another base model: {ADAPTER_CONFIG} says base_model_name_or_path {said!r}, and it would be "
        f"served on {base} ({' or '.join(sorted(served_on))}); serve it on its own base, or correct "
        "base_model_name_or_path if it was trained on a copy of this one",
    )
