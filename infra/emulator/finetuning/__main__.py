"""`python -m infra.emulator.finetuning`: leaves the demo models on the stand-in's share, as a fine-tuning job would.

Training happens once on a machine, uploading only what is missing. Messages go to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from infra.emulator.finetuning.cache import demo_models
from infra.emulator.finetuning.recipe import adapter_folder, base_folder


def main() -> int:
    """Exit codes: 0 the models are there, 1 the stand-in failed, 2 usage, 130 interrupted."""
    arguments = _parser().parse_args()
    try:
        if arguments.train_only:
            print(demo_models())
            return 0
        return _publish(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing half done counts; run the same command again.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.emulator.finetuning",
        description="The fine-tuning job's stand-in: trains a tiny model and an adapter and puts them on the share.",
    )
    parser.add_argument(
        "--stand-in",
        type=Path,
        default=Path(os.environ.get("INFEROPS_STAND_IN") or ".local/stand-in.json"),
        metavar="FILE",
        help="the line that the stand-in announced (%(default)s)",
    )
    parser.add_argument("--resource-group", default="rg-inference-local", metavar="NAME", help="(%(default)s)")
    parser.add_argument("--location", default="swedencentral", help="of a new resource group (%(default)s)")
    parser.add_argument("--subscription", metavar="ID", help="(default: the stand-in's own)")
    parser.add_argument("--train-only", action="store_true", help="train, print the folder with the models, and end")
    return parser


def _publish(arguments: argparse.Namespace) -> int:
    # The SDK takes half a second to import, and --help and --train-only need none of it.
    from infra.emulator.finetuning.publish import Announcement, Place, PublishError, file_share, upload

    try:
        announced = Announcement.read(arguments.stand_in)
        place = Place(arguments.subscription or announced.subscription, arguments.resource_group, arguments.location)
        with file_share(announced, place) as share:
            uploaded = upload(demo_models(), share)
    except PublishError as error:
        print(error, file=sys.stderr)
        return 1
    where = f"the file share {place.share} ({base_folder()}, {adapter_folder()})"
    if uploaded:
        print(f"Uploaded {len(uploaded)} files of the demo models to {where}.", file=sys.stderr)
    else:
        print(f"The demo models are on {where} already; nothing to do.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
