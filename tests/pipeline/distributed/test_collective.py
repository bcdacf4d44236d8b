"""Gloo processes on shares of a batch, whole or in parts, equal one process on the whole."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from benchmarks import equality
from pipeline.distributed import collective
from ratgan.step import train_step
from ratgan.text.pretraining import pretrain_step
from tests.ratgan.test_pretraining import small_batch as small_captions
from tests.ratgan.test_pretraining import small_pair
from tests.ratgan.test_step import everything, published_batch, small_batch, small_gan

STEPS = 3
WAYS = {  # of taking a step; a share is of 12, 6, 4 or 3 images
    "fused": {"accumulate": 1},
    "fused in 2 parts": {"accumulate": 2},
    "separate": {"accumulate": 1, "update": "separate"},
    "separate in 3 parts": {"accumulate": 3, "update": "separate"},
}
RUNS = {  # of a training on a prepared dataset
    "run": {},
    "run in 2 parts": {"accumulate": 2},
    "run with published pairs": {"mismatched": "published"},
    "run with a matching loss": {"matching_weight": 1.0},
    "run with a matching loss in 2 parts": {"matching_weight": 1.0, "accumulate": 2},
}


def share(whole: torch.Tensor) -> torch.Tensor:
    return whole.chunk(collective.world())[collective.rank()]


def train(way: str) -> dict[str, torch.Tensor]:
    """Train a few steps on this process's share, in float64; return weights and gradients."""
    gan = small_gan()
    for _ in range(STEPS):
        batch = {name: share(value) for name, value in published_batch(12).items()}
        values = train_step(gan, **batch, **WAYS[way], synchronize=collective.average_gradients)
    networks = {name: getattr(gan, name) for name in ("generator", "discriminator")}
    return {
        **{name: value for name, value in everything(gan).items() if "optimizer" not in name},
        **{
            f"gradient of {network}.{name}": parameter.grad
            for network, module in networks.items()
            for name, parameter in module.named_parameters()
        },
        **{name: collective.mean(value) for name, value in values.items()},
    }


def meet_a_bad_share(number: float) -> dict[str, torch.Tensor]:
    """Train two steps, the first of them with an image of the last process not finite."""
    gan = small_gan()
    for bad in (True, False):
        batch = {name: share(value) for name, value in small_batch(12).items()}
        if bad and collective.rank() == collective.world() - 1:
            batch["images"][-1, 0, 3, 3] = number
        values = train_step(gan, **batch, synchronize=collective.average_gradients)
        if bad:
            skipped = values["health/skipped"]
    return everything(gan) | {"skipped": skipped}


def pretrain(output: str | None = None) -> dict[str, torch.Tensor]:
    """Pretrain a few steps of DAMSM on this process's share, in float64."""
    pair = small_pair()
    classes = torch.tensor([0, 1, 2, 1, 3, 4])
    for _ in range(STEPS):
        batch = {name: share(value) for name, value in small_captions(6).items()}
        pretrain_step(
            pair,
            **batch,
            classes=classes,
            lr=2e-3,
            gather=collective.gather_with_gradient,
            synchronize=collective.sum_gradients,
        )
    weights = {name: parameter.detach() for name, parameter in pair.trained().items()}
    if output:
        torch.save(weights, f"{output}/damsm{collective.rank()}.pt")
    return weights


