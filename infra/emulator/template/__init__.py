"""Azure Resource Manager templates: from JSON and parameters to resources, in the order of their dependencies.

Knows no HTTP and no storage. `parse` gives a Template; what has to be looked up is asked of a Resolver.
"""

from infra.emulator.template.entries import CopyBatch, Entry
from infra.emulator.template.errors import NotSupported, ShortCircuited, TemplateError
from infra.emulator.template.json_text import JsonError, Positions, read
from infra.emulator.template.scope import AZURE_CLOUD, Resolver, Scope
from infra.emulator.template.template import Template, order, parse

__all__ = [
    "AZURE_CLOUD",
    "CopyBatch",
    "Entry",
    "JsonError",
    "NotSupported",
    "Positions",
    "Resolver",
    "Scope",
    "ShortCircuited",
    "Template",
    "TemplateError",
    "order",
    "parse",
    "read",
]
