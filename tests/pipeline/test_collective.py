"""Two gloo processes on half batches equal one process on the whole."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from pipeline import collective
from ratgan.step import train_step
from ratgan.text.pretraining import pretrain_step
from tests.ratgan.test_pretraining import small_batch as small_captions
from tests.ratgan.test_pretraining import small_pair
from tests.ratgan.test_step import small_batch, small_gan

STEPS = 3


def share(whole: torch.Tensor) -> torch.Tensor:
    return whole.chunk(collective.world())[collective.rank()]


def train(output: str | None = None) -> dict[str, torch.Tensor]:
    """Train a few steps on this process's share, in float64."""
    gan = small_gan()
    for _ in range(STEPS):
        batch = {name: share(value) for name, value in small_batch(6).items()}
        train_step(gan, **batch, synchronize=collective.average_gradients)
    weights = {
        f"{name}.{key}": value
        for name in ("generator", "discriminator", "average")
        for key, value in getattr(gan, name).state_dict().items()
    }
    if output:
        torch.save(weights, f"{output}/{collective.rank()}.pt")
    return weights


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
    train(output)
    pretrain(output)
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def processes(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("gloo")
    mp.spawn(in_process, args=(request.param, str(output)), nprocs=request.param)
    return request.param, output


@pytest.mark.slow
def test_processes_train_what_one_process_trains(processes):
    world, output = processes

    alone = train()

    for rank in range(world):
        weights = torch.load(output / f"{rank}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.slow
def test_processes_pretrain_what_one_process_pretrains(processes):
    world, output = processes

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
