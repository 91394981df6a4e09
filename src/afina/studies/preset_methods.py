"""Remove from a preset the zero-shot methods that cannot run, without an error: the user has not chosen them."""

from __future__ import annotations

from afina.data.label_words import are_words
from afina.errors import AfinaError
from afina.methods import make
from afina.models.objectives import OBJECTIVES
from afina.studies.backbones import BACKBONES, backbone_names, backbones_of, on_backbone
from afina.studies.runs.inputs import is_encoder, labels_of
from afina.studies.study import Study


def suited_to_task(study: Study) -> tuple[Study, list[str]]:
    """Return a preset without zero-shot methods if the task's labels are not words, and the removed methods' names."""
    runs = study.runs()
    asking = {run.title: None for run in runs if make(run.method, run.hyperparameters).head == "words"}
    if not asking or len(asking) == len(study.methods):
        return study, []
    try:
        task = labels_of(runs[0])
    except AfinaError:
        return study, []  # running the study reports the error
    kind, has_words = OBJECTIVES[task.kind], study.ask.words is not None or are_words(task.label_names)
    if kind.auto_class == "language_model" or (kind.can_be_asked and has_words):
        return study, []
    methods = {name: one for name, one in study.methods.items() if name not in asking}
    return study.model_copy(update={"methods": methods}), list(asking)


def suited_to_backbones(study: Study) -> tuple[Study, list[str]]:
    """Return a preset in which no zero-shot method runs on an encoder, and the removed methods' names.

    If no method would remain, the preset is returned unchanged, and executing the preset raises an error.
    """
    encoders = {address for address in study.addresses if is_encoder(address)}
    asking = dict.fromkeys(
        run.title
        for run in study.runs()
        if run.backbone in encoders and make(run.method, run.hyperparameters).head == "words"
    )
    if not asking:
        return study, []
    names, left_out, methods = backbone_names(study.addresses), [], dict(study.methods)
    for name in asking:
        on = backbones_of(methods[name], study.addresses, f"methods.{name}")
        rest = [address for address in on if address not in encoders]
        lacking = [names[address] for address in on if address in encoders]
        left_out += [on_backbone(name, one) if len(names) > 1 else name for one in lacking]
        if rest:
            methods[name] = {**methods[name], BACKBONES: rest}
        else:
            del methods[name]
    return (study.model_copy(update={"methods": methods}), left_out) if methods else (study, [])
