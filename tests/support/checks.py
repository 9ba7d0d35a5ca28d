"""What the architecture matrix checks, each by an independent computation; a failed check raises AssertionError."""

import contextlib
import sys
from collections import ChainMap

import torch
import transformers
from own_softmaxes import own_softmaxes, scaled_columns
from tiny_models import EVERY, make, make_batch, output_projection, some_heads
from torch.overrides import TorchFunctionMode

import hies
from hies.heads.forwards import INTERFACE, names_reached_by
from hies.heads.recognition import computes_attention

CASES = ("some", "a layer", "all")
ANSWERS = (
    *("logits", "last_hidden_state", "prediction_outputs", "mean_predictions", "pred_masks"),
    "class_queries_logits",
)


class Double(TorchFunctionMode):
    """Inside, what a model computes in float32 whatever its own precision (norms, softmax) is computed in float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        function = torch.Tensor.double if function is torch.Tensor.float else function
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


def sides(name):
    return ("right", "left") if EVERY[name].reads == "language" else ("right",)


def inputs_of(name, side="right", dtype=torch.float64):
    """A batch without labels; decoders that read from an encoder get their tokens."""
    batch = make_batch(name, side, dtype)
    labels = batch.pop("labels", None)
    if EVERY[name].reads == "sequences":
        batch["decoder_input_ids"] = labels.clamp(min=0)
        batch["decoder_attention_mask"] = (labels != -100).long()
    return batch


def answers(outputs, batch):
    """What a model says of each example, [batch, ...]; zero at padded tokens, where implementations differ."""
    found = [outputs[key] for key in ANSWERS if outputs.get(key) is not None][:1]
    found = found or [outputs[key] for key in ("text_embeds", "image_embeds") if key in outputs]
    if "attention_mask" not in batch and outputs.get("pooler_output") is not None:  # a picture's, by heads of its own
        found = [one for one in found if one.dim() == 3] + [outputs["pooler_output"][:, None]]
    found = torch.cat(found, 1)
    real = real_tokens("decoder", found.shape[1], batch) if found.dim() == 3 else None
    return found if real is None else found * real[..., None]


def real_tokens(site, count, batch):
    """Which of `count` tokens of a site are no padding, [batch, tokens], where the batch says so."""
    decodes = "decoder_attention_mask" in batch and "decoder" in site
    mask = batch.get("decoder_attention_mask" if decodes else "attention_mask")
    if mask is None or "vis" in site:
        return None
    missing = -mask.shape[1] % 4
    if missing and count == mask.shape[1] + missing:  # Longformer, LongT5: up to whole windows
        return torch.nn.functional.pad(mask, (0, missing)).bool()
    if mask.shape[1] % count:
        return None
    return mask[:, :: mask.shape[1] // count].bool()  # a frame for several of the input


@torch.no_grad()
def run(model, batch):
    return answers(model(**batch), batch)


def projected(outputs, batch):
    """A number for each example that depends on all of its answers, [batch]."""
    found = answers(outputs, batch)
    weights = torch.randn(found[0].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (found * weights).flatten(1).mean(1)


@contextlib.contextmanager
def eager(model, name, gates=None):
    """Run transformers' own eager code with the output of each head scaled by its gate, {site: [heads]}.

    Yields {site: softmax weights of each call, [rows, heads, queries, keys]}.
    """
    own = [site for site, module in model.named_modules() if computes_attention(module)]
    of_own = {site: gate for site, gate in (gates or {}).items() if site in own}
    # Falcon adds ALiBi twice in its eager code; where nothing calls the interface, there is nothing to switch.
    parts = (module for module in model.modules() if not isinstance(module, transformers.PreTrainedModel))
    calls = any(INTERFACE in names_reached_by(module) for module in parts)
    others = interface(model, gates) if calls else contextlib.nullcontext({})
    with own_softmaxes(model, own) as seen, others as found, scaled_columns(model, name, of_own):
        yield ChainMap(found, seen)


@contextlib.contextmanager
def interface(model, gates):
    """The same of modules that call transformers' attention interface."""
    names = {module: name for name, module in model.named_modules()}
    found = [getattr(module, "config", None) for module in names]
    configs = {id(one): one for one in found if hasattr(one, "_attn_implementation_internal")}.values()
    implementations = [config._attn_implementation_internal for config in configs]
    sources = {sys.modules[type(module).__module__] for module in names}
    places = [(source, name) for source in sources for name in dir(source) if name.endswith("eager_attention_forward")]
    originals = [getattr(*place) for place in places]
    seen = {}

    def watched(original):
        def attention(module, query, key, value, attention_mask=None, **kwargs):
            if (
                attention_mask is not None and attention_mask.dtype == torch.bool
            ):  # SeamlessM4Tv2 would add the booleans
                attention_mask = query.new_zeros(()).masked_fill(~attention_mask, torch.finfo(query.dtype).min)
            output, weights = original(module, query, key, value, attention_mask, **kwargs)
            beside = beside_sinks(module, query, key, kwargs.get("scaling"), weights, kwargs.get("sinks") is not None)
            seen.setdefault(names[module], []).append(beside)
            return output if gates is None else output * gates[names[module]][:, None], weights

        return attention

    try:
        for config in configs:
            config._attn_implementation_internal = "eager"
        for place, original in zip(places, originals, strict=True):
            setattr(*place, watched(original))
        yield seen
    finally:
        for place, original in zip(places, originals, strict=True):
            setattr(*place, original)
        for config, implementation in zip(configs, implementations, strict=True):
            config._attn_implementation_internal = implementation


