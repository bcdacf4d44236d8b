"""The benchmark's counts, which are the same on every machine, and what they must reach."""

import statistics

import pytest
import torch

from benchmarks.comparison import NoUpdate, bfloat16_error, count, float64_error
from benchmarks.workload import Workload
from ratgan.ops.op_counter import Counter
from ratgan.step import train_step


def test_step_needs_at_most_the_promised_share_of_the_references_arithmetic():
    reference, ours = count()

    assert round(reference.gflops_per_image, 1) == 858.2
    assert ours.gflops_per_image <= 0.67 * reference.gflops_per_image
    assert ours.kernels < reference.kernels
    assert ours.peak_gib <= 0.6 * reference.peak_gib


def test_step_and_reference_compute_the_same_in_float64():
    assert float64_error(base_channels=2, image_size=64) <= 1e-10


@pytest.mark.rest
def test_gradients_in_bfloat16_are_no_further_from_float64_than_those_of_the_reference():
    errors = [bfloat16_error(seed) for seed in range(5)]

    for loss in ("hinge", "penalty", "generator"):
        reference, ours = (statistics.median(e[loss][side] for e in errors) for side in (0, 1))
        assert ours <= reference, loss
        assert ours < 0.03, loss


@pytest.mark.rest
def test_four_parts_of_a_batch_need_a_quarter_of_its_memory_and_little_more_arithmetic():
    counted = {}
    for accumulate in (1, 4):
        work = Workload(64, 24, device="meta")
        gan = work.ours()
        gan.generator_optimizer = NoUpdate(gan.generator.parameters())
        gan.discriminator_optimizer = NoUpdate(gan.discriminator.parameters())
        with Counter() as counted[accumulate]:
            train_step(gan, **work.batch, accumulate=accumulate)

    assert counted[4].peak_bytes < 0.25 * counted[1].peak_bytes
    assert counted[4].flops < 1.08 * counted[1].flops


def test_counter_counts_products_forward_and_backward():
    weight = torch.randn(5, 7, device="meta", requires_grad=True)
    inputs = torch.randn(3, 5, device="meta")

    with Counter() as counter:
        (inputs @ weight).sum().backward()

    assert counter.flops == 2 * (2 * 3 * 5 * 7)  # the product, and the gradient of the weight
    assert counter.live_bytes == 4 * 5 * 7  # that gradient


def test_counter_counts_no_views_and_forgets_what_is_gone():
    with Counter() as counter:
        for _ in range(3):
            tensor = torch.zeros(1000, device="meta").view(10, 100).t()
            del tensor

    assert counter.kernels == 3
    assert counter.live_bytes == 0
    assert counter.peak_bytes == 4000
