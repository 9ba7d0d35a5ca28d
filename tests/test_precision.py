"""What a machine can do in bfloat16, and what that decides; no processor that runs these tests is asked."""

import contextlib
import warnings

import pytest
import torch
from command_line import composing
from hydra import compose

from experiments.sweep import job as job_module
from experiments.sweep.job import Job, evaluator_of
from hies import precision
from hies.errors import ParameterError
from hies.evaluation.models import Model
from hies.tasks import Digits

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
DIGITS = ["model=vit_tiny", "task=digits"]


def job_of(*overrides):
    with composing():
        return Job.of(compose("config", list(overrides)), overrides)


@pytest.fixture
def with_bfloat16(monkeypatch):
    """Sets what the processor has."""

    def set_to(there):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": there})

    precision.warn_if_slow.cache_clear()
    yield set_to
    precision.warn_if_slow.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "there"),
    [
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_f": False, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True, "sve_max_length": 256}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False, "sve_max_length": 256}, False),
        ({"architecture": "riscv64"}, False),
    ],
)
def test_a_processor_has_bfloat16_where_one_of_its_instructions_is(monkeypatch, capabilities, there):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.has_bfloat16(CPU) is there


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_asked_itself_and_not_for_emulation(monkeypatch, there):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there or including_emulation)
    assert precision.has_bfloat16(GPU) is there and asked == [GPU]


def test_auto_is_settled_once_and_a_worker_elsewhere_computes_what_was_declared(with_bfloat16):
    ids = {}
    for there, settled in ((True, "bfloat16"), (False, "float32")):
        with_bfloat16(there)
        job = job_of(*DIGITS, "model.precision=auto")
        assert job.config.model.precision == settled
        ids[settled] = job.run_id
        assert job.run_id == job_of(*DIGITS, f"model.precision={settled}").run_id
        with_bfloat16(not there)
        elsewhere = job_of(*job.overrides)
        assert (elsewhere.run_id, elsewhere.overrides) == (job.run_id, job.overrides)
    assert len(set(ids.values())) == 2


def test_a_large_model_takes_what_the_processor_has(with_bfloat16):
    with_bfloat16(False)
    assert job_of("model=vit_large", "task=digits").config.model.precision == "float32"


def test_auto_has_no_identity():
    with pytest.raises(ParameterError, match="precision is 'auto'; settle it first: float32 or bfloat16"):
        Model(source="some/model", precision="auto").identity(Digits())


@pytest.mark.parametrize("option", ["model.precision", "model.dtype"])
def test_slow_bfloat16_is_said_once(with_bfloat16, new_process, tmp_path, option):
    with_bfloat16(False)
    config = job_of(*DIGITS, f"{option}=bfloat16", f"cache_dir={tmp_path}").config
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            evaluator_of(config)
    assert [str(one.message).split(":")[0] for one in caught] == [
        f"{option} is bfloat16, for which this cpu has no instructions"
    ]


@pytest.mark.parametrize(("there", "option"), [(True, "model.precision=bfloat16"), (False, "model.precision=float32")])
def test_nothing_is_said_where_nothing_is_slow(with_bfloat16, new_process, tmp_path, there, option, recwarn):
    with_bfloat16(there)
    evaluator_of(job_of(*DIGITS, option, f"cache_dir={tmp_path}").config)
    assert not recwarn.list


def test_a_process_that_plans_claims_no_gpu(monkeypatch, with_bfloat16):
    with_bfloat16(True)
    monkeypatch.setattr(job_module, "checked_device", lambda name: pytest.fail("claimed"))
    assert job_of(*DIGITS, "model.precision=auto").config.model.precision == "bfloat16"


@pytest.mark.parametrize("in_use", [True, False])
def test_chance_is_kept_of_gpus_in_use_alone(monkeypatch, in_use):
    states = {0: "first", 1: "second"}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: in_use)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    before = torch.get_rng_state()
    with precision.chance_kept():
        torch.rand(3)
        states.update({0: "other", 1: "another"})
    assert torch.equal(torch.get_rng_state(), before)
    assert [*states.values()] == (["first", "second"] if in_use else ["other", "another"])
