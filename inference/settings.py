"""Environment variables -> one frozen `Settings`, or every problem at once.

The only reader of the process environment. It knows the release (which folders hold the model), the address to listen
on, the key and the limits; it does not know whether a model folder is any good: that is said by model.py.

| variable | default | meaning |
|---|---|---|
| INFERENCE_API_KEY | none: needed | whoever shows it may call; its name in the log is `default` |
| INFERENCE_API_KEYS | none | more keys: name=key, separated by commas or line breaks; `,` (the template's) is none |
| INFERENCE_KEY_CONCURRENT | 0: no limit | requests of one key at once; `4, ci=16` gives `ci` its own |
| INFERENCE_KEY_REQUESTS_PER_MINUTE | 0: no limit | requests of one key in a minute, in the same form |
| INFERENCE_RELEASE_FOLDER | set by start.sh | the release; its release.json names the model's folders |
| INFERENCE_SHARE | the release's share | the folder that the names in release.json start from |
| MODEL_BASE, MODEL_ADAPTERS | none | instead of a release: a folder; name=folder,name=folder |
| HOST, PORT | 0.0.0.0, 8000 | where to listen |
| INFERENCE_MAX_PROMPT_TOKENS | 3072 | the longest prompt |
| INFERENCE_DEFAULT_NEW_TOKENS | 512, or the most if less | an answer's length when the request does not say |
| INFERENCE_MAX_NEW_TOKENS | 1024 | the most that a request may ask for |
| INFERENCE_MAX_CONCURRENT | 16 | requests computed at once; fewer when memory is short |
| INFERENCE_MAX_QUEUE | 64 | requests that may wait; more get 429 |
| INFERENCE_MAX_BODY_BYTES | 2097152 | the largest request body |
| INFERENCE_BODY_SECONDS | 30 | how long a request may take to arrive |
| INFERENCE_REQUEST_SECONDS | 600 | how long an answer may take, waiting included |
| INFERENCE_DEVICE | auto | auto, cpu, cuda |
| INFERENCE_DTYPE | auto | auto, float32, bfloat16, float16 |
| INFERENCE_QUANTIZATION | none | none, int8, int4: linear layers in fewer bits, for some accuracy |
| INFERENCE_MERGE | auto | auto, on, off: whether a lone adapter is merged into the weights |
| INFERENCE_KEEP_ALIVE_SECONDS | 15 | a comment in a stream that has been silent for that long |
| INFERENCE_SHUTDOWN_GRACE_SECONDS | 25 | how long running requests may go on after SIGTERM |
| INFERENCE_WAIT_SECONDS | set by start.sh | for the ledger: how long the container waited for a release |
| INFERENCE_INSTALL_SECONDS | set by start.sh | for the ledger: how long it installed dependencies |
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path

DEFAULT_KEY = "default"
"""The name of the key that every endpoint has."""

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "int4")
MERGES = ("auto", "on", "off")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the environment: the variable (or file), its value, what is wrong, what to do."""

    name: str
    value: str
    message: str
    next_step: str

    def __str__(self) -> str:
        shown = f"={self.value!r}" if self.value else ""
        return f"{self.name}{shown}: {self.message}. {self.next_step}"


class SettingsError(Exception):
    """The environment cannot be used. `problems` holds every one of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter as the release names it: the name is the `model` of an API request."""

    name: str
    folder: Path


