"""What a deployment would change: what the template asks for against what is there, as Azure's what-if shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Call
from infra.emulator.resourcemanager import delta, noise
from infra.emulator.resourcemanager.documents import GROUP_TYPE
from infra.emulator.resourcemanager.engine import Surroundings, resource_id_of
from infra.emulator.resourcemanager.requests import DeploymentRequest, Plan, Planned
from infra.emulator.template import Entry, Template
from infra.emulator.template.json_text import path_text

_Change = dict[str, Any]


class WhatIf:
    """One preview."""

    def __init__(
        self, around: Surroundings, call: Call, request: DeploymentRequest, template: Template, plan: Plan
    ) -> None:
        self._around, self._call, self._request = around, call, request
        self._template, self._plan = template, plan
        settings = request.properties.get("whatIfSettings") or {}
        self._ids_only = str(settings.get("resultFormat", "")).lower() == "resourceidonly"

    async def result(self) -> dict[str, Any]:
        """`changes`, and `diagnostics` if there are any. Raises AzureError."""
        changes = [await self._planned(one) for one in self._plan.resources if not one.entry.is_deployment]
        changes += self._others()
        for entry in self._plan.cut_short:
            changes += _unsupported(entry)
        changes.sort(key=lambda change: str(change["resourceId"]).lower())
        if self._ids_only:
            kept = ("resourceId", "changeType", "unsupportedReason")
            changes = [{key: value for key, value in change.items() if key in kept} for change in changes]
        result: dict[str, Any] = {"changes": changes}
        if self._plan.cut_short:
            result["diagnostics"] = [_short_circuited(entry) for entry in self._plan.cut_short]
        return result

    async def _planned(self, planned: Planned) -> _Change:
        entry = planned.entry
        after = {
            "apiVersion": entry.api_version,
            "id": entry.id,
            "name": entry.name.rpartition("/")[2],
            "type": entry.type,
        } | delta.without_null(planned.preview)
        known = noise.of(entry.type)
        after = noise.conceal(after, known.secret)
        current = await self._current(entry)
        if current is None:
            return {"resourceId": entry.id, "changeType": "Create", "after": delta.ordered(after)}
        if self._ids_only:
            return {"resourceId": entry.id, "changeType": "Deploy"}
        in_vain = noise.found(after, known.in_vain)
        before = delta.without_empty(noise.hide(current, known.hidden))
        before |= {key: after[key] for key in ("apiVersion", "id", "name", "type")}
        asked = noise.hide(after, known.in_vain)
        if known.keeps_defaults:
            asked = noise.keep(before, asked)
            after = noise.keep(before, after)
        changes = delta.compare(before, delta.without_empty(asked))
        changes += [{"path": path, "propertyChangeType": "NoEffect", "after": value} for path, value in in_vain.items()]
        effective = any(change["propertyChangeType"] != "NoEffect" for change in changes)
        return {
            "resourceId": entry.id,
            "changeType": "Modify" if effective else "NoChange",
            "before": delta.ordered(before),
            "after": delta.ordered(after),
            "delta": [delta.ordered_values(change) for change in changes],
        }

    async def _current(self, entry: Entry) -> dict[str, Any] | None:
        """The resource as a GET at the template's API version shows it, or None."""
        if entry.type.lower() == GROUP_TYPE.lower():
            return self._around.groups.document(entry.name) if self._around.groups.exists(entry.name) else None
        resource_id = resource_id_of(entry)
        group = resource_id.resource_group
        if group is not None and not self._around.groups.exists(group):
            return None
        call = Call(self._call.principal, entry.api_version, self._call.base_url)
        try:
            answer = await self._around.resources.get(call, resource_id)
        except AzureError as problem:
            if problem.status == 404:
                return None
            raise
        body: dict[str, Any] = answer.body
        return body

    def _others(self) -> Iterator[_Change]:
        """What is in the groups that are deployed into and not in the template."""
        named = {resource_id.lower() for resource_id in self._plan.ids()}
        for group in self._groups():
            for entry in self._around.resources.listed(group):
                if entry["id"].lower() in named:
                    continue
                shown = delta.ordered(entry)
                if self._request.mode == "complete" and group == self._template.scope.id:
                    yield {"resourceId": entry["id"], "changeType": "Delete", "before": shown}
                else:
                    yield {"resourceId": entry["id"], "changeType": "Ignore", "before": shown, "after": shown}

    def _groups(self) -> list[str]:
        """The ids of the groups that are there, each once."""
        names = {} if self._request.group is None else {self._request.group.lower(): None}
        for resource_id in self._plan.ids():
            parts = resource_id.strip("/").split("/")
            if len(parts) > 3 and parts[2].lower() == "resourcegroups":
                names[parts[3].lower()] = None
        return [str(self._around.groups.document(name)["id"]) for name in names if self._around.groups.exists(name)]


def _unsupported(entry: Entry) -> Iterator[_Change]:
    """The resources of a nested deployment that cannot be laid out: as the template writes them, not evaluated."""
    place = entry.place.at("properties", "template", "resources")
    resources = entry.definition["properties"]["template"].get("resources", [])
    listed = resources.items() if isinstance(resources, dict) else enumerate(resources)
    for key, definition in listed:
        own = place.at(key)
        name = str(definition.get("name", ""))
        segments = "/".join(str(definition.get("type", "")).split("/"))
        inner = name[1:-1] if name.startswith("[") and name.endswith("]") else f"'{name}'"
        resource_id = f"[format('{entry.nested_scope().id}/providers/{segments}/{{0}}', {inner})]"
        after = {key: value for key, value in definition.items() if key not in ("dependsOn", "condition", "copy")}
        yield {
            "resourceId": resource_id,
            "changeType": "Unsupported",
            "after": delta.ordered(after | {"id": resource_id}),
            "unsupportedReason": (
                f"Changes to the resource declared at '{path_text(own.path)}' on line {own.line} and column"
                f" {own.column} cannot be analyzed because its resource ID or API version cannot be calculated until"
                " the deployment is under way. Please see"
                " https://aka.ms/WhatIfUnidentifiableResource for more guidance."
            ),
        }


def _short_circuited(entry: Entry) -> dict[str, Any]:
    return {
        "code": "NestedDeploymentShortCircuited",
        "level": "Warning",
        "message": (
            "A nested deployment got short-circuited and all its resources got skipped from validation. This is due to"
            " a nested template having a parameter that was not fully evaluated (e.g. contains a reference() function)."
            " Please see https://aka.ms/WhatIfEvalStopped for more guidance."
        ),
        "target": entry.id,
    }
