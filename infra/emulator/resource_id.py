"""Resource ids: text <-> parts. Compared without regard to case, shown with the case they came in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ResourceId:
    """`/subscriptions/S[/resourceGroups/G]/providers/N/T1/n1[/T2/n2...]`.

    `types` and `names` have the same length, at least one.
    """

    subscription: str
    resource_group: str | None
    namespace: str
    types: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> ResourceId:
        """Raises ValueError when `text` is not the id of a resource in a subscription or in one of its groups."""
        parts = text.strip("/").split("/")
        if len(parts) < 2 or parts[0].lower() != "subscriptions":
            raise ValueError(f"not a resource id: {text!r}")
        subscription, rest = parts[1], parts[2:]
        group = None
        if len(rest) >= 2 and rest[0].lower() == "resourcegroups":
            group, rest = rest[1], rest[2:]
        if len(rest) < 4 or rest[0].lower() != "providers" or len(rest) % 2 or not all(rest):
            raise ValueError(f"not a resource id: {text!r}")
        return cls(subscription, group, rest[1], tuple(rest[2::2]), tuple(rest[3::2]))

    @property
    def type(self) -> str:
        """For example Microsoft.App/managedEnvironments/storages."""
        return "/".join((self.namespace, *self.types))

    @property
    def name(self) -> str:
        """The last segment."""
        return self.names[-1]

    @property
    def parent(self) -> ResourceId | None:
        """The resource that this one is a child of, if any."""
        if len(self.types) == 1:
            return None
        return ResourceId(self.subscription, self.resource_group, self.namespace, self.types[:-1], self.names[:-1])

    def child(self, type_name: str, name: str) -> ResourceId:
        """The child of this resource with that type segment and name."""
        return ResourceId(
            self.subscription, self.resource_group, self.namespace, (*self.types, type_name), (*self.names, name)
        )

    @property
    def key(self) -> str:
        """What ids are compared and stored by."""
        return str(self).lower()

    def __str__(self) -> str:
        group = f"/resourceGroups/{self.resource_group}" if self.resource_group is not None else ""
        pairs = "".join(f"/{type_name}/{name}" for type_name, name in zip(self.types, self.names, strict=True))
        return f"/subscriptions/{self.subscription}{group}/providers/{self.namespace}{pairs}"
