"""Every model type of the installed transformers, the classes that it has, and the type that it is a part of."""

import functools
from dataclasses import dataclass

import transformers as tf
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

# Heads in the order in which they are tried; then every other, and the bare model.
ORDER = (
    *("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"),
    *("SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "AUDIO_CLASSIFICATION", "CTC"),
)
LAST = ("BACKBONE", "IMAGE", "TEXT_ENCODING")  # these name bare models
TRIED = 3  # classes of a type


@dataclass(frozen=True)
class Type:
    """A model type: its name, its folder, and its classes in the order in which they are tried."""

    name: str
    folder: str
    classes: tuple[str, ...]


@functools.cache
def mappings():
    """Head -> {model type: class}, in the order of `ORDER`; the bare models last."""
    names = [name for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES") and name != "CONFIG_MAPPING_NAMES"]
    found = {
        name.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES"): getattr(modeling_auto, name) for name in names
    }
    bare = {"MODEL": found.pop("MODEL")}
    first, last = ({head: found.pop(head) for head in some} for some in (ORDER, LAST))
    return {**first, **found, **last, **bare}


def classes_of(name):
    """The classes of a type, each once; an encoder that can be told to be a decoder is tried as an encoder."""
    every = mappings()
    heads = list(every)
    if name in every["MASKED_LM"] and "CAUSAL_LM" in heads:
        heads.remove("CAUSAL_LM")
    values = [every[head][name] for head in heads if name in every[head]]
    return tuple(dict.fromkeys(value if isinstance(value, str) else value[0] for value in values))


@functools.cache
def parents():
    """Model type -> the types that have its configuration as a part."""
    found = {}
    for name in CONFIG_MAPPING_NAMES:
        for part in getattr(tf.CONFIG_MAPPING[name], "sub_configs", {}).values():
            kind = getattr(part, "model_type", None)
            if kind and kind != name:
                found.setdefault(kind, []).append(name)
    return found


@functools.cache
def types():
    """Every type of CONFIG_MAPPING by its name."""
    return {name: Type(name, model_type_to_module_name(name), classes_of(name)) for name in CONFIG_MAPPING_NAMES}


def parent_of(name):
    """The type in the same folder of which this one, without a head of its own, is a part; None for a whole model."""
    own = types()[name]
    headed = {value for head, mapping in mappings().items() if head != "MODEL" for value in mapping}
    if name in headed:
        return None
    near = [one for one in parents().get(name, ()) if types()[one].folder == own.folder]
    return next((parent_of(one) or one for one in near), None)
