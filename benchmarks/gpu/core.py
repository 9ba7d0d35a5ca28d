"""Core: what scores, masks, prunes and saves, checked on the device against other ways to the same numbers.

Each check is a plain function that returns errors and their limits; tests call them on the CPU.
"""

import copy
import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import transformers
from transformers import PreTrainedModel

import hies
from benchmarks.gpu.eager import classical
from benchmarks.gpu.machine import Machine, Row
from benchmarks.gpu.report import first_line, limit
from hies.batching import Batch
from hies.heads.sites import SiteTensors
from hies.scoring import fused

TYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 61}
WORDS, LENGTHS = 97, (43, 31, 7)
# Of what float32 rounds; relative to the largest value for gradients and logits, absolute for AE.
HIS_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
AE_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 2e-3}  # eager weights are rounded
LOGIT_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
Checked = tuple[float, float]  # error, limit


def bert() -> PreTrainedModel:
    """An encoder that reads padded texts."""
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=WORDS, **SIZES))


def llama() -> PreTrainedModel:
    """A decoder with grouped queries."""
    config = transformers.LlamaConfig(vocab_size=WORDS, num_key_value_heads=3, **SIZES)
    return transformers.LlamaForCausalLM(config)


def vit() -> PreTrainedModel:
    """An encoder of pictures."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=24, patch_size=4, **SIZES))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"bert": bert, "llama": llama, "vit": vit}


def model_of(name: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Returns a model whose weights are large enough for attention to be far from uniform."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.15 if parameter.dim() > 1 else 0.05) * torch.randn(parameter.shape))
            parameter.data = parameter.to(dtype)  # and no buffer: rotary frequencies are float32 in whatever is loaded
    return model.to(device).eval()


def batch_of(name: str, device: torch.device, dtype: torch.dtype) -> Batch:
    """Returns three examples, the texts of different length."""
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        pixels = torch.randn(3, 3, 24, 24, generator=generator)
        return {"pixel_values": pixels.to(device, dtype), "labels": torch.tensor([0, 1, 1], device=device)}
    mask = (torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]).long()
    words = torch.randint(3, WORDS, mask.shape, generator=generator) * mask
    labels = words.masked_fill(mask == 0, -100) if name == "llama" else torch.tensor([0, 1, 1])
    return {"input_ids": words.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def singles(batch: Batch) -> list[Batch]:
    """Returns its examples one by one, without padding."""
    found = []
    for place in range(len(batch["labels"])):
        one = {name: tensor[place : place + 1] for name, tensor in batch.items()}
        if "attention_mask" in one:
            real = one.pop("attention_mask")[0].bool()
            one = {name: tensor[:, real] if tensor.dim() > 1 else tensor for name, tensor in one.items()}
        found.append(one)
    return found


def his_and_ae(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Checked, Checked]:
    """Compares a padded batch with single examples in eager attention, one gate a head: HIS's gradients, and AE."""
    model, batch = model_of(name, device, dtype), batch_of(name, device, dtype)
    sites = hies.find_sites(model, batch)
    found = hies.collect(model, [batch])
    plain = [classical(model, one, sites) for one in singles(batch)]
    expected = {
        statistic: {site: torch.stack([one[place][site] for one in plain]) for site in sites}
        for place, statistic in enumerate(("his", "ae"))
    }
    largest = max(float(values.abs().max()) for values in expected["his"].values())
    his = difference(found["his"], expected["his"]) / largest
    return (his, HIS_LIMITS[dtype]), (difference(found["ae"], expected["ae"]), AE_LIMITS[dtype])


def computed_again(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Checked]:
    """Compares activations that are kept with activations that are computed again."""
    model, batch = model_of(name, device, dtype), batch_of(name, device, dtype)
    kept, again = (hies.collect(model, [batch], checkpoint=checkpoint) for checkpoint in (False, True))
    largest = max(float(values.max()) for values in kept.his.values())
    return ((difference(kept["his"], again["his"]) / largest, HIS_LIMITS[dtype] / 10),)


def masked_pruned_reloaded(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Checked, Checked]:
    """Compares the logits of a masked model with those of a pruned one, and these with those of one from a file."""
    model, batch = model_of(name, device, dtype), batch_of(name, device, dtype)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    generator = torch.Generator().manual_seed(2)
    scores = {name: torch.rand(site.heads, generator=generator) for name, site in hies.find_sites(model, batch).items()}
    removed = hies.select(scores, 0.5)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        with hies.masked(model, removed):
            masked = model(**inputs).logits
        small = hies.prune(model, removed)
        pruned = small(**inputs).logits
        hies.save_pruned(small, folder)
        loaded = hies.load_pruned(folder).to(device)(**inputs).logits
    real = batch["attention_mask"].bool() if name == "llama" else ...
    errors = [float((one - other)[real].float().abs().max()) for one, other in ((masked, pruned), (pruned, loaded))]
    scale = float(masked[real].float().abs().max())
    return (errors[0] / scale, LOGIT_LIMITS[dtype]), (errors[1] / scale, LOGIT_LIMITS[dtype] / 10)


