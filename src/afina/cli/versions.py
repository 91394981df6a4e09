"""How the terminal tells of versions and of what was done to them. Knows no store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from afina.repr_html import figure

if TYPE_CHECKING:
    from afina.store.diff import Layer
    from afina.store.versions import Version


def told(found: Version) -> list[tuple[str, Any]]:
    """A version in labelled lines."""
    manifest = found.manifest
    metrics = manifest.get("metrics") or {}
    checked = found.checked
    environment = manifest.get("environment") or {}
    return [
        ("version", f"{found}{' (deleted)' if found.deleted else ''}"),
        ("digest", found.digest),
        ("aliases", ", ".join(found.aliases)),
        ("created", f"{minute(found.created)} UTC by {found.who or 'somebody'}"),
        ("message", found.why),
        ("method", f"{manifest.get('method')} {_inline(manifest.get('hyperparameters') or {})}"),
        ("labels", ", ".join(manifest.get("label_names") or ())),
        ("metrics", ", ".join(f"{name} {figure(value)}" for name, value in list(metrics.items())[:4])),
        ("task", manifest.get("task")),
        ("training texts", manifest.get("train_digest")),
        ("evaluation", manifest.get("evaluation_digest")),
        ("seed", manifest.get("seed")),
        ("backbone", manifest.get("backbone")),
        ("its digest", manifest.get("backbone_digest")),
        ("source", environment.get("git_commit")),
        ("bytes", f"{found.size:,}: " + ", ".join(f"{role} {part.size:,}" for role, part in found.parts.items())),
        ("checked", f"{'passed' if checked['passed'] else 'FAILED'} {minute(checked['time'])} UTC" if checked else ""),
    ]


def _inline(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def what(event: str, details: Any) -> str:
    """What an entry of the log did, in a few words."""
    if event in ("alias", "rollback"):
        forced = ", forced" if details.get("forced") else ""
        return f"{details['alias']}: {details['from'] or 'new'} -> {details['to']}{forced}"
    if event == "unalias":
        return f"{details['alias']}: {details['from']} -> none"
    outcome = {True: " passed", False: " failed"}.get(details.get("passed"), "")
    return f"version {details.get('version')}{outcome}"


def size(number: int) -> str:
    """Bytes, in a unit that suits them."""
    size = float(number)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def day(time: str) -> str:
    """The day of a time."""
    return time[:10]


def minute(time: str) -> str:
    """A time without its seconds."""
    return time[:16].replace("T", " ")


def fields(found: Mapping[str, Any]) -> Iterator[str]:
    """What differs of two manifests, a line a group."""
    for group, content in found.items():
        told = []
        for key, value in content.items():
            if isinstance(value, list | tuple) and len(value) == 2 and key not in ("added", "removed", "examples"):
                before, after = (_short(one) for one in value)
                told.append(f"{key} {before} -> {after}")
            elif value not in (None, [], False) and key != "examples":
                told.append(f"{key} {_short(value)}")
        if told:
            yield f"{group:<16}{'; '.join(told)}"


def layers(found: Sequence[Layer], most: int) -> Iterator[str]:
    """How far the weights went: those layers that changed most, and of how many."""
    changed = sorted((one for one in found if one.change), key=lambda one: -(one.change or 0))
    if not changed:
        same = all(one.change == 0 for one in found)
        yield f"{'weights':<16}{'no change' if same else 'not the same layers'}"
    for one in changed[:most]:
        share = f", {100 * one.relative:.0f} % of what it was" if one.relative is not None else ""
        angles = f", outputs turned by {_mean(one.outputs)}°, inputs by {_mean(one.inputs)}°" if one.outputs else ""
        yield f"{'weights':<16}{one.name}: change {one.change:.4g}{share}{angles}"
    if len(changed) > most:
        yield f"{'':<16}and {len(changed) - most} more; --json has all"


def _mean(angles: Sequence[float]) -> str:
    return f"{sum(angles) / len(angles):.0f}" if angles else "-"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
    return text[:19] if text.startswith("sha256:") else text[:60]