def beside_sinks(module, query, key, scaling, weights, of_queries):
    """Softmax weights, and where the module has sinks, which are like one more key, what they take besides."""
    sinks, rest = getattr(module, "sinks", None), 1 - weights.sum(-1, keepdim=True)
    if of_queries:  # Inkling's, whose weights come without their share
        return torch.cat([weights, rest.clamp(min=1e-300)], -1)
    if sinks is None:
        return weights
    if rest.max() < 1e-9:  # Granite gives the weights before its sinks had their share
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        scores = (query @ key.mT * scaling).gather(-1, best := weights.argmax(-1, keepdim=True))
        share = torch.sigmoid(scores - weights.gather(-1, best).log() - sinks[:, None, None])
        weights, rest = weights * share, 1 - share
    return torch.cat([weights, rest.clamp(min=1e-300)], -1)


# --- finding and scoring ----------------------------------------------------------------------------------------------


def check_found(name):
    model = make(name).eval()
    sites = hies.find_sites(model, inputs_of(name, dtype=torch.float32))
    assert tuple(site.heads for site in sites.values()) == EVERY[name].heads
    for key, site in sites.items():
        projection = output_projection(model, name, key)
        if isinstance(projection, torch.nn.Module):
            assert site.heads * site.width == getattr(projection, "in_features", projection.weight.shape[0])
        else:  # XLNet's, [hidden, heads, width]
            assert (site.heads, site.width) == projection.shape[1:]


def check_scored(name, side):
    """HIS against central finite differences, along one random direction through all gates, and AE against weights.

    A wrong derivative of any gate changes the derivative along a random direction.
    """
    with Double():
        model, batch = make(name, torch.float64).eval(), inputs_of(name, side)
        found = hies.collect(model, [batch], loss=projected)
        generator = torch.Generator().manual_seed(11)
        ways = {s: torch.randn(n, generator=generator, dtype=torch.float64) for s, n in found.heads.items()}
        assert min(float(his.min()) for his in found.his.values()) > 1e-9  # every gate is felt
        slope = sum(found["his"][site] @ way for site, way in ways.items())
        torch.testing.assert_close(slope, finite_difference(model, name, batch, ways), rtol=1e-5, atol=1e-8)
        with eager(model, name) as weights:
            run(model, batch)
    assert weights.keys() == found["ae"].keys()
    for site, calls in weights.items():
        expected = entropy_of(calls, site, batch, len(slope), hidden_weight(model))
        torch.testing.assert_close(found["ae"][site], expected, atol=1e-7, rtol=0, equal_nan=True)
        assert expected.nan_to_num().std() > 1e-4  # the heads differ, so the comparison says something


def finite_difference(model, name, batch, ways, step=1e-5):
    """d loss / d gates along `ways`, [batch]."""
    values = []
    for sign in (1, -1):
        with eager(model, name, {site: 1 + sign * step * way for site, way in ways.items()}), torch.no_grad():
            values.append(projected(model(**batch), batch))
    return (values[0] - values[1]) / (2 * step)


def hidden_weight(model):
    """The softmax weight that a hidden key has at most: Swin's shifted windows add -100 to its score, and no more."""
    kinds = {type(module).__name__ for module in model.modules()}
    return 1e-40 if any("Swin" in kind or kind.startswith("Clap") for kind in kinds) else 0.0


def entropy_of(calls, site, batch, examples, hidden=0.0):
    """AE_h(x) of one site from its softmax weights, [examples, heads]; weights up to `hidden` are of hidden keys."""
    relative = []
    for weights in calls:
        seen = (weights > hidden).sum(-1)
        value = torch.special.entr(weights).sum(-1) / seen.clamp(min=2).log()
        real = real_tokens(site, weights.shape[2], batch)
        counts = real if real is not None and real.shape == value[:, 0].shape else None
        if counts is None and weights.shape[-2] == weights.shape[-1]:  # a padded token is one that no query sees
            counts = (weights[:, 0] > hidden).any(-2)
        value = value.masked_fill(seen < 2, torch.nan)
        value = value if counts is None else value.masked_fill(~counts[:, None], torch.nan)
        relative.append(value.unflatten(0, (examples, -1)).transpose(1, 2).flatten(2))
    return torch.cat(relative, -1).nanmean(-1)


# --- masking, pruning, saving -----------------------------------------------------------------------------------------


