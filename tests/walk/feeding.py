"""What a model reads, by the names of its forward's parameters: words with padding, pictures, sound, series."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

TOKENS, LENGTHS = 11, (11, 7, 4)
PLACEHOLDERS = (
    "image_token_id",
    "image_token_index",
    "img_token_id",
    "audio_token_id",
    "audio_token_index",
    "audio_token",
)
FEATURES = (
    "num_mel_bins",
    "feature_projection_input_dim",
    "input_feat_per_channel",
    "n_mels",
    "mel_bins",
    "input_dim",
    "feature_size",
)
MASKS = ("attention_mask", "input_features_mask", "feature_attention_mask")  # of sound
LACKING = re.compile(r"tokens:? (?:tensor\()?(\d+).*?features:? (?:tensor\()?(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Feeding:
    """One way to feed a model.

    Attributes:
        count: of examples.
        padded: texts are of different lengths.
        pictures: which of the shapes of pictures, or of sound.
        placeholders: tokens of an example that stand for parts of a picture or of sound; the model says how many.
        senses: False for text alone.
    """

    count: int = 3
    padded: bool = True
    pictures: int = 0
    placeholders: int = 0
    senses: bool = True


def ways(model) -> Iterator[Feeding]:
    """The ways in which a model is fed, the richest first."""
    packed = {"image_grid_thw", "grid_thw"} & parameters(model).keys()  # pictures of all examples in one row
    signs = setting(model.config, "num_query_tokens", default=0)
    for count in (1,) if packed else (3, 1):
        for pictures in range(7 if reads_senses(model) else 1):
            yield Feeding(count, count > 1, pictures, signs)
        yield Feeding(count, False, placeholders=signs)
    if reads_senses(model) and "input_ids" in parameters(model):
        yield Feeding(senses=False)
        yield Feeding(1, False, senses=False)


def enough_placeholders(error: Exception, feeding: Feeding) -> Feeding | None:
    """The same feeding with as many placeholders as the model says that it needs; None where it says nothing."""
    found = LACKING.search(str(error))
    if (
        not found
        or int(found[2]) % feeding.count
        or int(found[2]) == int(found[1])
        or int(found[2]) > 600 * feeding.count
    ):
        return None
    return replace(feeding, placeholders=int(found[2]) // feeding.count)


def parameters(model) -> dict[str, inspect.Parameter]:
    """The parameters of a model's forward."""
    return dict(inspect.signature(model.forward).parameters)


def reads_senses(model) -> bool:
    """True for a model that reads more than words."""
    return bool(
        {"pixel_values", "pixel_values_videos", "input_features", "input_values", "past_values"}
        & parameters(model).keys()
    )


def setting(config, *names, default=None):
    """The first of these settings that a configuration, or one in it, has."""
    for name in names:
        if isinstance(vars(config).get(name), int | float | list | tuple) and vars(config)[name] is not None:
            return vars(config)[name]
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig) and (found := setting(part, *names)) is not None:
            return found
    return default


def batch_of(model, feeding: Feeding, seed: int = 1) -> dict[str, torch.Tensor]:
    """A batch without labels that a model may read, in float64."""
    generator = torch.Generator().manual_seed(seed)
    names, config = parameters(model), model.config
    batch = {}
    if "input_ids" in names:
        batch |= words(model, feeding, generator)
    if feeding.senses:
        batch |= senses(model, feeding, generator)
    if "decoder_input_ids" in names and config.is_encoder_decoder and "SequenceClass" not in type(model).__name__:
        batch["decoder_input_ids"] = torch.randint(10, 80, (feeding.count, 7), generator=generator)
        if feeding.padded and "decoder_attention_mask" in names:
            batch["decoder_attention_mask"] = padding(feeding.count, 7, (7, 5, 3))
    for name, parameter in names.items():
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            batch.setdefault(name, required(name, batch, feeding, generator))
    return {name: value for name, value in batch.items() if value is not None}


def padding(count, tokens, lengths):
    return (torch.arange(tokens) < torch.tensor(lengths[:count])[:, None]).long()


def words(model, feeding, generator):
    names, config, count = parameters(model), model.config, feeding.count
    if setting(config, "vocab_size", default=100) < 20:
        ids = torch.randint(0, setting(config, "vocab_size"), (count, TOKENS), generator=generator)
    else:
        ids = torch.randint(
            10, min(80, setting(config, "vocab_size", default=100)), (count, TOKENS), generator=generator
        )
    mask = padding(count, TOKENS, LENGTHS) if feeding.padded else torch.ones_like(ids)
    pad, eos = setting(config, "pad_token_id"), setting(config, "eos_token_id")
    if "SequenceClassification" in type(model).__name__ and type(eos) is int and eos >= 0:
        ids[torch.arange(count), mask.sum(1) - 1] = eos
    ids = torch.where(mask.bool(), ids, pad if type(pad) is int and pad >= 0 else 0)
    if feeding.placeholders:
        sign = next(getattr(config, name) for name in PLACEHOLDERS if type(getattr(config, name, None)) is int)
        signs = torch.full((count, feeding.placeholders), sign)
        ids, mask = torch.cat([signs, ids], 1), torch.cat([torch.ones_like(signs), mask], 1)
    batch = {"input_ids": ids}
    if "attention_mask" in names:
        batch["attention_mask"] = mask
    if "mm_token_type_ids" in names:
        batch["mm_token_type_ids"] = torch.zeros_like(ids)
        batch["mm_token_type_ids"][:, : feeding.placeholders] = 1
    if "token_type_ids" in names and feeding.placeholders:
        batch["token_type_ids"] = torch.zeros_like(ids)
        batch["token_type_ids"][:, : feeding.placeholders] = 1
    if "bbox" in names:
        corner, size = (torch.randint(0, 9, (*ids.shape, 2), generator=generator) for _ in range(2))
        batch["bbox"] = torch.cat([corner, corner + size], -1)
    return batch


