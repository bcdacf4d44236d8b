"""A step of a worker: a generator learns pictures of any ground, and how it fails with tanh."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from pipeline.config import TrainConfig
from pipeline.data.loader import Batch
from pipeline.training.gan_step import build, do_step, renew_matcher
from ratgan.text.transform import SentenceTransform

GROUNDS = ("white", "black", "high contrast")
CLASSES, IMAGES, BATCH, STEPS = 8, 300, 8, 100
CPU = torch.device("cpu")


def pictures(ground):
    """Draw eight classes: squares of eight colours on a ground, or boards of black and white."""
    random = torch.Generator().manual_seed(0)
    classes = torch.arange(IMAGES) % CLASSES
    if ground == "high contrast":
        boards = torch.randint(0, 2, (CLASSES, 1, 4, 4), generator=random, dtype=torch.uint8) * 255
        flips = 255 * torch.randint(0, 2, (IMAGES, 1, 1, 1), generator=random, dtype=torch.uint8)
        large = boards.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
        return large[classes] ^ flips, classes
    images = torch.full((IMAGES, 3, 32, 32), 255 if ground == "white" else 0, dtype=torch.uint8)
    for image, number in zip(images, classes.tolist(), strict=True):
        top, left = torch.randint(4, 18, (2,), generator=random).tolist()
        colour = torch.tensor([32 + 192 * (number >> bit & 1) for bit in range(3)])
        image[:, top : top + 10, left : left + 10] = colour.to(torch.uint8)[:, None, None]
    return images, classes


def options(seed=0, optim=None, augment=(), augment_adaptive=False, **model):
    sizes = {"base_channels": 2, "noise_dim": 16, "controller_dim": 16, "affine_dim": 16}
    rates = {"batch_size": BATCH, "generator_lr": 1e-3, "discriminator_lr": 2e-3}
    return TrainConfig(
        total_steps=STEPS,
        seed=seed,
        augment=augment,
        augment_adaptive=augment_adaptive,
        model={"image_size": 32, "affines_per_block": 2} | sizes | model,
        optim=rates | (optim or {}),
    )


def train(config, ground, steps):
    """Train from the start; yield networks, values and words of the classes after each step."""
    images, classes = pictures(ground)
    random = torch.Generator().manual_seed(config.seed)
    words = torch.randn(CLASSES, CLASSES, generator=random)
    gan, transform = build(config, CLASSES, CPU), SentenceTransform.identity(CLASSES)
    for step in range(steps):
        rows = torch.randint(0, IMAGES, (BATCH,), generator=random)
        batch = Batch(images[rows], words[classes[rows]], rows, classes[rows])
        yield gan, do_step(gan, config, batch, transform, CPU, number=step, step=step), words


def trained(ground, *, seed, **model):
    """Train for a hundred steps; return the norm of G's last gradient, and what it draws."""
    *_, (gan, values, words) = train(options(seed, **model), ground, STEPS)
    noise = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        drawn = gan.generator.draw(noise, words[torch.arange(16) % CLASSES])
    return float(values["gradient/generator"]), drawn


def difference(drawn):
    """Return by how many of 255 levels pictures differ from their mean, on average."""
    return float(127.5 * drawn.std(dim=0).mean())


@pytest.mark.rest
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("ground", GROUNDS)
def test_a_linear_output_learns_pictures_of_any_ground(ground, seed):
    gradient, drawn = trained(ground, seed=seed, output="linear")

    assert gradient > 0.1
    assert difference(drawn) > 1


@pytest.mark.rest
def test_tanh_dies_on_a_white_ground_where_a_linear_output_lives():
    dead, white = trained("white", seed=0)
    living, drawn = trained("white", seed=0, output="linear")

    assert (white > 0.999).float().mean() > 0.9
    assert difference(white) < 0.5
    assert difference(drawn) > 1
    assert dead < 0.1 * living


def test_learning_rates_rise_to_their_values_in_the_warm_up():
    seen = [
        [
            optimizer.param_groups[0]["lr"]
            for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer)
        ]
        for gan, _, _ in train(options(optim={"warmup_steps": 4}), "white", 6)
    ]

    shares = [0.25, 0.5, 0.75, 1, 1, 1]
    assert seen == [pytest.approx([share * 1e-3, share * 2e-3]) for share in shares]


def augmented_steps(rank=0, world=1):
    """Do three steps with an adaptive augmentation on a share of the batch."""
    config = options(augment=("translation", "cutout", "colour"), augment_adaptive=True)
    images, classes = pictures("white")
    words = torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(0))
    gan, strength = build(config, CLASSES, CPU), torch.tensor(0.5)
    transform = SentenceTransform.identity(CLASSES)
    for step in range(3):
        rows = torch.arange(BATCH * step, BATCH * (step + 1)).chunk(world)[rank]
        batch = Batch(images[rows], words[classes[rows]], rows, classes[rows])
        values = do_step(
            gan, config, batch, transform, CPU, number=step, step=step, strength=strength
        )
        strength = values["augment/strength"]
    weights = [*gan.generator.parameters(), *gan.discriminator.parameters()]
    return torch.cat([each.detach().flatten() for each in weights]), strength


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.save(augmented_steps(rank, 2), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.rest
def test_two_workers_see_the_views_of_one_and_have_one_strength(tmp_path):
    expected, strength = augmented_steps()

    mp.start_processes(one_of_two, args=(str(tmp_path),), nprocs=2, start_method="forkserver")

    assert strength != 0.5
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(map(torch.equal, first, second))
    torch.testing.assert_close(first[0], expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(first[1], strength, rtol=0, atol=1e-6)


def test_a_matcher_that_is_renewed_is_that_of_a_new_run():
    config = options(optim={"matching_weight": 1.0})
    *_, (gan, _, _) = train(config, "white", 2)

    renew_matcher(gan, config)

    first = build(config, CLASSES, CPU)
    expected = first.matcher.state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in gan.matcher.state_dict().items())
    assert not any(each["exp_avg"].any() for each in gan.matcher_optimizer.state.values())