@dataclass(frozen=True)
class PerKey:
    """A number for each key's name; 0: no limit."""

    default: int = 0
    named: Mapping[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        return self.named.get(name, self.default)


@dataclass(frozen=True)
class Limits:
    """What one replica takes on. Tokens are the model's own; a queue entry is a request that waits for a free slot."""

    max_prompt_tokens: int = 3072
    default_new_tokens: int = 512
    max_new_tokens: int = 1024
    max_concurrent: int = 16
    max_queue: int = 64
    max_body_bytes: int = 2 * 1024 * 1024
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    key_concurrent: PerKey = PerKey()
    key_requests_per_minute: PerKey = PerKey()


@dataclass(frozen=True)
class Settings:
    """Everything that the server is told from outside."""

    host: str
    port: int
    api_keys: Mapping[str, str]
    """Name -> key; `default` is INFERENCE_API_KEY."""
    release: str
    created: int
    """Unix time in seconds of the release (0 when it is not known)."""
    base: Path
    adapters: tuple[AdapterFolder, ...]
    limits: Limits
    device: str
    dtype: str
    quantization: str
    merge: str
    keep_alive_seconds: float
    shutdown_grace_seconds: float
    wait_seconds: float
    """How long the container waited for a release before start.sh began (0 when it is not known)."""
    install_seconds: float
    """How long start.sh installed dependencies before this process began (0 when it did not have to)."""
    unknown_variables: tuple[str, ...]
    """INFERENCE_* variables that nothing reads, each with the name that was probably meant."""

    @property
    def base_name(self) -> str:
        """The base model's name in the API: the last part of its folder's path."""
        return self.base.name

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name that a request may give as `model`: adapters first, in the release's order, then the base."""
        return (*(adapter.name for adapter in self.adapters), self.base_name)

    @property
    def default_model(self) -> str:
        """What answers a request that names no model: the adapter `default`, else the first adapter, else the base."""
        return "default" if "default" in self.model_names else self.model_names[0]

    def __repr__(self) -> str:
        """Everything but the keys: a settings object may end up in a log."""
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.name != "api_keys")
        return f"Settings({', '.join(shown)})"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read every variable; an empty value counts as not set.

    Raises SettingsError with all problems, not only the first.
    """
    reader = _Reader(environment)
    limits = Limits()
    host = reader.text("HOST", "0.0.0.0")  # noqa: S104 - a container is reached from outside; loopback is told by HOST
    port = reader.integer("PORT", 8000, minimum=1, maximum=65535)
    api_keys = reader.api_keys()
    model = reader.model()
    max_new_tokens = reader.integer("INFERENCE_MAX_NEW_TOKENS", limits.max_new_tokens, minimum=1)
    default_new_tokens = min(limits.default_new_tokens, max_new_tokens)
    limits = Limits(
        max_prompt_tokens=reader.integer("INFERENCE_MAX_PROMPT_TOKENS", limits.max_prompt_tokens, minimum=1),
        default_new_tokens=reader.integer("INFERENCE_DEFAULT_NEW_TOKENS", default_new_tokens, minimum=1),
        max_new_tokens=max_new_tokens,
        max_concurrent=reader.integer("INFERENCE_MAX_CONCURRENT", limits.max_concurrent, minimum=1, maximum=1024),
        max_queue=reader.integer("INFERENCE_MAX_QUEUE", limits.max_queue, minimum=0),
        max_body_bytes=reader.integer("INFERENCE_MAX_BODY_BYTES", limits.max_body_bytes, minimum=1024),
        body_seconds=reader.number("INFERENCE_BODY_SECONDS", limits.body_seconds, minimum=0.1, maximum=3600.0),
        request_seconds=reader.number(
            "INFERENCE_REQUEST_SECONDS", limits.request_seconds, minimum=0.1, maximum=86400.0
        ),
        key_concurrent=reader.per_key("INFERENCE_KEY_CONCURRENT", api_keys),
        key_requests_per_minute=reader.per_key("INFERENCE_KEY_REQUESTS_PER_MINUTE", api_keys),
    )
    if limits.default_new_tokens > limits.max_new_tokens:
        reader.problem(
            "INFERENCE_DEFAULT_NEW_TOKENS",
            str(limits.default_new_tokens),
            f"is more than INFERENCE_MAX_NEW_TOKENS ({limits.max_new_tokens})",
            "Lower the first or raise the second",
        )
    device = reader.choice("INFERENCE_DEVICE", DEVICES)
    dtype = reader.choice("INFERENCE_DTYPE", DTYPES)
    quantization = reader.choice("INFERENCE_QUANTIZATION", QUANTIZATIONS)
    merge = reader.choice("INFERENCE_MERGE", MERGES)
    if merge == "on" and quantization != "none":
        reader.problem(
            "INFERENCE_MERGE", merge, f"cannot be had with INFERENCE_QUANTIZATION {quantization}", "Unset one of them"
        )
    keep_alive_seconds = reader.number("INFERENCE_KEEP_ALIVE_SECONDS", 15.0, minimum=0.05, maximum=200.0)
    shutdown_grace_seconds = reader.number("INFERENCE_SHUTDOWN_GRACE_SECONDS", 25.0, minimum=0.0, maximum=600.0)
    wait_seconds = reader.number("INFERENCE_WAIT_SECONDS", 0.0, minimum=0.0, maximum=1e9)
    install_seconds = reader.number("INFERENCE_INSTALL_SECONDS", 0.0, minimum=0.0, maximum=86400.0)
    if reader.problems or model is None:
        raise SettingsError(reader.problems)
    return Settings(
        host=host,
        port=port,
        api_keys=api_keys,
        release=model.release,
        created=model.created,
        base=model.base,
        adapters=model.adapters,
        limits=limits,
        device=device,
        dtype=dtype,
        quantization=quantization,
        merge=merge,
        keep_alive_seconds=keep_alive_seconds,
        shutdown_grace_seconds=shutdown_grace_seconds,
        wait_seconds=wait_seconds,
        install_seconds=install_seconds,
        unknown_variables=reader.unknown_variables(),
    )


@dataclass(frozen=True)
class _Model:
    release: str
    created: int
    base: Path
    adapters: tuple[AdapterFolder, ...]


class _Reader:
    """Reads variables one by one and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[Problem] = []
        self.known: set[str] = set()

    def problem(self, name: str, value: str, message: str, next_step: str) -> None:
        self.problems.append(Problem(name, value, message, next_step))

    def text(self, name: str, default: str = "") -> str:
        self.known.add(name)
        return self.environment.get(name, "").strip() or default

    def integer(self, name: str, default: int, *, minimum: int, maximum: int = 2**31 - 1) -> int:
        return int(self._bounded(name, default, int, "a whole number", minimum, maximum))

    def number(self, name: str, default: float, *, minimum: float, maximum: float) -> float:
        return float(self._bounded(name, default, float, "a number", minimum, maximum))

    def _bounded(
        self, name: str, default: float, convert: Callable[[str], float], kind: str, minimum: float, maximum: float
    ) -> float:
        value = self.text(name)
        if not value:
            return default
        try:
            number = convert(value)
        except ValueError:
            number = math.nan
        if not minimum <= number <= maximum:
            self.problem(
                name,
                value,
                f"is not {kind} from {minimum} to {maximum}",
                f"Give one, or unset it: the default is {default}",
            )
            return default
        return number

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, choices[0])
        if value not in choices:
            self.problem(name, value, f"is not one of {', '.join(choices)}", "Give one of them, or unset it")
        return value

    def api_keys(self) -> dict[str, str]:
        """The secrets by name. Their values are never shown, so a problem with one carries an empty value."""
        key = self.text("INFERENCE_API_KEY")
        if not key:
            self.problem(
                "INFERENCE_API_KEY",
                "",
                "is not set, and a server without a key would answer anybody",
                "Set it to a long random value (the container app's secret `api-key`)",
            )
        elif not _is_key(key):
            self._bad_key("INFERENCE_API_KEY", "")
        keys = {DEFAULT_KEY: key}
        entries = (entry.strip() for entry in re.split(r"[,\n]", self.text("INFERENCE_API_KEYS")))
        for number, entry in enumerate((entry for entry in entries if entry), start=1):
            name, equals, key = (part.strip() for part in entry.partition("="))
            # What stands before "=" may be a key whose name was forgotten, so an entry is told by its number.
            which = f"entry {number} "
            if not equals or not _KEY_NAME.fullmatch(name):
                self.problem(
                    "INFERENCE_API_KEYS",
                    "",
                    which + "is not name=key with a name of up to 64 letters, digits, dots, hyphens and underscores",
                    "Write name=key,name=key",
                )
            elif not _is_key(key):
                self._bad_key("INFERENCE_API_KEYS", which)
            elif name in keys:
                message = which + f"gives the name {name} twice"
                self.problem("INFERENCE_API_KEYS", "", message, f"Give each key its own; {DEFAULT_KEY} is taken")
            elif key in keys.values():
                message = which + "repeats another name's key, so the log could not tell them apart"
                self.problem("INFERENCE_API_KEYS", "", message, "Give each name its own key")
            else:
                keys[name] = key
        return keys

    def _bad_key(self, variable: str, which: str) -> None:
        self.problem(
            variable,
            "",
            which + "is shorter than 8 characters, or has characters that an HTTP header cannot carry",
            "Set it to a long random value of letters, digits and punctuation",
        )

    def per_key(self, name: str, keys: Mapping[str, str]) -> PerKey:
        """A number for every key, and others for some of them by name: `4, ci=16`."""
        numbers: dict[str, int] = {}
        for entry in (part.strip() for part in self.text(name).split(",")):
            key, equals, number = (part.strip() for part in entry.rpartition("="))
            if not entry:
                continue
            if not number.isascii() or not number.isdigit() or len(number) > 9:
                self.problem(name, entry, "is not a whole number from 0 to 999999999", "Write 4, or 4, ci=16")
            elif equals and key not in keys:
                there = ", ".join(keys)
                self.problem(name, entry, f"names a key that is not there; there are: {there}", "Give one of them")
            elif key in numbers:
                self.problem(name, entry, f"is the second number for {key or 'every key'}", "Remove one of them")
            else:
                numbers[key] = int(number)
        return PerKey(numbers.pop("", 0), numbers)

    def unknown_variables(self) -> tuple[str, ...]:
        """Variables of this server's prefix that it does not read: most likely a misspelling."""
        told = []
        for name in sorted(self.environment):
            if name.startswith("INFERENCE_") and name not in self.known:
                close = get_close_matches(name, self.known, n=1, cutoff=0.85)
                told.append(f"{name} (did you mean {close[0]}?)" if close else name)
        return tuple(told)

    # The model: from a release, or by hand.

    def model(self) -> _Model | None:
        release_folder, share = self.text("INFERENCE_RELEASE_FOLDER"), self.text("INFERENCE_SHARE")
        base, adapters = self.text("MODEL_BASE"), self.text("MODEL_ADAPTERS")
        if release_folder and (base or adapters):
            self.problem(
                "MODEL_BASE" if base else "MODEL_ADAPTERS",
                base or adapters,
                "is set beside INFERENCE_RELEASE_FOLDER, which names the model too",
                "Unset one of them",
            )
            return None
        found = self._of_release(Path(release_folder), share) if release_folder else self._by_hand(base, adapters)
        if found is not None:
            self._check_names("INFERENCE_RELEASE_FOLDER" if release_folder else "MODEL_ADAPTERS", found)
        return found

    def _check_names(self, variable: str, model: _Model) -> None:
        if any(adapter.name == model.base.name for adapter in model.adapters):
            self.problem(
                variable,
                model.base.name,
                "names an adapter like the base model, and a request could not tell them apart",
                "Give the adapter another name",
            )

    def _by_hand(self, base: str, adapters: str) -> _Model | None:
        if not base:
            self.problem(
                "INFERENCE_RELEASE_FOLDER",
                "",
                "is not set, and neither is MODEL_BASE, so there is no model to serve",
                "A release's start.sh sets the first; by hand, set MODEL_BASE to the base model's folder",
            )
            return None
        read: dict[str, Path] = {}
        for entry in (part.strip() for part in adapters.split(",")):
            if not entry:
                continue
            name, equals, folder = (part.strip() for part in entry.partition("="))
            if not (name and equals and folder):
                self.problem("MODEL_ADAPTERS", entry, "is not name=folder", "Write name=folder,name=folder")
            elif name in read:
                self.problem("MODEL_ADAPTERS", entry, f"gives the name {name} twice", "Give each adapter its own name")
            else:
                read[name] = Path(folder).absolute()
        folders = tuple(AdapterFolder(name, folder) for name, folder in read.items())
        return _Model(release="by-hand", created=0, base=Path(base).absolute(), adapters=folders)

    def _of_release(self, folder: Path, share: str) -> _Model | None:
        file = folder / "release.json"
        # releases/<id> stands in the share's root, so the root is known even when INFERENCE_SHARE is not set.
        root = Path(share) if share else folder.resolve().parent.parent
        redeploy = "Deploy again: a release folder is written whole, and never edited"
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            message = f"{file} cannot be read ({error.strerror})"
            self.problem("INFERENCE_RELEASE_FOLDER", str(folder), message, redeploy)
            return None
        except ValueError as error:
            self.problem("INFERENCE_RELEASE_FOLDER", str(folder), f"{file} is not JSON ({error})", redeploy)
            return None
        if not isinstance(document, dict):
            self.problem("INFERENCE_RELEASE_FOLDER", str(folder), f"{file} is not a JSON object", redeploy)
            return None
        before = len(self.problems)
        release, base, adapters = document.get("id"), document.get("base"), document.get("adapters", {})
        if not isinstance(release, str) or not release:
            self.problem(f"{file}: id", _shown(release), "is not the release's id", redeploy)
        if not isinstance(base, str) or not _inside(base):
            self.problem(f"{file}: base", _shown(base), "is not a folder on the share", redeploy)
        if not isinstance(adapters, dict):
            self.problem(f"{file}: adapters", _shown(adapters), "is not an object of name: folder", redeploy)
            adapters = {}
        for name, value in adapters.items():
            if not name or not isinstance(value, str) or not _inside(value):
                self.problem(f"{file}: adapters.{name}", _shown(value), "is not a folder on the share", redeploy)
        if len(self.problems) > before:
            return None
        return _Model(
            release=str(release),
            created=_unix_time(document.get("time")),
            base=root / str(base),
            adapters=tuple(AdapterFolder(name, root / value) for name, value in adapters.items()),
        )


_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _is_key(text: str) -> bool:
    return len(text) >= 8 and text.isascii() and text.isprintable()


def _inside(path: str) -> bool:
    """Whether a path of release.json stays on the share: relative, and never upwards."""
    return bool(path) and not path.startswith(("/", "\\")) and ".." not in Path(path).parts


def _shown(value: object) -> str:
    return json.dumps(value)


def _unix_time(value: object) -> int:
    """Seconds since 1970 of an ISO 8601 time; 0 when there is none, for a release is not refused for its date."""
    try:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())