def required(name, batch, feeding, generator):
    """What a forward insists on besides: more words, masks of ones."""
    count = feeding.count
    if name.endswith("input_ids"):
        return torch.randint(10, 80, (count, 5), generator=generator)
    if name == "past_time_features":
        return torch.randn(*batch["past_values"].shape[:2], 1, generator=generator, dtype=torch.float64)
    if name == "past_observed_mask":
        return torch.ones_like(batch["past_values"])
    if name.endswith("mask"):
        return torch.ones(next(iter(batch.values())).shape[:2], dtype=torch.long)
    return None


# --- pictures, sound, series ------------------------------------------------------------------------------------------


def senses(model, feeding, generator):
    names = parameters(model)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    main = model.main_input_name
    for name, shapes in (
        ("pixel_values", pictures),
        ("pixel_values_videos", videos),
        ("input_features", features),
        ("input_values", sounds),
        ("past_values", series),
    ):
        if name in names and (main == name or main not in SENSES):
            choices = shapes(model.config, feeding.count, names)
            shape, others = choices[min(feeding.pictures, len(choices) - 1)]
            others = {key: value for key, value in others.items() if key in names}
            return {name: normal(*shape), **others}
    return {}


SENSES = ("pixel_values", "pixel_values_videos", "input_features", "input_values", "past_values")


def side_of(config):
    patch = setting(config, "patch_size", default=16)
    patch = max(patch) if isinstance(patch, list | tuple) else patch
    side = setting(config, "image_size", "input_size", "crop_size", "img_size", default=4 * patch)
    return tuple(side[-2:]) if isinstance(side, list | tuple) and len(side) > 1 else (int(side), int(side))


def pictures(config, count, names):
    """The shapes that pictures may have, each with what goes beside."""
    channels = setting(config, "num_channels", "in_channels", "in_chans", default=3)
    channels = channels if type(channels) is int and channels < 12 else 3
    height, width = side_of(config)
    sizes = {"image_sizes": torch.tensor([[height, width]] * count)}
    plain = ((count, channels, height, width), sizes)
    frames = setting(config, "num_frames", default=4)
    several = (
        (count, 1, channels, height, width),
        {**sizes, "image_attention_mask": torch.ones(count, TOKENS, 1, dtype=torch.long)},
    )
    video = ((count, frames, channels, height, width), {})
    tiles = ((count, 2, channels, height, width), sizes)
    grid = ((count, 3, channels, height, width), {"image_sizes": torch.tensor([[height, 2 * width]] * count)})
    larger = ((count, channels, 64, 64), {"image_sizes": torch.tensor([[64, 64]] * count)})
    if "image_grid_thw" not in names and "grid_thw" not in names:
        return [plain, several, video, tiles, grid, larger]
    patch, merge = setting(config, "patch_size", default=14), setting(config, "spatial_merge_size", default=2)
    time = setting(config, "temporal_patch_size", default=1)
    grid = torch.tensor([[1, 2 * merge, 2 * merge]] * count)
    patches = 4 * merge**2 * count
    flat = ((patches, channels * time * patch**2), {"image_grid_thw": grid, "grid_thw": grid})
    square = ((patches, channels, patch, patch), flat[1])
    return [flat, square, plain]


def videos(config, count, names):
    channels, (height, width) = setting(config, "num_channels", "in_channels", "in_chans", default=3), side_of(config)
    frames = setting(config, "num_frames", "frames_per_clip", default=4)
    return [((count, frames, channels, height, width), {}), ((count, channels, frames, height, width), {})]


def features(config, count, names):
    """Spectrograms: channels first at the length that the encoder insists on, or in time order."""
    bins = setting(config, *FEATURES, default=80)
    long = 2 * setting(config, "max_source_positions", default=20)
    times = 2 * setting(config, "n_window", default=32)
    own = [name for name in MASKS if name in names and (name != "attention_mask" or "input_ids" not in names)]

    def beside(long):
        return {name: torch.ones(count, long, dtype=torch.long) for name in own}

    shapes = [((count, times, bins), times), ((count, bins, long), long), ((count, bins, times), times)]
    shapes += [((count, 1, times, bins), times)]
    return [*((shape, beside(frames)) for shape, frames in shapes), *((shape, {}) for shape, _ in shapes[:3])]


def sounds(config, count, names):
    bins, long = setting(config, *FEATURES, default=80), setting(config, "max_length", default=64)
    spectrogram = ((count, min(long, 1024), bins), {})
    return [((count, 2000), {}), ((count, 1, 2000), {}), spectrogram, ((count, 6000), {}), ((count, 1, 6000), {})]


def series(config, count, names):
    long = setting(config, "context_length", default=32) + max(setting(config, "lags_sequence", default=[0]))
    channels = setting(config, "num_input_channels", default=1)
    return [((count, long, channels), {}), ((count, long), {})]
