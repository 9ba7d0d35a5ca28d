"""A tiny model of a type and a batch that it reads: by rule, or as it stands in `tests/support`."""

import contextlib
import copy
import re
from dataclasses import dataclass, field

import checks
import tiny_models
import torch
import transformers as tf
from torch import nn

from tests.walk import feeding, shrinking
from tests.walk.catalogue import TRIED, types
from tests.walk.own import CONFIGS, INPUTS

PASSES = 40  # forward passes that are tried for one type
SECTIONS = re.compile(r"sum exactly to (\d+) .*split_sizes=\[(\d+, \d+, \d+)\]")
SENSES = {*feeding.SENSES}
WEIGHTS = 30e6  # of the largest model that is run


@contextlib.contextmanager
def exact():
    """Inside, everything is computed in float64, whatever a model says of its own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with checks.Double():
            yield
    finally:
        torch.set_default_dtype(before)


class CannotBuildError(Exception):
    """No class of a type could be built and run; the message says why the last attempts failed."""


@dataclass
class Case:
    """A model with random weights and a batch, from which the checks take copies.

    Attributes:
        type: its model type.
        kind: the class.
        model: from which copies are made.
        batch: in float64.
        by_hand: it stands in `tests/support`, under this name.
    """

    type: str
    kind: str
    model: nn.Module
    batch: dict
    by_hand: str | None = None
    notes: list = field(default_factory=list)

    def make(self, dtype=torch.float64):
        return copy.deepcopy(self.model).to(dtype).eval()

    def inputs(self, dtype=torch.float64):
        batch = {key: value.clone() for key, value in self.batch.items()}  # some models write into what they read
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}


def by_hand() -> dict[str, str]:
    """Model type -> the name of its entry in `tests/support`; of several the first."""
    found = {}
    for name in tiny_models.EVERY:
        found.setdefault(HAND_NAMES.get(name, name), name)
    return {kind: name for kind, name in found.items() if kind in types()}


HAND_NAMES = {  # whose entry is of a part, or has another name than the type
    **{name: f"{name}_text" for name in ("dots3_note", "gemma3", "gemma3n", "gemma4", "llama4", "qwen3_5")},
    **{name: f"{name}_vision_model" for name in ("aimv2", "blip", "metaclip_2", "mlcd", "siglip")},
    "emu3": "emu3_text_model", "granite_speech5": "granite_speech5_ctc", "parakeet": "parakeet_ctc",
    "chinese_clip_text": "chinese_clip_text_model", "clap_text": "clap_text_model", "gemma3_vision": "gemma3",
}  # fmt: skip


def case_of(name: str) -> Case:
    """A case of a model type.

    Raises:
        CannotBuildError: by no rule that is known here.
    """
    if name in by_hand():
        entry = by_hand()[name]
        with checks.Double():
            model = tiny_models.make(entry, torch.float64).eval()
            return Case(name, type(model).__name__, model, checks.inputs_of(entry), entry)
    failures = []
    for kind in own_classes(name)[:TRIED]:
        for rung in shrinking.RUNGS:
            try:
                model = built(name, kind, rung)
            except Exception as error:
                failures.append(said(kind, error))
                continue
            probe = copy.deepcopy(model).double()  # some keep what they compute first
            batch = fed(name, probe, failures)
            if batch is not None:
                copy_sections(probe, model)
                alone = feeding.reads_senses(model) and not SENSES & batch.keys()
                return Case(name, kind, model, batch, notes=["fed with text alone"] if alone else [])
    if not types()[name].classes:
        raise CannotBuildError("no class of the auto mappings")
    raise CannotBuildError("; ".join(dict.fromkeys(failures[:1] + failures[-1:])))


def own_classes(name):
    """The classes of a type that are built from its configuration, not from a part of it."""
    every = types()[name].classes
    config = tf.CONFIG_MAPPING[name]
    fitting = [
        kind for kind in every if issubclass(config, getattr(getattr(tf, kind, None), "config_class", None) or config)
    ]
    return fitting or every


def said(kind, error):
    return f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def built(name, kind, rung):
    """A model of random weights, large enough for attention to be far from uniform."""
    torch.manual_seed(0)
    config = shrinking.small_config(tf.CONFIG_MAPPING[name](), rung, CONFIGS.get(name))
    model_class = getattr(tf, kind)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(copy.deepcopy(config)).parameters())
    if size > WEIGHTS:
        raise ValueError(f"its smallest model by rule has {size / 1e6:.0f} million weights")
    model = model_class(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module._parameters.values():
                if parameter is not None and parameter.is_floating_point() and parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    is_conv = "Conv" in type(module).__name__ and parameter.dim() > 2
                    inputs = parameter[0].numel() if is_conv else parameter.shape[-1] if parameter.dim() else 1
                    parameter.copy_(
                        noise * min(0.3, 1.4 * inputs**-0.5) if parameter.dim() > 1 else parameter + 0.1 * noise
                    )
    return model.eval()


def fed(name, model, failures):
    """A batch that the model reads and answers with finite numbers; None if no way of feeding it is known."""
    ways = [INPUTS[name]] if name in INPUTS else feeding.ways(model)
    for way in list(ways)[:PASSES]:
        for _ in range(3):
            batch, way = attempt(model, way, failures)
            if batch is not None:
                return batch
            if way is None:
                break
    return None


def attempt(model, way, failures):
    """One forward pass: the batch if it works; else the next way if the model says what it lacks."""
    try:
        if callable(way):
            batch = way(torch.Generator().manual_seed(1), model)
            batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        else:
            batch = feeding.batch_of(model, way)
        with exact(), torch.no_grad():
            answer = answers(model(**batch), batch)
        if not answer.isfinite().all():
            raise ValueError("the outputs are not finite")
        return batch, None
    except Exception as error:
        failures.append(said(type(model).__name__, error))
        if split_rotation(model, error):
            return None, way
        return None, None if callable(way) else feeding.enough_placeholders(error, way)


def copy_sections(source, target):
    """Gives one model the sections of rotations that were found for its copy."""
    for one, other in zip(source.modules(), target.modules(), strict=True):
        if hasattr(one, "mrope_section"):
            other.mrope_section, other.config.rope_parameters = one.mrope_section, one.config.rope_parameters


def split_rotation(model, error):
    """Shares the width of a head among time, height and width of a picture, as the model says; True if that is new."""
    found = SECTIONS.search(str(error))
    if found is None:
        return False
    width, sections = int(found[1]), [int(one) for one in found[2].split(",")]
    scaled = [size * width // sum(sections) for size in sections]
    sections = [width - sum(scaled[1:]), *scaled[1:]]
    for module in model.modules():
        if hasattr(module, "mrope_section"):
            module.mrope_section = sections
            module.config.rope_parameters["mrope_section"] = sections  # what is saved says it, too
    return sections != [int(one) for one in found[2].split(",")]


def examples(batch):
    """How many examples a batch has."""
    for name in ("input_ids", "decoder_input_ids", "attention_mask"):
        if name in batch:
            return len(batch[name])
    return len(next(iter(batch.values())))


def answers(outputs, batch):
    """What a model says of each example, [batch, numbers]; zero at padded tokens, where implementations differ.

    All that is of an example alone: logits over the pairs of a batch are left out, the embeddings are there.
    """
    count = examples(batch)
    named = (
        outputs.items()
        if hasattr(outputs, "items")
        else enumerate(outputs if isinstance(outputs, tuple) else [outputs])
    )
    single = [
        (str(name), one) for name, value in named for one in (value if isinstance(value, tuple | list) else [value])
    ]
    found = [
        at_real_tokens(name, value, batch).flatten(1)
        for name, value in single
        if torch.is_tensor(value) and value.is_floating_point() and value.dim() > 1 and len(value) == count
        and not name.startswith(("logits_per", "past_key", "encoder_hidden"))
        and "attention" not in name
    ]  # fmt: skip
    if not found:
        raise ValueError("no outputs of each example")
    return torch.cat([value.masked_fill(value.abs() > 1e30, 0) for value in found], 1)  # tokens that are forbidden


def at_real_tokens(name, value, batch):
    """A value that is zero at padded tokens, where it has tokens of text."""
    if value.dim() != 3 or "image" in name:
        return value
    real = checks.real_tokens("encoder" if "encoder" in name else "decoder", value.shape[1], batch)
    return value if real is None or real.shape != value.shape[:2] else value * real[..., None]
