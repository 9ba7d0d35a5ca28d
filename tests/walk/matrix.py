"""The whole matrix on one case, each check by a computation of its own; what comes out is a row of the page."""

import contextlib
import re
import tempfile
import warnings

import checks
import torch
from tiny_models import some_heads

import hies
from hies.heads.conventions import OUTPUTS
from hies.heads.projections import is_plain_matrix, matrix
from tests.walk.building import CannotBuildError, answers, case_of, exact, examples
from tests.walk.gates import Reference

CHECKS = ("scored", "masked", "pruned", "saved", "plain")
RECURRENT = re.compile(r"Mamba|Rwkv|LSTM|GRU|Mixer|Recurrent")
EXACT = ("found", "cut", "scored", "masked")  # in float64, whatever a model insists on


class NoReferenceError(Exception):
    """The check has nothing to compare with; the message says why."""


def row_of(name):
    """What holds of a model type: check -> `yes` or what is said instead, and the faults, check -> error."""
    case = case_of(name)
    row = {"type": name, "class": case.kind, "entry": case.by_hand, "faults": {}, "notes": case.notes}
    row["why"] = kind_of(case.model)
    trial = Trial(case, row)
    found = trial.tried("found", trial.find)
    if not found:
        return row
    trial.tried("cut", trial.find_cut)
    row["heads"], row["found"] = shown([site.heads for site in trial.sites.values()]), "yes"
    for check in CHECKS:
        row[check] = trial.tried(check, getattr(trial, check)) or row.get(check, "fault")
    return row


def shown(heads):
    return " ".join(map(str, heads)) if len(set(heads)) > 1 else f"{len(heads)} x {heads[0]}"


def kind_of(model):
    """What a model without attention modules is made of; an empty string for one with them."""
    kinds = [type(module).__name__ for module in model.modules()]
    if any("attention" in kind.lower() and "pool" not in kind.lower() for kind in kinds):
        return ""
    if any(RECURRENT.search(kind) for kind in kinds):
        return "recurrence"
    return "convolutions" if any(kind.startswith(("Conv1d", "Conv2d")) for kind in kinds) else "no attention"


def sentence(error):
    return re.sub(r"/\S+/tmp\w+", "the folder", " ".join(str(error).split()))


