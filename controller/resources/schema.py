"""The JSON Schema (2020-12) of what users write, for editors and for checks outside of tortie.

A schema says of each field what it is and what it may be. What concerns several fields at once (that a block fits into
its pool, say) only `parse_resource` knows: what it takes, spelt as it is shown, the schema takes as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from controller.resources import addressing, filtering, nodes, peering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.resources.fields import Document

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_MODEL_BY_KIND: Final[Mapping[str, type[Document]]] = {
    "Pool": addressing.PoolDocument,
    "Reservation": addressing.ReservationDocument,
    "IPAMConfiguration": addressing.ConfigurationDocument,
    "BGPPeer": peering.PeerDocument,
    "BGPFilter": filtering.FilterDocument,
    "BGPConfiguration": peering.BgpConfigurationDocument,
    "Node": nodes.NodeDocument,
}


def kind_schema(kind: str) -> dict[str, Any]:
    """Return the schema of a document of this kind, one of those that `parse_resource` takes."""
    model = _MODEL_BY_KIND[kind]
    return {"$schema": DIALECT, **model.model_json_schema(by_alias=True), "title": kind}


def whole_schema() -> dict[str, Any]:
    """Return the schema of a document of any kind, and of a list of documents."""
    schemas, definitions = models_json_schema(
        [(model, "validation") for model in _MODEL_BY_KIND.values()], by_alias=True
    )
    single = [schemas[model, "validation"] for model in _MODEL_BY_KIND.values()]
    item_list = {
        "type": "object",
        "properties": {
            "apiVersion": {"const": "tortie/v1"},
            "kind": {"type": "string", "pattern": "List$"},
            "items": {"type": "array", "items": {"oneOf": single}},
        },
        "required": ["kind", "items"],
    }
    return {
        "$schema": DIALECT,
        "title": "what tortie is told",
        "oneOf": [*single, {"$ref": "#/$defs/List"}],
        "$defs": {**definitions.get("$defs", {}), "List": item_list},
    }
