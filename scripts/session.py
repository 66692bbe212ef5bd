"""What every verb works with: one environment, its clients, its outputs, its key, each found when first asked for.

Knows where the values come from (Azure, a hand-written configuration, the process environment) and nothing of what a
verb does with them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import socket
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from scripts import cloud, deployment, environment, github, keys, publish, template
from scripts.cloud import Clients, Role
from scripts.deployment import Outputs
from scripts.endpoint import Endpoint, fits_header
from scripts.environment import Environment
from scripts.errors import BadInput, CloudError, NotFound, Problem
from scripts.files import ShareClient
from scripts.history import Who
from scripts.keys import Keys
from scripts.replica import App
from scripts.template import Template


class Session:
    """One verb's run. say gets a message for the person, progress one that the next may replace. Close it when done."""

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        role: Role,
        config: Path | None,
        say: Callable[[str], None],
        progress: Callable[[str], None],
    ) -> None:
        self.name, self.root = name, root
        self.say, self.progress = say, progress
        self.job = github.current_job()
        self._role, self._config = role, config
        self._open = contextlib.ExitStack()

    def close(self) -> None:
        """Closes every connection."""
        self._open.close()

    @cached_property
    def template(self) -> Template:
        """The template of this checkout."""
        return template.load(self.root)

    @cached_property
    def environment(self) -> Environment:
        """The environment. Raises BadInput for problems in its files or in the keys that are given, all at once."""
        problems = keys.given_problems(self.given_key, _variable(keys.NAMED.variable))
        try:
            loaded = environment.load(self.name, self.root, self._readable_template())
        except BadInput as error:
            raise BadInput([*error.problems, *problems]) from None
        file = str(loaded.files[0].relative_to(self.root))
        what = "is still a placeholder"
        zeros = environment.placeholders(loaded)
        problems += [Problem(file, key, environment.PLACEHOLDER, what, "Write the real id") for key in zeros]
        if problems:
            raise BadInput(problems)
        return loaded

    @cached_property
    def clients(self) -> Clients:
        """Signed in as the environment's identity on a runner, as the person elsewhere."""
        assertion = self.job.oidc_assertion if self.job.has_oidc else None
        target = self.environment
        if self._config is not None:
            # Resources that a person made may lie elsewhere than where the environment would put them.
            target = dataclasses.replace(
                target,
                subscription=self.outputs.subscription_id,
                resource_group=self.outputs.resource_group_name,
            )
        return self._open.enter_context(cloud.connect(target, self._role, assertion))

    @cached_property
    def outputs(self) -> Outputs:
        """Of the environment's last deployment in Azure, or what --config holds."""
        if self._config is not None:
            return publish.read_config(self._config)
        return deployment.last_outputs(self.clients, self.environment)

    @cached_property
    def share(self) -> ShareClient:
        """The file share with the releases."""
        return self.clients.share(self.outputs.storage_account_name, self.outputs.file_share_name)

    @cached_property
    def app(self) -> App:
        """The container app."""
        return App(
            self.clients.container_apps,
            resource_group=self.outputs.resource_group_name,
            name=self.outputs.aca_app_name,
            certificate=self.clients.cloud.certificate,
        )

    @cached_property
    def endpoint(self) -> Endpoint:
        """The app's address with the key of the process environment, or else the app's own."""
        key = self.given_key or self.app_key(self.outputs.aca_app_name)
        certificate = self.clients.cloud.certificate
        return self._open.enter_context(Endpoint(self.outputs.aca_app_endpoint, key=key, certificate=certificate))

    @property
    def who(self) -> Who:
        """Who runs this verb: the account that started the job, or the person on this machine."""
        return Who(self.job.actor or _person(), self.job.run_url)

    @property
    def given_key(self) -> str | None:
        """The endpoint's first key as the process environment has it."""
        return _variable(keys.FIRST.variable)

    @cached_property
    def given_named_keys(self) -> dict[str, str] | None:
        """The keys of further callers as the process environment has them; None when it says nothing of them."""
        given = _variable(keys.NAMED.variable)
        if given is None:
            return None
        named = keys.parsed(given)
        self._mask(*named.values())
        return named

    def app_keys(self, app: str) -> Keys:
        """The keys that the container app holds. Raises NotFound when there is no such app."""
        with cloud.translated(f"reading the secrets of the container app {app}"):
            group = self.clients.resource_group
            listed = self.clients.container_apps.container_apps.list_secrets(group, app).value
        secrets = {str(secret.name): str(secret.value) for secret in listed or () if secret.value}
        held = Keys(secrets.get(keys.FIRST.secret), keys.parsed(secrets.get(keys.NAMED.secret, "")))
        self._mask(held.first or "", *held.named.values())
        return held

    def app_key(self, app: str) -> str:
        """The first key that the container app holds. Raises NotFound when there is no such app, or it has no key."""
        key = self.app_keys(app).first
        if key is None:
            raise NotFound(
                f"The container app {app} has no secret {keys.FIRST.secret}.",
                f"Set {keys.FIRST.variable} and provision the environment again.",
            )
        if not fits_header(key):
            raise CloudError(
                f"The secret {keys.FIRST.secret} of the container app {app} has characters that no request can carry.",
                f"Set {keys.FIRST.variable} to a key of letters, digits and punctuation and provision again.",
            )
        return key

    def _mask(self, *secrets: str) -> None:
        """GitHub knows the secrets that it gave to the job as a whole: not one key of several, nor what the app has."""
        for secret in secrets:
            self.job.mask(secret, sys.stderr)

    def _readable_template(self) -> Template | None:
        """None for a template with problems: whoever reads the environment's files tells them with theirs."""
        try:
            return self.template
        except BadInput:
            return None


def _person() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # neither a variable nor an entry among the users (a bare container)
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


def _variable(name: str) -> str | None:
    return os.environ.get(name) or None
