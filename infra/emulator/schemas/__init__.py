"""The official schemas of resource types, and request bodies held against them. README.md says where they come from."""

from infra.emulator.schemas.bodies import Problem, problems
from infra.emulator.schemas.library import FOLDER, Schema, load
from infra.emulator.schemas.refusals import check

__all__ = ["FOLDER", "Problem", "Schema", "check", "load", "problems"]
