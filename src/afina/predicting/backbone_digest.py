"""Whether an adapter was made for a backbone, by the digests of weights, configuration and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.manifest import Manifest
from afina.predicting import problems

MOST_TOLD, _DEFAULT = 3, "the default"
"""Maximum number of settings that an error message names, and the message's words for a setting at its default."""


def check_backbone(adapter: Adapter, backbone: Backbone, body: Any) -> None:
    """Raise WrongBackbone if the manifest states another backbone, and CorruptAdapter for another chat template.

    `body` is the open, unchanged body; it is not used if the backbone's weights were already hashed.
    """
    manifest = adapter.manifest
    if manifest.backbone_digest is None or (found := backbone.digest_of(body)) == manifest.backbone_digest:
        if manifest.chat_template not in (None, backbone.chat_template):
            raise problems.CHAT_TEMPLATE_EDITED(where=adapter.where, backbone=backbone.address)
        return
    raise problems.OTHER_BACKBONE(
        where=adapter.where,
        expected=manifest.backbone,
        found=backbone.address,
        _expected=manifest.backbone_digest,
        _found=found,
        _difference=_difference(backbone, body, manifest),
    )


def states_another(manifest: Mapping[str, Any], backbone: Backbone) -> bool:
    """Return whether a manifest states another backbone, as far as is known without reading weights."""
    stated, configuration = manifest.get("backbone_digest"), manifest.get("configuration")
    if stated is None:
        return False
    if backbone.is_hashed:
        return bool(backbone.digest != stated)
    if manifest.get("tokenizer_digest") != backbone.tokenizer_digest:
        return True
    written = [json.dumps(one, sort_keys=True) for one in (configuration, backbone.settings)]  # NaN equals itself
    return configuration is not None and written[0] != written[1]


def _difference(backbone: Backbone, body: Any, manifest: Manifest) -> str:
    stated = manifest.configuration or {}
    found = backbone.settings
    differ = [name for name in sorted(found.keys() | stated.keys()) if found.get(name) != stated.get(name)]
    said = [
        f"{name} of the configuration is {found.get(name, _DEFAULT)!s:.60}, but was {stated.get(name, _DEFAULT)!s:.60}"
        for name in differ[:MOST_TOLD]
    ]
    said += ["other settings differ"] if len(differ) > MOST_TOLD else []
    if backbone.tokenizer_digest != manifest.tokenizer_digest:
        said.append("the tokenizer differs")
    if backbone.digest_of(body, manifest.tokenizer_digest, stated) != manifest.backbone_digest:
        said.append("the weights differ")
    return "; ".join(said)
