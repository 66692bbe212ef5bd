"""Environment variables: what is read, and that every problem is told at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from settings import AdapterFolder, Limits, PerKey, Settings, SettingsError, read_settings

KEY = "a-key-of-some-length"
BY_HAND = {"INFERENCE_API_KEY": KEY, "MODEL_BASE": "/models/base"}


def problems(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read_settings(environment)
    return [str(problem) for problem in error.value.problems]


def release(share: Path, document: object) -> dict[str, str]:
    folder = share / "releases" / "abc123"
    folder.mkdir(parents=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "release.json").write_text(text, encoding="utf-8")
    return {"INFERENCE_API_KEY": KEY, "INFERENCE_RELEASE_FOLDER": str(folder)}


def test_defaults_of_a_server_run_by_hand() -> None:
    settings = read_settings(BY_HAND)
    assert (settings.host, settings.port, settings.api_keys) == ("0.0.0.0", 8000, {"default": KEY})
    assert (settings.release, settings.base, settings.adapters) == ("by-hand", Path("/models/base"), ())
    assert settings.limits == Limits()
    assert (settings.device, settings.dtype) == ("auto", "auto")
    assert (settings.quantization, settings.merge) == ("none", "auto")
    assert settings.model_names == ("base",)
    assert settings.default_model == "base"


def test_an_answer_s_usual_length_is_never_above_the_most() -> None:
    assert read_settings(BY_HAND | {"INFERENCE_MAX_NEW_TOKENS": "64"}).limits.default_new_tokens == 64


def test_everything_can_be_set() -> None:
    settings = read_settings(
        BY_HAND
        | {
            "HOST": "127.0.0.1",
            "PORT": "8123",
            "MODEL_ADAPTERS": "one=/a/1, two=/a/2",
            "INFERENCE_MAX_PROMPT_TOKENS": "100",
            "INFERENCE_DEFAULT_NEW_TOKENS": "10",
            "INFERENCE_MAX_NEW_TOKENS": "20",
            "INFERENCE_MAX_CONCURRENT": "3",
            "INFERENCE_MAX_QUEUE": "0",
            "INFERENCE_MAX_BODY_BYTES": "4096",
            "INFERENCE_BODY_SECONDS": "2.5",
            "INFERENCE_REQUEST_SECONDS": "60",
            "INFERENCE_API_KEYS": "ci = the-key-of-ci,\nbatch=key=with=equals\n",
            "INFERENCE_KEY_CONCURRENT": "4, ci=16",
            "INFERENCE_KEY_REQUESTS_PER_MINUTE": "batch=0, 60",
            "INFERENCE_DEVICE": "cpu",
            "INFERENCE_DTYPE": "bfloat16",
            "INFERENCE_QUANTIZATION": "int8",
            "INFERENCE_MERGE": "off",
            "INFERENCE_WAIT_SECONDS": "7",
            "INFERENCE_KEEP_ALIVE_SECONDS": "1.5",
            "INFERENCE_SHUTDOWN_GRACE_SECONDS": "0",
            "INFERENCE_INSTALL_SECONDS": "12",
        }
    )
    assert (settings.host, settings.port) == ("127.0.0.1", 8123)
    assert settings.adapters == (AdapterFolder("one", Path("/a/1")), AdapterFolder("two", Path("/a/2")))
    assert settings.api_keys == {"default": KEY, "ci": "the-key-of-ci", "batch": "key=with=equals"}
    per_key = PerKey(4, {"ci": 16}), PerKey(60, {"batch": 0})
    assert settings.limits == Limits(100, 10, 20, 3, 0, 4096, 2.5, 60.0, *per_key)
    assert [per_key[0].of(name) for name in ("default", "ci", "batch")] == [4, 16, 4]
    assert (settings.device, settings.dtype) == ("cpu", "bfloat16")
    assert (settings.quantization, settings.merge, settings.wait_seconds) == ("int8", "off", 7)
    assert (settings.keep_alive_seconds, settings.shutdown_grace_seconds, settings.install_seconds) == (1.5, 0, 12)
    assert settings.model_names == ("one", "two", "base")
    assert settings.default_model == "one", "the first adapter, when none is called default"


def test_the_model_comes_from_the_release(tmp_path: Path) -> None:
    document = {
        "id": "abc123",
        "time": "2026-01-02T03:04:05Z",
        "base": "model-cache/org/base-model",
        "adapters": {"pirate": "models/pirate/checkpoint-1", "default": "adapters/default/00ff"},
    }
    settings = read_settings(release(tmp_path, document))
    assert settings.release == "abc123"
    assert settings.created == 1767323045
    assert settings.base == tmp_path / "model-cache/org/base-model"
    assert settings.base_name == "base-model"
    assert settings.adapters[1] == AdapterFolder("default", tmp_path / "adapters/default/00ff")
    assert settings.default_model == "default"


def test_the_share_may_be_mounted_elsewhere(tmp_path: Path) -> None:
    environment = release(tmp_path, {"id": "abc123", "base": "base"}) | {"INFERENCE_SHARE": "/mount"}
    assert read_settings(environment).base == Path("/mount/base")


def test_all_problems_at_once() -> None:
    told = problems(
        {
            "PORT": "eighty",
            "INFERENCE_MAX_QUEUE": "-1",
            "INFERENCE_DEVICE": "gpu",
            "MODEL_ADAPTERS": "one,two=",
            "INFERENCE_KEEP_ALIVE_SECONDS": "nan",
        }
    )
    for expected in (
        "PORT='eighty': is not a whole number from 1 to 65535",
        "INFERENCE_API_KEY: is not set",
        "INFERENCE_RELEASE_FOLDER: is not set, and neither is MODEL_BASE",
        "INFERENCE_MAX_QUEUE='-1': is not a whole number from 0",
        "INFERENCE_DEVICE='gpu': is not one of auto, cpu, cuda",
        "INFERENCE_KEEP_ALIVE_SECONDS='nan'",
    ):
        assert any(line.startswith(expected) for line in told), (expected, told)
    assert all(line.count(". ") >= 1 for line in told), "each says what to do"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"INFERENCE_API_KEY": ""}, "INFERENCE_API_KEY: is not set"),
        ({"INFERENCE_API_KEY": "short"}, "INFERENCE_API_KEY: is shorter than 8 characters"),
        ({"INFERENCE_API_KEY": "schlüssel-mit-ü"}, "or has characters that an HTTP header cannot carry"),
        ({"PORT": "70000"}, "PORT='70000'"),
        ({"INFERENCE_DTYPE": "int4"}, "INFERENCE_DTYPE='int4'"),
        ({"INFERENCE_QUANTIZATION": "8"}, "INFERENCE_QUANTIZATION='8': is not one of none, int8, int4"),
        (
            {"INFERENCE_MERGE": "on", "INFERENCE_QUANTIZATION": "int8"},
            "INFERENCE_MERGE='on': cannot be had with INFERENCE_QUANTIZATION int8",
        ),
        (
            {"INFERENCE_DEFAULT_NEW_TOKENS": "50", "INFERENCE_MAX_NEW_TOKENS": "40"},
            "is more than INFERENCE_MAX_NEW_",
        ),
        ({"MODEL_ADAPTERS": "one"}, "MODEL_ADAPTERS='one': is not name=folder"),
        ({"MODEL_ADAPTERS": "one=/a,one=/b"}, "gives the name one twice"),
        ({"MODEL_ADAPTERS": "base=/a"}, "names an adapter like the base model"),
        ({"INFERENCE_RELEASE_FOLDER": "/r"}, "MODEL_BASE='/models/base': is set beside INFERENCE_RELEASE_FOLDER"),
    ],
)
def test_one_problem(change: dict[str, str], expected: str) -> None:
    told = problems(BY_HAND | change)
    assert len(told) == 1
    assert expected in told[0]


def test_the_key_is_never_shown() -> None:
    assert "secret" not in " ".join(problems({"INFERENCE_API_KEY": "secret"}))
    assert KEY not in repr(read_settings(BY_HAND))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({"base": "b"}, "release.json: id=null: is not the release's id"),
        ({"id": "x"}, "release.json: base=null: is not a folder on the share"),
        ({"id": "x", "base": "../elsewhere"}, "is not a folder on the share"),
        ({"id": "x", "base": "/etc"}, "is not a folder on the share"),
        ({"id": "x", "base": "b", "adapters": ["a"]}, "is not an object of name: folder"),
        ({"id": "x", "base": "b", "adapters": {"a": 5}}, "release.json: adapters.a='5'"),
    ],
)
def test_a_broken_release(tmp_path: Path, document: object, expected: str) -> None:
    told = problems(release(tmp_path, document))
    assert len(told) == 1
    assert expected in told[0].replace("='null'", "=null")
    assert "Deploy again" in told[0]


def test_a_release_folder_that_is_not_there(tmp_path: Path) -> None:
    told = problems({"INFERENCE_API_KEY": KEY, "INFERENCE_RELEASE_FOLDER": str(tmp_path / "gone")})
    assert "release.json cannot be read (No such file or directory)" in told[0]


def test_misspelt_variables_are_told() -> None:
    settings = read_settings(BY_HAND | {"INFERENCE_MAX_QEUE": "3", "INFERENCE_XYZZY": "1", "HOSTNAME": "x"})
    assert settings.unknown_variables == ("INFERENCE_MAX_QEUE (did you mean INFERENCE_MAX_QUEUE?)", "INFERENCE_XYZZY")


def test_settings_do_not_change() -> None:
    settings: Settings = read_settings(BY_HAND)
    with pytest.raises(AttributeError):
        settings.port = 1  # type: ignore[misc]


def test_the_list_without_entries_that_the_template_gives_is_no_key() -> None:
    assert read_settings(BY_HAND | {"INFERENCE_API_KEYS": ","}).api_keys == {"default": KEY}


def test_keys_that_cannot_be_used_are_told_without_a_word_of_them() -> None:
    keys = "the-secret-of-nobody,two words=long-enough-secret,ci=short,default=another-secret,ci=good-secret,"
    keys += f"ci=another-secret,again={KEY},=nameless-secret"
    told = problems(BY_HAND | {"INFERENCE_API_KEYS": keys})
    assert [line.partition(" is ")[0].partition(" gives ")[0].partition(" repeats ")[0] for line in told] == [
        f"INFERENCE_API_KEYS: entry {number}" for number in (1, 2, 3, 4, 6, 7, 8)
    ]
    for secret in ("secret", "short,", KEY, "nobody"):
        assert secret not in " ".join(told)
    assert "gives the name ci twice" in told[4]
    assert "default is taken" in told[3]


@pytest.mark.parametrize("variable", ["INFERENCE_KEY_CONCURRENT", "INFERENCE_KEY_REQUESTS_PER_MINUTE"])
def test_limits_of_keys_that_cannot_be_used(variable: str) -> None:
    told = problems(BY_HAND | {variable: "many, -1, ci=4, default=x, default=1.5, 4=, 9999999999, =5"})
    assert len(told) == 8
    assert f"{variable}='ci=4': names a key that is not there; there are: default" in told[2]


@pytest.mark.parametrize("variable", ["INFERENCE_KEY_CONCURRENT", "INFERENCE_KEY_REQUESTS_PER_MINUTE"])
def test_a_limit_that_is_given_twice_is_told(variable: str) -> None:
    assert problems(BY_HAND | {variable: "4, default=2, 8, default=2"}) == [
        f"{variable}='8': is the second number for every key. Remove one of them",
        f"{variable}='default=2': is the second number for default. Remove one of them",
    ]


def test_every_variable_that_a_person_sets_is_read_and_explained() -> None:
    rows = re.findall(r"^\| (INFERENCE_\w+) \| (.*?) \|", str(sys.modules[Settings.__module__].__doc__), re.MULTILINE)
    assert len(rows) > 20
    variables = {name for name, default in rows if default not in ("set by start.sh", "the release's share")}
    assert read_settings(dict.fromkeys(variables, "") | BY_HAND).unknown_variables == ()
    page = (Path(__file__).parent.parent / "docs" / "inference.md").read_text(encoding="utf-8")
    assert variables - set(re.findall(r"`(INFERENCE_[A-Z_]+)\b", page)) == set()