class Trial:
    """The checks of one case.

    Attributes:
        sites: as the library finds them.
        cut: the sites whose heads can be cut out.
        refusals: site -> why not.
    """

    def __init__(self, case, row):
        self.case, self.row, self.sites, self.cut, self.refusals = case, row, {}, {}, {}

    def tried(self, check, function):
        """What a check returns; a refusal of the library is its result, and whatever else is raised is a fault."""
        try:
            with warnings.catch_warnings(), exact() if check in EXACT else contextlib.nullcontext():
                warnings.simplefilter("ignore")
                return function()
        except NoReferenceError as error:
            self.row[check] = f"not checked: {error}"
        except hies.HiesError as error:
            self.row[check] = f"refused: {sentence(error)}"
        except AssertionError as error:
            self.row["faults"][check] = f"wrong: {sentence(error)[:300]}"
        except Exception as error:
            if "allocate memory" in str(error):
                raise CannotBuildError("it needs more memory than one type is given") from None
            self.row["faults"][check] = f"{type(error).__name__}: {sentence(error)[:300]}"
        return None

    def run(self, model, dtype=torch.float64):
        torch.manual_seed(0)
        batch = self.case.inputs(dtype)
        with torch.no_grad():
            return answers(model(**batch), batch)

    def find(self):
        """Every attention module that the eager code runs through is found."""
        self.model = self.case.make()
        torch.manual_seed(0)
        self.sites = hies.find_sites(self.model, self.case.inputs())
        self.reference = Reference(self.model, self.sites, lambda: self.run(self.model))
        if not self.agrees():  # eager code that makes NaN of padding, or reads it in another way
            self.case.batch = unpadded(self.case.batch)
            self.row["notes"].append("without padding")
        assert not self.reference.unknown, f"not found: {self.reference.unknown}"
        return "yes"

    def find_cut(self):
        """The sites that can be cut, and why the others cannot."""
        prunable = hies.prunable(self.model, self.case.inputs())
        self.cut, self.refusals = {site: self.sites[site] for site in prunable}, prunable.refused

    def agrees(self):
        """True where the reference computes what the model computes."""
        with self.reference.gated():
            eager = self.run(self.model)
        own = self.run(self.model)
        return eager.shape == own.shape and bool((eager - own).abs().max() < 1e-9 * own.abs().max().clamp(min=1))

    # --- scoring ------------------------------------------------------------------------------------------------------

    def scored(self):
        """HIS against central differences along one direction through all gates, AE against softmax weights."""
        found = self.collected()
        if not self.agrees():
            raise NoReferenceError("the model's eager code computes something else")
        batch, count = self.case.inputs(), examples(self.case.batch)
        generator = torch.Generator().manual_seed(11)
        ways = {site: torch.randn(n, generator=generator, dtype=torch.float64) for site, n in found.heads.items()}
        felt = [site for site, his in found.his.items() if his.max() > 1e-9]
        if not felt:
            raise NoReferenceError("no head reaches the answers with a gradient")
        if len(felt) < len(ways):
            self.row["notes"].append(f"{len(ways) - len(felt)} sites do not reach the answers")
        slope = sum(found["his"][site] @ way for site, way in ways.items())
        errors = []
        for step in (1e-5, 1e-6, 1e-7):  # a shorter one where a longer one crosses a kink
            expected = self.finite_difference(ways, step)
            errors.append((slope - expected).abs().max().item() / max(expected.abs().max().item(), 1e-3))
            if errors[-1] < 1e-5:
                break
        if errors[-1] >= 1e-5:  # a step that is rounded, whose gradient is another's: GroupViT's choice of groups
            slope_of_gates = self.gradient_of_gates(ways)
            assert close(slope, slope_of_gates), f"HIS is {min(errors):.1e} from differences"
            self.row["notes"].append("HIS is the model's own gradient, which is not that of what it detaches or rounds")
        with self.reference.gated() as weights:
            self.run(self.model)
        unseen = [site for site in found["ae"] if site not in weights]
        for site, calls in weights.items():
            self.compare_entropy(site, found["ae"][site], calls, batch, count)
        if unseen:
            raise NoReferenceError(f"HIS holds; no softmax seen in {unseen[0]}")
        return "yes"

    def collected(self):
        """The statistics of the batch; where they are refused, of one without padding, or of its last example."""
        batch, count = self.case.batch, examples(self.case.batch)
        alone = {key: value[-1:] if len(value) == count else value for key, value in batch.items()}
        attempts = {"": batch, "without padding": unpadded(batch), "one example at a time": alone}
        for note, self.case.batch in attempts.items():
            torch.manual_seed(0)
            try:
                found = hies.collect(self.model, [self.case.inputs()], loss=projected)
            except hies.HiesError as error:
                refusal = error
                continue
            self.row["notes"] += [note] if note else []
            return found
        raise refusal

    def compare_entropy(self, site, found, calls, batch, count):
        hidden = checks.hidden_weight(self.model)
        expected = checks.entropy_of(calls, site, batch, count, hidden)
        if not close(found, expected) and close(found, checks.entropy_of(calls, site, {}, count, hidden)):
            self.row["notes"].append("AE counts padded queries")
            return
        torch.testing.assert_close(
            found, expected, atol=1e-7, rtol=0, equal_nan=True, msg=lambda text: f"AE of {site}: {text}"
        )

    def finite_difference(self, ways, step):
        values = []
        for sign in (1, -1):
            with self.reference.gated({site: 1 + sign * step * way for site, way in ways.items()}), torch.no_grad():
                torch.manual_seed(0)
                values.append(projected(self.model(**self.case.inputs()), self.case.inputs()))
        return (values[0] - values[1]) / (2 * step)

    def gradient_of_gates(self, ways):
        """What the model's own backward pass gives along `ways`, [batch]."""
        gates = {site: torch.ones_like(way).requires_grad_() for site, way in ways.items()}
        with self.reference.gated(gates):
            torch.manual_seed(0)
            values = projected(self.model(**self.case.inputs()), self.case.inputs())
        slopes = [
            torch.autograd.grad(value, list(gates.values()), retain_graph=True, allow_unused=True) for value in values
        ]
        terms = [
            [one @ way for one, way in zip(slope, ways.values(), strict=True) if one is not None] for slope in slopes
        ]
        return torch.stack([sum(some, torch.zeros(())) for some in terms]).detach()

    # --- masking and pruning ------------------------------------------------------------------------------------------

    def masked(self):
        """Masked answers against those with the gates at zero, and where it is known, an output matrix that ignores."""
        whole = self.run(self.model)
        if not self.agrees():
            raise NoReferenceError("the model's eager code computes something else")
        for case in checks.CASES:
            removed = some_heads(self.sites, case)
            with hies.masked(self.model, removed):
                found = self.run(self.model)
            gates = {site: torch.ones(one.heads, dtype=torch.float64) for site, one in self.sites.items()}
            for site, heads in removed.items():
                gates[site][heads] = 0
            with self.reference.gated(gates):
                near(found, self.run(self.model), 1e-9, f"{case}, gates")
            with self.zeroed_columns(removed):
                near(found, self.run(self.model), 1e-9, f"{case}, columns")
            changed = found.shape != whole.shape or (found - whole).abs().max() > 1e-6
            assert case == "some" or changed, f"{case}: nothing changes"
        near(self.run(self.model), whole, 1e-12, "afterwards")
        return "yes"

    @contextlib.contextmanager
    def zeroed_columns(self, removed):
        """Output matrices that are found by name ignore the removed heads; at other sites the gates are zero."""
        with contextlib.ExitStack() as stack:
            gates = {}
            for site, heads in removed.items():
                gone = torch.zeros(self.sites[site].heads, dtype=torch.bool).index_fill(0, torch.tensor(heads), True)
                columns = gone.repeat_interleave(self.sites[site].width)
                if (projection := self.output_projection(site, len(columns))) is None:
                    gates[site] = 1.0 - gone.double()
                    continue
                hook = projection.register_forward_pre_hook(
                    lambda module, inputs, columns=columns: (inputs[0].masked_fill(columns, 0), *inputs[1:])
                )
                stack.callback(hook.remove)
            stack.enter_context(self.reference.gated(gates))
            yield

    def output_projection(self, site, columns):
        """The plain matrix of that name in a module that can be cut, or in the `output` of its parent."""
        if site not in self.cut:  # more than its heads may lie before the matrix
            return None
        module = self.model.get_submodule(site)
        beside = getattr(self.model.get_submodule(site.rpartition(".")[0]), "output", None)
        owners = [owner for owner in (module, beside) if isinstance(owner, torch.nn.Module)]
        parts = [
            getattr(owner, name) for owner in owners for name in OUTPUTS if is_plain_matrix(getattr(owner, name, None))
        ]
        return parts[0] if parts and matrix(parts[0]).shape[1] == columns else None

    def pruned(self):
        """Pruned answers against masked ones, to 1e-10 in float64 and 1e-5 in float32, at all sites that can be cut."""
        if not self.cut:
            return f"refused: {next(iter(self.refusals.values()), 'nothing can be cut')}"
        self.compare_pruned(torch.float64, 1e-10)
        self.compare_pruned(torch.float32, 1e-5)
        if self.refusals:
            return f"partly: {len(self.cut)} of {len(self.sites)} sites; {next(iter(self.refusals.values()))}"
        return "yes"

    def compare_pruned(self, dtype, tolerance):
        with exact() if dtype is torch.float64 else contextlib.nullcontext():
            model = self.case.make(dtype)
            for case in checks.CASES:
                removed = some_heads(self.cut, case)
                small = hies.prune(model, removed)
                assert hies.pruned_heads(small) == removed, "pruned_heads says otherwise"
                with hies.masked(model, removed):
                    expected = self.run(model, dtype)
                if dtype is torch.float32:  # a model may round more than that
                    with exact(), hies.masked(self.model, removed):
                        rounding = (expected - self.run(self.model)).abs().max() / expected.abs().max().clamp(min=1)
                    tolerance = max(tolerance, 3 * rounding.item())
                near(self.run(small, dtype), expected, tolerance, f"{case} in {dtype}")

    def saved(self):
        """What is loaded answers as what was saved; one layer lost all its heads."""
        if not self.cut:
            return "-"
        small = hies.prune(self.case.make(torch.float32), some_heads(self.cut, "a layer"))
        with tempfile.TemporaryDirectory() as folder:
            hies.save_pruned(small, folder)
            back = hies.load_pruned(folder)
            assert hies.pruned_heads(back) == hies.pruned_heads(small), "other heads"
            state, other = small.state_dict(), back.state_dict()
            assert state.keys() == other.keys(), "loaded: other names"
            assert all(torch.equal(state[key], other[key]) for key in state), "loaded: other numbers"
            # Rounding depends on how the memory lies: 4e-5 was seen.
            near(self.run(back.eval(), torch.float32), self.run(small, torch.float32), 1e-4, "loaded")
        return "yes"

    def plain(self):
        """With the same groups gone everywhere, `from_pretrained` loads the folder where `save_pruned` says so."""
        if not self.cut:
            return "-"
        groups = [site.heads // site.key_heads for site in self.cut.values()]
        gone = {name: list(range(size)) for (name, site), size in zip(self.cut.items(), groups, strict=True)}
        gone = {name: heads if len(heads) < self.cut[name].heads else [0] for name, heads in gone.items()}
        small = hies.prune(self.case.make(torch.float32), gone)
        with tempfile.TemporaryDirectory() as folder:
            if not hies.save_pruned(small, folder):
                return "no"
            plain = type(small).from_pretrained(folder).eval()
            # Of any model it puts zeros into the row of padding: answers alone can be compared.
            near(self.run(plain, torch.float32), self.run(small, torch.float32), 1e-5, "plain")
        return "yes"


def unpadded(batch):
    """The batch with all of its tokens real."""
    masks = {key: torch.ones_like(value) for key, value in batch.items() if "mask" in key and value.dtype == torch.long}
    return {**batch, **masks}


def projected(outputs, batch):
    """A number for each example that depends on all of its answers, [batch]."""
    found = answers(outputs, batch)
    weights = torch.randn(found[0].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (found * weights).flatten(1).mean(1)


def close(found, expected):
    return torch.allclose(found, expected, atol=1e-7, rtol=0, equal_nan=True)


def near(found, expected, tolerance, what):
    """Raises AssertionError where two answers differ by more than the tolerance, of what is large or of one."""
    assert found.shape == expected.shape, f"{what}: answers of {tuple(found.shape)}, not {tuple(expected.shape)}"
    scale = max(expected.abs().max().item(), 1.0)
    error = (found - expected).abs().max().item() / scale
    assert error <= tolerance, f"{what}: {error:.1e} apart"
