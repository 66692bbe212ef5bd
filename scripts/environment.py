"""An environment's name -> a frozen Environment, or every problem in its files at once.

The only reader of environments/. Knows the keys of environment.yaml. Knows no network: whether the subscription
or a folder on the share exists is not asked.

`python -m scripts.environment` writes environments/environment.schema.json, by which editors check environment.yaml.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from scripts import parameters
from scripts import template as templates
from scripts.errors import BadInput, Problem, did_you_mean
from scripts.template import Template

FOLDER = Path("environments")
ENVIRONMENT_FILE = "environment.yaml"
PARAMETERS_FILE = "inference.parameters.json"
BASE_PARAMETERS = templates.FOLDER / PARAMETERS_FILE
SCHEMA_FILE = FOLDER / "environment.schema.json"
WRITE_SCHEMA_COMMAND = "python -m scripts.environment"

PLACEHOLDER = "00000000-0000-0000-0000-000000000000"

# The folder adapters/base/ on the share holds uploaded base models, so no adapter can have this name, in any case:
# Azure Files ignores case.
RESERVED_ADAPTER_NAME = "base"

GUID = {
    "type": "string",
    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "patternErrorMessage": f"must be a GUID such as {PLACEHOLDER}",
}

# The names follow Azure's rules for folders on a share, which are those of Windows: learn.microsoft.com,
# "Naming and referencing shares, directories, files, and metadata".
FOLDER_TEXT = {
    "type": "string",
    "pattern": r"^(\./)?[^\\/:*?\"<>|\s.]([^\\/:*?\"<>|]*[^\\/:*?\"<>|\s.])?"
    r"(/[^\\/:*?\"<>|\s.]([^\\/:*?\"<>|]*[^\\/:*?\"<>|\s.])?)*$",
    "patternErrorMessage": (
        "must be a folder with / between its parts, relative to the share or to the repository, "
        r"without .. and without any of \ : * ? < > | and quotes"
    ),
}

# The model of environment.yaml, in the JSON Schema keywords that Checker below knows and editors understand
# (patternErrorMessage is an editors' extension). SCHEMA_FILE publishes it, `load` checks by it.
SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "environment.yaml",
    "description": "One environment: where its resources are, who may change them, which model it serves.",
    "type": "object",
    "additionalProperties": False,
    "required": ["cloud", "subscription", "resource_group", "location", "model"],
    "properties": {
        "cloud": {
            "description": "The cloud to use; local is the stand-in on this machine.",
            "type": "string",
            "enum": ["azure", "azure-usgovernment", "azure-china", "local"],
        },
        "subscription": {"description": "The subscription's id.", **GUID},
        "resource_group": {
            "description": "The resource group that holds everything; provision creates it when it is missing.",
            "type": "string",
            "pattern": r"^[\w().-]{0,89}[\w()-]$",
            "patternErrorMessage": (
                "must have 1 to 90 letters, digits or any of _ - . ( ) and must not end with a full stop"
            ),
        },
        "location": {
            "description": "The region in which the resource group is created when it is missing.",
            "type": "string",
            "pattern": "^[a-z0-9]+$",
            "patternErrorMessage": "must be a region's short name, such as swedencentral",
        },
        "identity": {
            "description": "Who signs in from a workflow. On a person's machine the Azure CLI's login is used.",
            "type": ["object", "null"],
            "additionalProperties": False,
            "required": ["tenant", "what_if_client", "deploy_client"],
            "properties": {
                "tenant": {"description": "The directory's id.", **GUID},
                "what_if_client": {"description": "The client id of the identity that may only read.", **GUID},
                "deploy_client": {"description": "The client id of the identity that may change things.", **GUID},
            },
        },
        "model": {
            "description": "What the endpoint serves.",
            "type": "object",
            "additionalProperties": False,
            "required": ["base"],
            "properties": {
                "base": {"description": "The base model: a folder on the share, or in the repository.", **FOLDER_TEXT},
                "adapters": {
                    "description": "LoRA adapters: the name is the `model` of an API request, the value a folder.",
                    "type": ["object", "null"],
                    "propertyNames": {
                        "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?$",
                        "patternErrorMessage": "must be a name of at most 64 letters, digits or any of . _ -",
                    },
                    "additionalProperties": FOLDER_TEXT,
                },
            },
        },
        "proof": {
            "description": "What the endpoint must answer before its address is published.",
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                "prompts": {
                    "type": ["array", "null"],
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["prompt"],
                        "properties": {
                            "prompt": {"description": "The question.", "type": "string", "minLength": 1},
                            "contains": {"description": "Text that the answer must hold.", "type": ["string", "null"]},
                            "model": {
                                "description": "The adapter or the base that is asked; null: what answers by default.",
                                "type": ["string", "null"],
                            },
                        },
                    },
                },
                "slowest": {
                    "description": "The least tokens in a second, as a share of those of the release in use, over all "
                    "prompts: 0.5 brings it back when the new release is not half as quick. null: not compared.",
                    "type": ["number", "null"],
                    "exclusiveMinimum": 0,
                    "maximum": 1,
                },
            },
        },
        "promote_from": {
            "description": "The environment that a merge deploys before this one; when it fails, this one is left "
            "out. null for none. A button, and the command, do not look at it.",
            "type": ["string", "null"],
        },
    },
}


@dataclass(frozen=True)
class Identity:
    tenant: str
    what_if_client: str
    deploy_client: str


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model or an adapter, named as in environment.yaml without a leading `./`."""

    path: str
    local: Path | None
    """The absolute folder in the repository; None when the folder is on the share."""


