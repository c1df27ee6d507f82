"""Client halves of other packages: what they freeze, shift, add, begin with and keep is used or named."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from short_runs import CONFIGS, SHORT

import fs_fedmllm
from fs_fedmllm import registry
from fs_fedmllm.algorithms.outside import AlgorithmError, begun_by, expected, state_of, step, tensors
from fs_fedmllm.algorithms.outside_halves import begun, corrected, finished, own_anchors, settle, watched
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.registry import Registry
from fs_fedmllm.rounds.trainer import update_log

NAN = float("nan")


def half(**hooks: Any) -> Any:
    return type("Half", (fs_fedmllm.ClientHalf,), {"corrects": "correct" in hooks, **hooks})()


def adapter() -> dict[str, torch.Tensor]:
    return {"a": torch.zeros(2), "b": torch.ones(1)}


def parameters() -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(tensor) for tensor in adapter().values()]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    return made


def of(change: Any) -> Any:
    return half(correct=lambda self, p, a, step, steps: change(p, a))


def test_a_penalty_that_is_no_number_stops_the_run_and_names_algorithm_client_and_round(tmp_path) -> None:
    class Pull(fs_fedmllm.Regularizer):
        name = "pull"

        @classmethod
        def client(cls, parameters, context):
            return of(lambda p, a: torch.tensor(NAN))

    settings = dict(zip(SHORT[::2], SHORT[1::2], strict=True)) | {"outdir": str(tmp_path), "expname": "pull"}
    said = r"^Round 0, client \d+: The algorithm .*\.Half: correct gave nan, and what it was given is finite"
    before = fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", **(settings | {"expname": "before"}))
    with pytest.raises(AlgorithmError, match=said):
        fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", algorithm=Pull, **settings)
    # It broke off with gradients on the model, which the process keeps: the next run has nothing of them.
    after = fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", **(settings | {"expname": "after"}))
    assert after.results["adapter_sha256"] == before.results["adapter_sha256"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p, a: torch.tensor(NAN), "correct gave nan"),
        (lambda p, a: torch.tensor(float("inf")), "correct gave inf"),
        (lambda p, a: torch.tensor(1 + 2j), r"correct gave a number of torch\.complex64"),
        (lambda p, a: torch.zeros((), device="meta"), "on meta"),
        (lambda p, a: torch.zeros(()).to_sparse(), "sparse_coo"),
        (lambda p, a: (p[0].grad.fill_(NAN), torch.zeros(()))[1], "made gradients that are not finite of finite ones"),
        (lambda p, a: (p[0].requires_grad_(False), torch.zeros(()))[1], "changed the shape, precision, device or req"),
        (lambda p, a: (setattr(p[0], "data", torch.ones(7)), torch.zeros(()))[1], "changed the shape"),
        (lambda p, a: exit(3), r"failed \(SystemExit: 3"),
    ],
)
def test_what_correct_adds_and_leaves_behind(change, said) -> None:
    """Parameters are put back: other runs of the process use them."""
    own = parameters()
    with pytest.raises(AlgorithmError, match=said):
        corrected(of(change), own, [], 0, 1)
    assert all(p.requires_grad for p in own) and [tuple(p.shape) for p in own] == [(2,), (1,)]


def test_where_training_has_diverged_the_client_is_refused_and_not_the_algorithm() -> None:
    own = parameters()
    own[0].data.fill_(float("inf"))
    value = corrected(of(lambda p, a: sum(x.square().sum() for x in p)), own, [], 0, 1)
    one = torch.ones(())
    with pytest.raises(UpdateError, match="adds to the training loss is inf after 1 steps"):
        update_log([one], [value.detach()], [one], rows=1, seconds=0.0)


def test_a_half_that_writes_into_anchors_writes_into_its_own() -> None:
    from fs_fedmllm.algorithms.proximal import Penalty, ProximalClient

    anchors = [torch.ones(2)]
    theirs, ours = of(lambda p, a: (a[0].zero_(), a.pop(), torch.zeros(()))[2]), ProximalClient(Penalty(1.0, (0,)))
    halves = own_anchors([theirs, ours], anchors)
    corrected(theirs, parameters(), halves[0][1], 0, 1)
    assert halves[1][1] is anchors and anchors[0].tolist() == [1.0, 1.0]


def test_a_finite_row_loss_whose_gradient_is_not_finite_names_algorithm_client_and_round(tmp_path) -> None:
    """The length of a difference that is 0, as everybody writes it once."""

    class Near(fs_fedmllm.ClientHalf):
        represents = True

        def row_loss(self, indices: Any, representations: torch.Tensor, rows: int) -> torch.Tensor:
            return (representations - representations.detach()).norm(dim=1).pow(2).sqrt().sum()

    class Nearby(fs_fedmllm.Regularizer):
        name = "nearby"
        client = classmethod(lambda cls, parameters, context: Near())

    settings = dict(zip(SHORT[::2], SHORT[1::2], strict=True)) | {"outdir": str(tmp_path)}
    said = r"^Round 0, client \d+: The algorithm .*\.Near: row_loss gave a finite number whose gradient is not finite"
    with pytest.raises(AlgorithmError, match=said):
        fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", algorithm=Nearby, **settings)
    shown = torch.full((2, 3), NAN, requires_grad=True)  # training has diverged: no fault of the half's
    watched(half(), shown).sum().backward()
    assert watched(half(), shown.detach()).requires_grad is False


def test_a_half_that_writes_into_representations_writes_into_its_own() -> None:
    leaf = torch.ones(2, 3, requires_grad=True)
    shown = leaf * 2
    for given in (shown, shown.detach()):
        watched(half(), given).mul_(0)
        assert bool((shown == 2).all())
    (watched(half(), shown).mul_(3).sum() + shown.sum()).backward()
    assert leaf.grad is not None and bool((leaf.grad == 8).all())


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"frozen": (2,)}, "frozen has 2, and positions are whole numbers from 0 to 1"),
        ({"frozen": (-1,)}, "frozen has -1"),
        ({"frozen": (True,)}, "frozen has True"),
        ({"frozen": ("a",)}, "frozen has 'a'"),
        ({"frozen": "a"}, "frozen is 'a', and a list of positions"),
        ({"frozen": None}, "frozen is None"),
        ({"frozen": iter((0,))}, "and a list of positions"),
        ({"frozen": (0, 1)}, "frozen leaves no tensor of the adapter to train"),
        ({"frozen": property(lambda self: 1 / 0)}, "frozen failed"),
        ({"option_shift": (1.0,)}, "option_shift has 1 numbers, and there are 3 options"),
        ({"option_shift": (NAN, 0, 0)}, r"option_shift is \(nan, 0, 0\), and its numbers must be finite"),
        ({"option_shift": [[1.0]] * 3}, "must be finite"),
        ({"option_shift": "abc"}, "a number for each option is needed"),
        ({"option_shift": 3.0}, "a number for each option is needed"),
    ],
)
def test_what_a_half_freezes_and_shifts_is_there(attributes, said) -> None:
    with pytest.raises(AlgorithmError, match=said):
        settle([half(**attributes)], 2, 3)
    settle([half(frozen=[1], option_shift=torch.ones(3))], 2, 3)
    with pytest.raises(AlgorithmError, match="answers are open in this run"):
        settle([half(option_shift=(1.0,))], 2, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {"a": s["a"]}, "begin lacks the adapter's 'b'"),
        (lambda s: s | {"x": s["a"]}, "begin gave, beside the adapter, 'x'"),
        (lambda s: {n: t[None] for n, t in s.items()}, r"as torch\.float32 \(1,"),
        (lambda s: {n: t.long() for n, t in s.items()}, r"as torch\.int64"),
        (lambda s: {n: t.to(torch.complex64) for n, t in s.items()}, r"as torch\.complex64"),
        (lambda s: {n: t * NAN for n, t in s.items()}, "not finite, and was given finite ones"),
    ],
)
def test_training_begins_from_the_adapter(change, said) -> None:
    with pytest.raises(AlgorithmError, match=said):
        begun(half(), change(adapter()), adapter())
    assert begun(half(), {n: t.double() for n, t in adapter().items()}, adapter())["a"].dtype == torch.float32


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"mine": torch.ones(1)}, "keeps 'mine', and such a name needs its owner and a slash before it"),
        ({"/x": torch.ones(1)}, "needs its owner"),
        ({"compression/x": torch.ones(1)}, "keeps 'compression/x', and 'compression' is another's"),
        ({"scaffold/x": torch.ones(1)}, "'scaffold' is another's"),
        ({"before/x": torch.ones(1)}, "'before' is another's"),
        ({"m/x": torch.tensor(NAN)}, "values in 'm/x' that are not finite, which no checkpoint takes"),
        ({"m/x": torch.ones(1, dtype=torch.complex128)}, r"torch\.complex128 for 'm/x'"),
    ],
)
def test_what_a_client_keeps_is_its_own_and_can_be_kept(kept, said) -> None:
    with pytest.raises(AlgorithmError, match=said):
        finished(half(finish=lambda self, t, s: (s, kept)), adapter(), adapter(), {"before/x": torch.ones(1)})
    with pytest.raises(AlgorithmError, match=r"finish gave 'a' as torch\.int64"):
        finished(half(finish=lambda self, t, s: ({"a": s["a"].long()}, {})), adapter(), adapter(), {})


def test_what_is_kept_has_the_bytes_that_it_shows() -> None:
    """A file takes bytes: no pending conjugate, no stride, and no more of a large tensor than is shown."""
    large = torch.zeros(1000)
    odd = {
        "a": torch.ones(2, dtype=torch.cfloat).mul(1j).conj(),
        "b": torch.arange(6.0).view(2, 3).t(),
        "c": large[3:5],
        "d": torch.nn.Parameter(torch.ones(1)),
        "e": torch.ones(1).to(torch.float8_e4m3fn),
    }
    made = tensors(odd, half(), "finish")
    assert not made["a"].is_conj() and made["a"].tolist() == [-1j, -1j]
    assert made["b"].is_contiguous() and made["b"].tolist() == odd["b"].tolist()
    assert made["c"].untyped_storage().nbytes() == 8 and type(made["d"]) is torch.Tensor
    finished(half(finish=lambda self, t, s: (s, {"m/e": odd["e"]})), adapter(), adapter(), {})


class Plain(fs_fedmllm.ServerOptimizer):
    name = "plain"

    def init(self, params):
        return {"s": torch.tensor(NAN)}

    def step(self, params, state, mean_delta):
        return params, {"s": torch.tensor(float("inf"))}

    def expected(self, params):
        return params | {"c": torch.ones(1)}


def test_a_servers_state_that_no_checkpoint_takes_ends_the_run_when_it_is_made() -> None:
    with pytest.raises(AlgorithmError, match="init gave values in 's' that are not finite, which no checkpoint takes"):
        state_of(Plain(), "init", adapter())
    with pytest.raises(AlgorithmError, match="step gave values in 's'"):
        step(Plain(), adapter(), {}, adapter())
    with pytest.raises(AlgorithmError, match="expected gave 'c' beside the adapter, and such a name needs a slash"):
        expected(Plain(), adapter())


def test_a_regularisers_first_adapter_is_used_whether_or_not_it_reads_the_base() -> None:
    class Starts(fs_fedmllm.Regularizer):
        name = "starts"
        client = classmethod(lambda cls, parameters, context: None)

        @classmethod
        def initial_state(cls, state, base_weights):
            return {name: tensor + 1 for name, tensor in state.items()}

    assert begun_by(Starts, adapter(), dict)["a"].tolist() == [1.0, 1.0]
    for made, said in ((None, "initial_state gave NoneType"), ({"a": torch.ones(2)}, "initial_state lacks"),
                       ({n: t * NAN for n, t in adapter().items()}, "and the run begins with them")):  # fmt: skip
        odd = type("Odd", (Starts,), {"initial_state": classmethod(lambda cls, s, b, made=made: made)})
        with pytest.raises(AlgorithmError, match=said):
            begun_by(odd, adapter(), dict)
    static = type("Static", (Starts,), {"initial_state": staticmethod(lambda state, base_weights: dict(state))})
    assert begun_by(static, adapter(), dict).keys() == adapter().keys()
    plain = type("Plain", (Starts,), {"initial_state": lambda self, state, base_weights: state})
    with pytest.raises(AlgorithmError, match=r"initial_state failed \(TypeError"):
        begun_by(plain, adapter(), dict)


def test_what_fails_in_a_step_with_an_algorithm_of_ours_is_not_told_as_anothers(tmp_path, monkeypatch) -> None:
    from fs_fedmllm.rounds.lean_trainer import LeanTrainer

    looked, back = LeanTrainer._loss_and_representation, torch.Tensor.backward
    contrasted: list[Any] = []

    def looks(self: LeanTrainer, batch: Any) -> Any:
        contrasted.append(batch)
        return looked(self, batch)

    def out_of_luck(*given: Any, **options: Any) -> None:
        if contrasted:
            raise RuntimeError("CUDA error: device-side assert triggered")
        back(*given, **options)

    settings = dict(zip(SHORT[::2], SHORT[1::2], strict=True)) | {"outdir": str(tmp_path)}
    settings |= {"federate.sample_client_num": 10, "federate.total_round_num": 2, "fedmllm.regularizer.type": "moon"}
    monkeypatch.setattr(LeanTrainer, "_loss_and_representation", looks)
    monkeypatch.setattr(torch.Tensor, "backward", out_of_luck)
    with pytest.raises(RuntimeError, match=r"^CUDA error"):
        fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", **settings)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([("twice", "json:loads"), ("twice", "json:dumps")], "in two packages, json:loads and json:dumps"),
        ([("twice", "no_such_module:X")], r"cannot be imported \(ModuleNotFoundError"),
        ([("twice", "leaves:X")], r"cannot be imported \(SystemExit: 4\)\. Correct that package, or uninstall it"),
        ([("twice", "json:loads")], "json:loads is no class that derives from Regularizer"),
        ([("twice", "json:JSONDecoder")], "is no class that derives from Regularizer"),
    ],
)
def test_entry_points_that_stand_for_no_algorithm(points, said, monkeypatch, tmp_path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = [EntryPoint(name, value, "odd") for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: made if group == "odd" else [])
    registry._entry_points.cache_clear()
    try:
        with pytest.raises(ConfigError, match=said):
            Registry("odd", {}, kind=fs_fedmllm.Regularizer)["twice"]
    finally:
        registry._entry_points.cache_clear()