def in_process(rank: int, world: int, output: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{output}/meeting", rank=rank, world_size=world
    )
    gathered = collective.gather(torch.full((2,), float(rank)))
    averaged = collective.mean(torch.tensor([float(rank), 10.0]))
    torch.save(
        {
            "gathered": gathered,
            "averaged": averaged,
            "from_zero": collective.from_rank_zero(7 + rank, torch.device("cpu")),
        },
        f"{output}/talk{rank}.pt",
    )
    for way in WAYS:
        torch.save(train(way), f"{output}/{way}{rank}.pt")
    for number in (float("nan"), float("inf")):
        torch.save(meet_a_bad_share(number), f"{output}/{number}{rank}.pt")
    if 6 % world == 0:
        pretrain(output)
    for way, optim in RUNS.items():
        dataset = (Path(output) / "dataset").read_text()
        run = equality.train(equality.config_for(dataset, **optim), STEPS)
        torch.save(run, f"{output}/{way}{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.rest), pytest.param(4, marks=pytest.mark.rest)],
)
def processes(request, shapes, tmp_path_factory):
    output = tmp_path_factory.mktemp("gloo")
    (output / "dataset").write_text(str(shapes.folder))
    # From a process that has imported all of it once, which takes each of them seconds.
    mp.start_processes(
        in_process,
        args=(request.param, str(output)),
        nprocs=request.param,
        start_method="forkserver",
    )
    return request.param, output


@pytest.fixture(scope="module")
def alone():
    return {update: train(update) for update in ("fused", "separate")}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_processes_train_what_one_process_trains(way, processes, alone):
    world, output = processes

    expected = alone[way.split()[0]]

    for rank in range(world):
        found = torch.load(output / f"{way}{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.fixture(scope="module")
def runs_alone(shapes):
    return {
        way: equality.train(equality.config_for(str(shapes.folder), **optim), STEPS)
        for way, optim in RUNS.items()
        if "parts" not in way
    }


@pytest.mark.slow
@pytest.mark.parametrize("way", RUNS)
def test_workers_of_a_run_train_what_one_trains(way, processes, runs_alone):
    world, output = processes

    # Images, captions, noise and pairs are those of a run, and so is all that is done with them.
    expected = runs_alone[way.removesuffix(" in 2 parts")]

    for rank in range(world):
        found = torch.load(output / f"{way}{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_one_bad_image_of_one_process_makes_all_of_them_skip_the_step(number, processes):
    world, output = processes

    found = [torch.load(output / f"{number}{rank}.pt", weights_only=True) for rank in range(world)]

    twin = small_gan()
    train_step(twin, **small_batch(12))
    for each in found:
        assert each.pop("skipped") == 1
        assert all(torch.equal(each[name], value) for name, value in found[0].items()), "ranks part"
        for name, value in everything(twin).items():
            torch.testing.assert_close(each[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.slow
def test_processes_pretrain_what_one_process_pretrains(processes):
    world, output = processes
    if 6 % world:
        pytest.skip("the batch of 6 has no equal shares")

    alone = pretrain()

    for rank in range(world):
        weights = torch.load(output / f"damsm{rank}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.slow
def test_workers_talk_in_the_order_of_their_ranks(processes):
    world, output = processes
    ranks = torch.arange(float(world))

    for rank in range(world):
        talk = torch.load(output / f"talk{rank}.pt", weights_only=True)
        assert torch.equal(talk["gathered"], ranks.repeat_interleave(2))
        torch.testing.assert_close(talk["averaged"], torch.tensor([ranks.mean(), 10.0]))
        assert talk["from_zero"] == 7


def test_alone_everything_is_left_as_it_is():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)

    collective.average_gradients([parameter])

    assert collective.world() == 1
    assert torch.equal(parameter.grad, torch.full((3,), 2.0))
    assert torch.equal(collective.gather(parameter), parameter)


def test_large_gradients_are_averaged_in_buckets(monkeypatch):
    sent = []
    monkeypatch.setattr(collective, "world", lambda: 2)
    monkeypatch.setattr(collective, "BUCKET_ELEMENTS", 10)
    monkeypatch.setattr(
        collective.distributed, "all_reduce", lambda flat: sent.append(flat.mul_(4))
    )
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (6, 6, 2, 30, 1)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters.append(torch.nn.Parameter(torch.zeros(5)))  # without a gradient

    collective.average_gradients(parameters)

    assert [len(flat) for flat in sent] == [12, 32, 1]
    assert all((parameter.grad == 2).all() for parameter in parameters[:-1])
    assert parameters[-1].grad is None