@dataclass(frozen=True)
class Model:
    base: ModelFolder
    adapters: Mapping[str, ModelFolder]


@dataclass(frozen=True)
class Prompt:
    prompt: str
    contains: str | None
    model: str | None = None


@dataclass(frozen=True)
class ProofSettings:
    prompts: tuple[Prompt, ...]
    slowest: float | None = None
    """The least share of the earlier release's tokens in a second; None when speed is no condition."""


@dataclass(frozen=True)
class Environment:
    name: str
    cloud: str
    subscription: str
    resource_group: str
    location: str
    identity: Identity | None
    model: Model
    proof: ProofSettings
    promote_from: str | None
    """The environment that comes before this one in the order of a merge; nothing else depends on it."""
    parameters: Mapping[str, Mapping[str, Any]]
    """ARM form: name -> {"value": ...} or {"reference": ...}; the environment's own over the base's. A value of None
    means the template's default."""
    root: Path
    """The repository that it was read from, absolute; what is relative in its files is relative to this."""
    files: tuple[Path, ...]
    """What this was read from, absolute: environment.yaml, its parameters, the base parameters."""


def names(root: Path) -> tuple[str, ...]:
    """The environments of the repository at root, sorted. Raises BadInput when root is no such repository."""
    if not (root / FOLDER).is_dir():
        message = f"this folder is not the repository: it has no {FOLDER}/"
        step = "Run the command in the repository's root, or name that: inferops --root FOLDER VERB ENVIRONMENT"
        raise BadInput([Problem(str(root), "", None, message, step)])
    return tuple(sorted(file.parent.name for file in (root / FOLDER).glob(f"*/{ENVIRONMENT_FILE}")))


def placeholders(environment: Environment) -> tuple[str, ...]:
    """The keys of environment.yaml that still hold an all-zero GUID, in the file's words, such as identity.tenant."""
    values = {"subscription": environment.subscription}
    if environment.identity is not None:
        values |= {f"identity.{key}": value for key, value in vars(environment.identity).items()}
    return tuple(key for key, value in values.items() if value == PLACEHOLDER)


def load(name: str, root: Path, template: Template | None = None) -> Environment:
    """The environment called name of the repository at root; template is read from there when not given.

    Raises BadInput with every problem of environment.yaml, of both parameters files and of the template.
    """
    folder = root / FOLDER / name
    if name not in names(root):
        raise BadInput([_unknown_environment(name, root)])
    file = folder / ENVIRONMENT_FILE
    shown = _shown(file, root)
    problems: list[Problem] = []
    data = _read_environment(file, shown, problems)
    if isinstance(data, dict):
        problems += _model_problems(data, shown, root) + _promotion_problems(data, name, shown, root)
        problems += _proof_problems(data, shown)
    try:
        template = template or templates.load(root)
    except BadInput as error:
        problems += error.problems
    values = parameters.merged(root / BASE_PARAMETERS, folder / PARAMETERS_FILE, root, template, problems)
    if problems:
        raise BadInput(problems)
    identity, model, proof = data.get("identity"), data["model"], data.get("proof") or {}
    return Environment(
        name=name,
        cloud=data["cloud"],
        subscription=data["subscription"],
        resource_group=data["resource_group"],
        location=data["location"],
        identity=None if identity is None else Identity(**identity),
        model=Model(
            base=_model_folder(model["base"], root),
            adapters=MappingProxyType(
                {adapter: _model_folder(text, root) for adapter, text in (model.get("adapters") or {}).items()}
            ),
        ),
        proof=ProofSettings(
            tuple(
                Prompt(item["prompt"], item.get("contains"), item.get("model")) for item in proof.get("prompts") or []
            ),
            proof.get("slowest"),
        ),
        promote_from=data.get("promote_from"),
        parameters=MappingProxyType(values),
        root=root,
        files=(file, folder / PARAMETERS_FILE, root / BASE_PARAMETERS),
    )


