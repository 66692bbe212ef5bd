"""The image's build: what makes a new image is all that the Dockerfile puts into it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = "inference/Dockerfile"


def test_whatever_the_image_is_made_of_makes_a_new_one() -> None:
    """A file that is missing in the workflow would leave an image of an older lock under the name of the new one."""
    copied: set[str] = set()
    for sources in re.findall(r"^COPY (.+) \S+$", (ROOT / DOCKERFILE).read_text(encoding="utf-8"), re.MULTILINE):
        copied.update(sources.split())
    assert copied
    for path in copied:
        assert (ROOT / path).is_file(), f"{DOCKERFILE} copies {path}"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text(encoding="utf-8"))
    # YAML 1.1 takes the key `on` for true.
    assert set(workflow[True]["push"]["paths"]) == {DOCKERFILE, *copied}
    script = workflow["jobs"]["image"]["steps"][-1]["run"]
    hashed = re.search(r"contents=\$\(cat ([^|]+) \| sha256sum", script)
    assert hashed is not None, script
    assert set(hashed[1].split()) == {DOCKERFILE, *copied}