def kernel(device: torch.device, dtype: torch.dtype, causal: bool, masked: bool, width: int = 64) -> tuple[Checked]:
    """Compares the entropy of attention, whichever way it takes, with a softmax in float64."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 8, 211, width, generator=generator).to(device, dtype)
    key = (torch.randn(2, 2, 211, width, generator=generator) + torch.randn(width, generator=generator)).to(
        device, dtype
    )
    mask = (torch.rand(2, 1, 211, 211, generator=generator) < 0.5).to(device) if masked else None
    found = hies.attention_entropy(query, key, mask, causal=causal)
    scores = query.double() @ key.double().repeat_interleave(4, dim=1).mT * width**-0.5
    mask = torch.ones(211, 211, dtype=torch.bool, device=device).tril() if causal else mask
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    expected = torch.special.entr(scores.softmax(dim=-1)).sum(dim=-1)
    return ((float((found - expected).abs().max()), fused.LIMITS[dtype]),)


def under_another_attention(name: str, device: torch.device, dtype: torch.dtype, attention: str) -> tuple[Checked]:
    """Compares HIS of a model that runs another attention implementation with that under sdpa."""
    model, batch = model_of(name, device, dtype), batch_of(name, device, dtype)
    expected = hies.collect(model, [batch])
    model.set_attn_implementation(attention)
    found = hies.collect(model, [batch])
    assert model.config._attn_implementation == attention, "the model was not left as it was"
    largest = max(float(values.max()) for values in expected.his.values())
    return ((difference(found["his"], expected["his"]) / largest, HIS_LIMITS[dtype]),)


def sharded(devices: Sequence[torch.device], dtype: torch.dtype) -> tuple[Checked]:
    """Compares HIS of a model whose layers lie on several devices, as accelerate spreads them, with that on one."""
    from accelerate import dispatch_model

    model, batch = model_of("llama", devices[0], dtype), batch_of("llama", devices[0], dtype)
    expected = hies.collect(model, [batch])
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.layers.0"), str(devices[0]))
    places |= dict.fromkeys(("model.layers.1", "model.norm", "lm_head"), str(devices[-1]))
    spread = dispatch_model(copy.deepcopy(model), places, main_device=str(devices[0]), force_hooks=True)
    found = hies.collect(spread, [batch])
    largest = max(float(values.max()) for values in expected.his.values())
    return ((difference(found["his"], expected["his"]) / largest, HIS_LIMITS[dtype]),)


def difference(one: SiteTensors, other: SiteTensors) -> float:
    """Returns the largest difference over sites; infinity where one is no number and the other is."""
    worst = 0.0
    for site, values in one.items():
        first, second = (tensor.double().cpu() for tensor in (values, other[site]))
        apart = (first - second).abs().masked_fill(first.isnan() & second.isnan(), 0)
        worst = max(worst, float(apart.nan_to_num(torch.inf).max()))
    return worst


def measure(machine: Machine) -> Iterator[Row]:
    """Yields the error of each check and its limit."""
    device = machine.device
    for dtype in TYPES[:2] if machine.tiny else TYPES:
        for causal, masked in ((True, False), (False, False), (False, True)):
            kind = "causal" if causal else "mask" if masked else "all keys"
            yield from _rows(
                ("entropy",), f"heads of 64, {kind}", dtype, partial(kernel, device, dtype, causal, masked)
            )
        for name in MODELS:
            yield from _rows(("HIS", "AE"), name, dtype, partial(his_and_ae, name, device, dtype))
            checks = ("masked, pruned", "pruned, reloaded")
            yield from _rows(checks, name, dtype, partial(masked_pruned_reloaded, name, device, dtype))
            yield from _rows(("computed again",), name, dtype, partial(computed_again, name, device, dtype))
    yield from _with_packages(machine)


def _with_packages(machine: Machine) -> Iterator[Row]:
    """Yields the checks that need a package or a second GPU."""
    dtype = torch.bfloat16 if machine.cuda else torch.float32
    for package, attention in (("flash_attn", "flash_attention_2"), ("torch", "eager")):
        if importlib.util.find_spec(package) is None:
            yield {"check": f"HIS under {attention}", "holds": f"left out, {package} is not installed"}
        else:
            run = partial(under_another_attention, "bert", machine.device, dtype, attention)
            yield from _rows((f"HIS under {attention}",), "bert", dtype, run)
    if importlib.util.find_spec("accelerate") is None:
        yield {"check": "HIS over devices", "holds": "left out, accelerate is not installed"}
    else:
        count = torch.cuda.device_count() if machine.cuda else 0
        devices = [torch.device("cuda", place) for place in range(count)][:2] or [machine.device]
        yield from _rows((f"HIS, devices: {len(devices)}",), "llama", dtype, partial(sharded, devices, dtype))


def _rows(
    checks: Sequence[str], what: str, dtype: torch.dtype, run: Callable[[], tuple[Checked, ...]]
) -> Iterator[Row]:
    """Yields a row for each outcome of `run`; where it raises, every check has failed, and others go on."""
    row: Row = {"of": what, "dtype": str(dtype).removeprefix("torch.")}
    try:
        outcomes = run()
    except Exception as error:
        words = f"failed, {type(error).__name__}: {first_line(error)}"
        yield from ({"check": check, **row, "error": math.inf, "limit": 0.0, "holds": words} for check in checks)
        return
    for check, (error, most) in zip(checks, outcomes, strict=True):
        yield {"check": check, **row, "error": error, "limit": most, "holds": "yes" if error <= most else "**no**"}


def limits(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields that every error is within its limit."""
    shares = [row["error"] / row["limit"] if row["limit"] else row["error"] for row in rows if "error" in row]
    yield limit(f"errors of {len(shares)} checks of the core, in units of their limits", shares, most=1.0)