def _unknown_environment(name: str, root: Path) -> Problem:
    known = names(root)
    file = FOLDER / name / ENVIRONMENT_FILE
    if re.fullmatch(r"\w[\w.-]*", name) and (root / FOLDER / name).is_dir():
        return Problem(str(file), "", None, "this file is missing", "Write it, or copy it from another environment")
    return Problem(
        None,
        "environment",
        repr(name),
        f"there is no environment of this name{did_you_mean(name, known)}",
        f"Name one of: {', '.join(known)}" if known else f"Make one: {file}",
    )


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


class Checker:
    """Holds YAML nodes against the keywords that SCHEMA uses and gathers problems with their lines."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, schema: Mapping[str, Any], key: str) -> Any:
        """The node as plain Python; what has a problem is left out, after the problem was noted."""
        allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        found = _yaml_type(node)
        if found not in allowed and not (found == "integer" and "number" in allowed):
            unquoted = isinstance(node, yaml.ScalarNode) and "string" in allowed and found != "null"
            if not unquoted or self.text(node, schema, key, node.value) is not None:
                step = "Put it in quotes" if unquoted else "Correct it"
                self.note(node, key, _excerpt(node), f"must be {_listed(allowed)}, not {_listed([found])}", step)
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, schema, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, schema["items"], f"{key}[{index}]") for index, item in enumerate(node.value)]
        if found == "null":
            return None
        if found in ("integer", "number"):
            return self.number(node, schema, key, str(node.value))
        return self.text(node, schema, key, str(node.value))

    def mapping(self, node: yaml.MappingNode, schema: Mapping[str, Any], key: str) -> dict[str, Any]:
        known: Mapping[str, Any] = schema.get("properties", {})
        other = schema.get("additionalProperties", False)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "(not text)"
            path = f"{key}.{name}" if key else name
            if name in result:
                self.note(key_node, path, None, "the key stands here twice", "Remove one of the two")
                continue
            result[name] = None
            if name in known:
                result[name] = self.value(value_node, known[name], path)
            elif other:
                self.text(key_node, schema.get("propertyNames", {}), path, name)
                result[name] = self.value(value_node, other, path)
            else:
                self.note(
                    key_node,
                    path,
                    None,
                    f"unknown key{did_you_mean(name, known)}",
                    f"The keys here are: {', '.join(known)}",
                )
        for name in schema.get("required", []):
            if name not in result:
                described = known[name].get("description", "")
                self.note(node, f"{key}.{name}" if key else name, None, "the key is missing", f"Add it: {described}")
        return result

    def text(self, node: yaml.Node, schema: Mapping[str, Any], key: str, text: str) -> str | None:
        if "enum" in schema and text not in schema["enum"]:
            meant = did_you_mean(text, schema["enum"])
            self.note(node, key, repr(text), f"no such value{meant}", f"Use one of: {', '.join(schema['enum'])}")
            return None
        if len(text) < schema.get("minLength", 0):
            self.note(node, key, repr(text), "must not be empty", "Write the text")
            return None
        if "pattern" in schema and not re.search(schema["pattern"], text):
            self.note(node, key, repr(text), str(schema["patternErrorMessage"]), "Correct it")
            return None
        return text

    def number(self, node: yaml.Node, schema: Mapping[str, Any], key: str, text: str) -> float | None:
        above, most = schema["exclusiveMinimum"], schema["maximum"]
        try:
            number = float(text)
        except ValueError:  # YAML knows more forms than Python, such as .inf
            number = math.nan
        if not above < number <= most:
            self.note(node, key, text, f"must be a number above {above} and not above {most}", "Correct it")
            return None
        return number

    def note(self, node: yaml.Node, key: str, value: str | None, message: str, next_step: str) -> None:
        where = f"line {node.start_mark.line + 1}, {key}" if key else f"line {node.start_mark.line + 1}"
        self.problems.append(Problem(self.file, where, value, message, next_step))


def _read_environment(file: Path, shown: str, problems: list[Problem]) -> Any:
    try:
        # Composed by the safe loader into nodes, which carry their lines; no object is ever constructed from a tag.
        node = yaml.compose(file.read_bytes().decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        problems.append(Problem(shown, f"byte {error.start}", None, "it is not UTF-8 text", "Save it as UTF-8"))
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        message = f"it is not YAML: {error.problem or error.context}"
        problems.append(Problem(shown, place, None, message, "Correct the line, or the one above it"))
        return None
    except (yaml.YAMLError, RecursionError) as error:  # Characters or brackets that no such file needs.
        problems.append(Problem(shown, "", None, f"it is not YAML: {error}", "Correct the file"))
        return None
    except OSError as error:
        problems.append(Problem(shown, "", None, f"it cannot be read: {error.strerror}", "Make it a readable file"))
        return None
    if node is None:
        required = ", ".join(SCHEMA["required"])
        problems.append(Problem(shown, "", None, "the file is empty", f"It needs at least: {required}"))
        return None
    checker = Checker(shown)
    data = checker.value(node, SCHEMA, "")
    problems += checker.problems
    return data


def _yaml_type(node: yaml.Node) -> str:
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    named = {"str": "string", "map": "object", "seq": "array", "int": "integer", "float": "number", "bool": "boolean"}
    return named.get(tag, tag)


def _listed(types: list[str]) -> str:
    words = {
        "string": "text",
        "object": "a mapping of keys",
        "array": "a list",
        "integer": "a number",
        "number": "a number",
        "boolean": "true or false",
        "timestamp": "a date",
    }
    return " or ".join(words.get(name, name) for name in types)


def _excerpt(node: yaml.Node) -> str | None:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else None


def _model_problems(data: dict[str, Any], shown: str, root: Path) -> list[Problem]:
    model = data.get("model")
    if not isinstance(model, dict):
        return []
    adapters = model.get("adapters") or {}
    problems = []
    folders = {"model.base": model.get("base"), **{f"model.adapters.{name}": text for name, text in adapters.items()}}
    for key, text in folders.items():
        if text is not None and text.startswith("./") and not (root / text).is_dir():
            problems.append(
                Problem(
                    shown,
                    key,
                    repr(text),
                    "there is no such folder in the repository",
                    "Correct it, or leave out ./ when the folder is on the share",
                )
            )
    base_name = (model.get("base") or "").rpartition("/")[2]
    spelled: dict[str, str] = {}
    for name in adapters:
        first = spelled.setdefault(name.casefold(), name)
        if first != name:
            # Their folders under adapters/ on the share would be one: Azure Files ignores case.
            message = f"this name and {first} differ only in case, which the share does not tell apart"
            problems.append(
                Problem(shown, f"model.adapters.{name}", None, message, "Give one of the adapters another name")
            )
        if name.casefold() == RESERVED_ADAPTER_NAME:
            problems.append(
                Problem(shown, f"model.adapters.{name}", None, "this name is reserved", "Give the adapter another name")
            )
        elif name == base_name:
            problems.append(
                Problem(
                    shown,
                    f"model.adapters.{name}",
                    None,
                    "an API request could not tell this adapter from the base model, which has the same name",
                    "Give the adapter another name",
                )
            )
    return problems


def _proof_problems(data: dict[str, Any], shown: str) -> list[Problem]:
    model, proof = data.get("model"), data.get("proof")
    if not isinstance(model, dict) or not isinstance(proof, dict):
        return []
    prompts = [item for item in proof.get("prompts") or [] if isinstance(item, dict)]
    known = [*(model.get("adapters") or {}), (model.get("base") or "").rpartition("/")[2]]
    problems = [
        Problem(
            shown,
            f"proof.prompts[{index}].model",
            repr(item["model"]),
            f"this environment serves no model of this name{did_you_mean(item['model'], known)}",
            f"Name one of: {', '.join(known)}; or leave the key out",
        )
        for index, item in enumerate(prompts)
        if item.get("model") not in (None, *known)
    ]
    if proof.get("slowest") is not None and not prompts:
        message = "there are no prompts on which speed could be compared"
        problems.append(Problem(shown, "proof.slowest", str(proof["slowest"]), message, "Add some to proof.prompts"))
    return problems


def _model_folder(text: str, root: Path) -> ModelFolder:
    local = (root / text).resolve()
    return ModelFolder(text.removeprefix("./"), local if local.is_dir() else None)


def _promotion_problems(data: dict[str, Any], name: str, shown: str, root: Path) -> list[Problem]:
    source = data.get("promote_from")
    others = [other for other in names(root) if other != name]
    if source is None or source in others:
        return []
    message = "an environment cannot be promoted from itself" if source == name else "there is no such environment"
    step = f"Name one of: {', '.join(others)}; or null" if others else "Write null"
    return [Problem(shown, "promote_from", repr(source), f"{message}{did_you_mean(source, others)}", step)]


def _main() -> int:
    root = Path(__file__).resolve().parent.parent
    (root / SCHEMA_FILE).write_text(json.dumps(SCHEMA, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{SCHEMA_FILE} was written.\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
