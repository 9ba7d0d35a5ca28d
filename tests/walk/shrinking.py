"""A small configuration out of the default one of any model type, by the names of its settings.

Widths are divided by one number and widths of a head by another, so what was equal stays equal, and what divided still
divides. Layers are as many as there are kinds of them, two at least; tokens of a meaning get numbers of a small
vocabulary, the same in every part.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

VOCABULARY, WORDS = 150, 90  # tokens in all, and those that stand for nothing else
LAYERS = re.compile(r"^(\w+_)?(n|num)?_?(\w+_)?(layers?|depth|blocks)$|^n_layers?$|^encoder_layers$|^decoder_layers$")
NO_LAYERS = re.compile(r"conv|adapter|upscale|stem|predict|subsampl|residual|fpn|mlp|global|dense|nextn|mtp|shared|sub")
HEADS = re.compile(r"^(\w+_)?(n|num)_(\w+_)?heads?$|^n_heads?$|attention_heads$|^num_heads_kv$|kv_heads|_heads$")
HEAD_WIDTH = re.compile(r"head_dim|^d_kv$|kv_channels|head_size|headdim|qk_dim$|key_dim$|v_dim$")
LIMITS = {  # names of settings -> the most that a small model has
    "vocab_size|^n_words$|hash_byte_group_vocab": VOCABULARY,
    "experts_per_tok(en)?$|^top_?k$|moe_k$|(moe|router)_top_?k$|num_selected|num_experts_per": 2,
    r"(num|n)_(\w+_)?experts$|experts_num$|num_local_experts": 4,
    "^n_group$|^topk_group$|first_k_dense_replace|num_dense_layers": 1,
    "num_(object_)?queries$|num_proposals$": 8,
    "^max_source_positions$": 32,
}
MAIN = ("hidden_size", "d_model", "n_embd", "embed_dim", "hidden_sizes", "dim", "emb_dim")  # the width of a model
TAKEN = re.compile(r"out_indices|_indexes$|_indices$|feature_layer")  # layers whose outputs or kinds are special
TOKEN = re.compile(
    r"(token|tokens)_(id|ids|index|indices)$|^(bo|eo|mask_|sep_|pad_)\w*_(id|index)$|_token_id|_token_index|_id$"
)
KEPT = re.compile(
    r"token|position|_length|^max_|_id$|_ids$|index|sampl|window|kernel|stride|dilation|theta|rate|level|bucket|_bins|"
    r"image|crop|patch|chunk|codebook_size|vocab|bit|queries|points|frames|size_limit|num_|max|min|fps|temperature|context|"
    r"seq|scale|distance|tubelet|horizon|base|steps|epoch|n_fft|hop|n_positions|n_ctx|topk|factor|type|resolution|interval"
)
WIDE = re.compile(
    r"hidden|dim$|_dim_|embed|embd|channels|width|inner|ffn|intermediate|rank|d_model|d_ff|dims$|proj|size|groups$"
)
PICTURE = re.compile(
    r"^(image|img|crop|input)_?(image_)?(size|resolution|height|width)$|^spatial_size$|pretrain_image_size"
)


@dataclass(frozen=True)
class Rung:
    """How much is taken away.

    Attributes:
        width: what widths are divided by.
        head: what widths of one head are divided by.
        patches: of a picture, along each side; None for pictures of the default size.
    """

    width: int
    head: int
    patches: int | None

    @property
    def heads(self) -> int:
        """What numbers of heads are divided by."""
        return self.width // self.head


RUNGS = (
    Rung(32, 8, 4),
    Rung(16, 4, 4),
    Rung(8, 8, 4),
    Rung(8, 8, 8),
    Rung(8, 8, None),
    Rung(4, 4, None),
    Rung(1, 1, 4),
    Rung(1, 1, None),
)


class Shrinker:
    """Makes small configurations on one rung; what a token means is the same in all parts of a model."""

    def __init__(self, rung: Rung, side: int = 64) -> None:
        self.rung, self.tokens, self.side = rung, {}, side

    def settings(self, default: PreTrainedConfig, own: Mapping | None = None) -> dict:
        """The settings that make a small configuration of the kind of `default`."""
        values, own = dict(_values(default)), own or {}
        given = {field.name: _given(field) for field in dataclasses.fields(default)}
        positions = {}
        for name, value in values.items():
            if LAYERS.search(name) and not NO_LAYERS.search(name) and type(value) is int and value > 1:
                positions.setdefault(value, _positions(value, values, getattr(default, "_out_indices", None)))
        small = {}
        for name, value in values.items():
            if name in own and ("model_type" in own[name] if isinstance(own[name], Mapping) else True):
                small[name] = own[name]
            elif isinstance(value, PreTrainedConfig):
                small[name] = type(value)(**self.settings(value, own.get(name)))
            elif name in own:
                small[name] = own[name]
            else:
                new = self._setting(name, value, positions, values)
                derived = given[name] is None and not isinstance(value, list | tuple | Mapping)
                if new is not value and not derived:
                    small[name] = new
        self._divide(small)
        if getattr(default, "_out_indices", None):
            small |= _outputs(default, positions)
        return {**small, **{name: value for name, value in own.items() if name not in small}}

    def _divide(self, small):
        """Takes fewer heads where their width would be odd, which rotations cannot halve twice."""
        width = next((small[name] for name in ("hidden_size", "embed_dim", "d_model") if name in small), None)
        name = next(
            (name for name in ("num_attention_heads", "num_heads", "n_heads", "num_key_value_heads") if name in small),
            None,
        )
        if type(width) is not int or name is None or type(small[name]) is not int or "head_dim" in small:
            return
        if "num_key_value_heads" in small and small["num_key_value_heads"] != small[name]:
            return
        fitting = [heads for heads in range(small[name], 1, -1) if width % (8 * heads) == 0]
        for key in ({name, "num_key_value_heads"} & small.keys()) if width % (4 * small[name]) and fitting else ():
            small[key] = fitting[0]

    def _setting(self, name, value, positions, values):
        if type(value) is bool or value is None or isinstance(value, str | float):
            return value
        if isinstance(value, Mapping):
            return self._mapping(name, value, positions, values)
        if isinstance(value, list | tuple):
            return self._sequence(name, value, positions, values)
        if type(value) is not int:
            return value
        if LAYERS.search(name) and value in positions and not NO_LAYERS.search(name):
            return len(positions[value])
        return self._number(name, value, values)

    def _mapping(self, name, value, positions, values):
        if name in ("id2label", "label2id"):
            return value
        return {key: self._setting(str(key), one, positions, values) for key, one in value.items()}

    def _sequence(self, name, value, positions, values):
        if len(value) in positions and len(value) > 2 and not HEADS.search(name):
            value = type(value)(value[place] for place in positions[len(value)])
        elif name in ("depths", "num_blocks", "layers_per_block", "decoder_layers"):
            value = type(value)(min(one, 1) if type(one) is int else one for one in value)
        if TAKEN.search(name) and positions and all(type(one) is int for one in value):
            return type(value)(_taken(value, max(map(len, positions.values()))))
        if name == "image_grid_pinpoints":  # one of one tile and two, besides the whole
            return [[self.side, 2 * self.side]]
        if name == "mrope_section":
            return type(value)(one // self.rung.head for one in value)
        numbers = [self._number(name, one, values) if type(one) is int else one for one in value]
        scaled = HEADS.search(name) or WIDE.search(name)
        if scaled and any(new == old for new, old in zip(numbers, value, strict=True)):
            numbers = list(value)  # all or none
        return value if numbers == list(values.get(name, value)) else type(value)(numbers)

    def _number(self, name, value, values):
        most = next((most for pattern, most in LIMITS.items() if re.search(pattern, name)), None)
        if most is not None:
            return min(value, most)
        if TOKEN.search(name):
            return self._token(value)
        if PICTURE.search(name) and self.rung.patches and value >= 64:
            return self._patch(values) * self.rung.patches
        least, divisor = self._divisor(name)
        return value // divisor if value >= least and value % divisor == 0 else value

    def _divisor(self, name):
        """From what number on a setting is divided, and by what."""
        if HEAD_WIDTH.search(name):
            return 16, self.rung.head
        if HEADS.search(name):
            return 0, self.rung.heads
        plain = name.replace("intermediate_size", "ffn").replace("hidden_size", "ffn")
        is_wide = name.endswith("_groups") or (WIDE.search(name) and not KEPT.search(plain))
        return 64, self.rung.width if is_wide else 1

    def _patch(self, values):
        size = values.get("patch_size", 16)
        return max(size) if isinstance(size, list | tuple) else size if type(size) is int else 16

    def _token(self, value):
        if value < WORDS:
            return value
        return self.tokens.setdefault(value, WORDS + len(self.tokens))


def _taken(layers, count):
    """As many of the layers of a small model as there were of a large one, the last ones; those from the end stay."""
    if any(layer < 0 for layer in layers):
        return [max(layer, -count) for layer in layers]
    kept = range(count - min(len(layers), count), count)
    return list(kept)


def _outputs(default, positions):
    """The outputs of a backbone: of the last layers where there are fewer now, else the same."""
    indices = list(default._out_indices)
    if not positions and hasattr(default, "_out_features"):
        return {"out_features": list(default._out_features)}
    if hasattr(default, "depths"):  # as many stages as before
        return {"out_features": list(default._out_features)}
    count = max(map(len, positions.values()), default=len(indices))
    return {"out_indices": list(range(count - len(indices) + 1, count + 1))}


def _values(config):
    for field in dataclasses.fields(config):
        if field.init and not field.name.startswith("_"):
            try:
                yield field.name, getattr(config, field.name)
            except Exception:
                continue


def _given(field):
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory if field.default_factory is not dataclasses.MISSING else ...


def _positions(count, values, taken):
    """Which layers stay: the first of each kind that a list of all layers names, two at least.

    Where the outputs of several layers are taken, as many as those.
    """
    lists = [one for name, one in values.items() if TAKEN.search(name) and isinstance(one, list | tuple)]
    taken = max(map(len, (taken or (), *lists)))
    if taken > 2:
        return list(range(min(taken, count)))
    lists = [value for value in values.values() if isinstance(value, list | tuple) and len(value) == count]
    kinds = [tuple(map(str, kind)) for kind in zip(*lists, strict=True)] if lists else []
    first = [kinds.index(kind) for kind in dict.fromkeys(kinds)][:4]
    return sorted(first) if len(first) > 1 else [0, 1]


def small_config(default: PreTrainedConfig, rung: Rung, own: Mapping | None = None) -> PreTrainedConfig:
    """A small configuration of the kind of `default`; `own` are settings that a type needs by name."""
    if (narrowest := min(main_widths(default), default=1024)) < 256:
        rung = replace(rung, width=max(rung.width // 8, 1), head=max(rung.width // 8, 1))
    if narrowest < 48:
        rung = replace(rung, width=1, head=1)
    patch = getattr(getattr(default, "vision_config", None), "patch_size", 16)
    side = patch * rung.patches if rung.patches and type(patch) is int else 64
    config = type(default)(**Shrinker(rung, side).settings(default, own))
    use_plain_experts(config)
    return config


def main_widths(config: PreTrainedConfig):
    """The widths of a model and of its parts."""
    for name, value in _values(config):
        if name in MAIN and isinstance(value, int | list | tuple):
            yield value if isinstance(value, int) else min(value)
        elif isinstance(value, PreTrainedConfig):
            yield from main_widths(value)


def use_plain_experts(config: PreTrainedConfig) -> None:
    """Grouped matrix products know no float64."""
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = "eager"
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            use_plain_experts(part)