def check_masked(name, side):
    """Masked logits against those of a copy whose output matrices ignore the heads."""
    with Double():
        model, batch = make(name, torch.float64).eval(), inputs_of(name, side)
        sites = hies.find_sites(model, batch)
        whole = run(model, batch)
        for case in CASES:
            removed = some_heads(sites, case, groups=EVERY[name].groups)
            with hies.masked(model, removed):
                found = run(model, batch)
            with zeroed_columns(model, name, removed, sites):
                expected = run(model, batch)
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
            assert (found - whole).abs().max() > 1e-3


def check_silenced(name):
    """Masked logits against those of the eager code with the outputs of the heads at zero."""
    with Double():
        model, batch = make(name, torch.float64).eval(), inputs_of(name)
        sites = hies.find_sites(model, batch)
        removed = some_heads(sites, "some")
        gates = {site: torch.ones(found.heads, dtype=torch.float64) for site, found in sites.items()}
        for site, heads in removed.items():
            gates[site][heads] = 0
        with hies.masked(model, removed):
            found = run(model, batch)
        with eager(model, name, gates):
            torch.testing.assert_close(found, run(model, batch), atol=1e-9, rtol=1e-9)


@contextlib.contextmanager
def zeroed_columns(model, name, removed, sites):
    """The output matrices of a model ignore the removed heads: their inputs are zero there."""
    hooks = []
    for site, heads in removed.items():
        gone = torch.zeros(sites[site].heads, dtype=torch.bool).index_fill(0, torch.tensor(heads), True)
        columns = gone.repeat_interleave(sites[site].width)
        hooks.append(
            output_projection(model, name, site).register_forward_pre_hook(
                lambda module, inputs, columns=columns: (inputs[0].masked_fill(columns, 0), *inputs[1:])
            )
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_pruned(name, side):
    """Pruned logits against masked ones: to 1e-10 in float64, and to 1e-5 in float32 as models run."""
    with Double():
        compare_pruned(name, side, torch.float64, 1e-10)
    compare_pruned(name, side, torch.float32, 1e-5)


def compare_pruned(name, side, dtype, tolerance):
    model, batch = make(name, dtype).eval(), inputs_of(name, side, dtype)
    sites = hies.find_sites(model, batch)
    for case in CASES:
        removed = some_heads(sites, case, groups=EVERY[name].groups)
        small = hies.prune(model, removed)
        assert hies.pruned_heads(small) == removed
        with hies.masked(model, removed):
            expected = run(model, batch)
        difference = (run(small, batch) - expected).abs().max()
        assert difference <= tolerance, f"{case}: {difference:.1e} in {dtype}"
        assert 0.1 < expected.abs().max() < 100


def check_saved(name, folder):
    """A model with a layer that lost all its heads: the logits of what is loaded are those of what was saved."""
    model, batch = make(name).eval(), inputs_of(name, dtype=torch.float32)
    small = hies.prune(model, some_heads(hies.find_sites(model, batch), "a layer", groups=EVERY[name].groups))
    hies.save_pruned(small, folder)
    back = hies.load_pruned(folder)
    assert hies.pruned_heads(back) == hies.pruned_heads(small)
    state, loaded = small.state_dict(), back.state_dict()
    assert state.keys() == loaded.keys()
    assert not [key for key in state if not torch.equal(state[key], loaded[key])]
    # Sums are rounded by how the memory lies that a file was loaded into: 2e-6 apart was seen, of logits of 4.
    torch.testing.assert_close(run(back, batch), run(small, batch), atol=1e-5, rtol=0)


def check_partly(name, folder):
    """What can be cut of a model of which something cannot: its logits, cut, and saved and loaded, are masked ones."""
    with Double():
        model, batch = make(name, torch.float64).eval(), inputs_of(name)
        sites = hies.prunable(model, batch)
        for case in CASES:
            small = hies.prune(model, removed := some_heads(sites, case))
            with hies.masked(model, removed):
                expected = run(model, batch)
            torch.testing.assert_close(run(small, batch), expected, atol=1e-9, rtol=1e-9)
            assert (expected - run(model, batch)).abs().max() > 1e-4
        hies.save_pruned(small, folder)
        back = hies.load_pruned(folder)
        assert hies.pruned_heads(back) == removed
        # What no file holds, such as frequencies of positions, is made anew, in float32 as ever.
        torch.testing.assert_close(run(back, batch), expected, atol=1e-5, rtol=0)


def check_plain(name, folder):
    """The same whole groups gone from every layer: plain `from_pretrained` loads what `save_pruned` wrote."""
    model, batch = make(name).eval(), inputs_of(name, dtype=torch.float32)
    sites = hies.find_sites(model, batch)
    size = next(iter(sites.values()))
    group = size.heads // size.key_heads
    gone = list(range(group)) if size.key_heads > 1 else [0]
    small = hies.prune(model, dict.fromkeys(sites, gone))
    said = hies.save_pruned(small, folder)
    plain = type(model).from_pretrained(folder)
    torch.testing.assert_close(run(plain, batch), run(small, batch), atol=1e-5, rtol=0)  # rounded as memory lies
    assert said
