"""Weights of another network: every tensor is accounted for, and what fits does what it did."""

import pytest
import torch

from ratgan.weights.transfer import Account, transfer
from tests.ratgan.networks import small_discriminator, small_generator


def refuse_gaps(account: Account, network, source) -> None:
    """Every tensor of both networks has one place in the account."""
    here = [*account.taken, *account.in_part, *account.anew]
    assert sorted(here) == sorted(network.state_dict())
    used = len(account.taken) + len(account.in_part)
    assert used + len(account.left_out) == len(source.state_dict())
    assert account.left_out.keys() <= source.state_dict().keys()
    assert all({**account.in_part, **account.anew, **account.left_out}.values()), "with a reason"


def changed(network):
    """Give each number of a network another value than its initial one."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(0.25)
    return network


@pytest.mark.parametrize("build", [small_generator, small_discriminator])
def test_a_network_of_the_same_arguments_becomes_the_other(build):
    source, network = changed(build()), build()

    account = transfer(network, source)

    refuse_gaps(account, network, source)
    assert len(account.taken) == len(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_larger_generator_ends_with_the_blocks_of_a_smaller_one(recurrent):
    source = changed(small_generator(recurrent=recurrent))
    network = small_generator(64, recurrent=recurrent)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    account = transfer(network, source)

    refuse_gaps(account, network, source)
    assert all(name.startswith("blocks.0.") for name in account.anew)
    assert not account.left_out
    own, given = network.state_dict(), source.state_dict()
    assert torch.equal(own["blocks.4.conv2.weight"], given["blocks.3.conv2.weight"])
    assert torch.equal(own["blocks.0.conv1.weight"], fresh["blocks.0.conv1.weight"])
    # 4 affines of a block, and two rows for each.
    assert torch.equal(own["affines.hidden_weight"][8:], given["affines.hidden_weight"])
    assert torch.equal(own["affines.hidden_weight"][:8], fresh["affines.hidden_weight"][:8])
    assert torch.equal(own["to_rgb.weight"], given["to_rgb.weight"])


def test_a_smaller_generator_is_the_end_of_a_larger_one():
    source, network = changed(small_generator(64)), small_generator(32)

    account = transfer(network, source)

    refuse_gaps(account, network, source)
    assert not account.anew
    assert {name.split(".")[1] for name in account.left_out} == {"0"}, "the first block"
    assert account.in_part["affines.hidden_weight"] == "the last 32 rows of 40 to the last of 32"
    back = small_generator(64)
    transfer(back, network)
    own = back.state_dict()
    for name in account.taken:
        if not name.startswith("blocks."):
            assert torch.equal(own[name], source.state_dict()[name]), name


@pytest.mark.parametrize(("here", "there"), [(64, 32), (32, 64)])
def test_a_discriminator_of_another_size_begins_with_the_same_blocks(here, there):
    source, network = changed(small_discriminator(there)), small_discriminator(here)

    account = transfer(network, source)

    refuse_gaps(account, network, source)
    own, given = network.state_dict(), source.state_dict()
    for name in ("from_rgb.weight", "trunk.0.residual.0.weight", "trunk.1.shortcut.weight"):
        assert name in account.taken
        assert torch.equal(own[name], given[name])
    assert "head.down.residual.0.weight" in account.anew
    assert "there and" in account.left_out["head.down.residual.0.weight"]


@pytest.mark.parametrize(
    "network", [small_generator, lambda **k: small_generator(recurrent=False, **k)]
)
def test_refit_to_other_vectors_a_generator_draws_what_it_drew(network):
    torch.manual_seed(3)
    source, here = network(output="linear"), network(output="linear", sentence_dim=4)
    sentences, refit = torch.randn(2, 4), torch.randn(4, 9)
    noise = torch.randn(1, 7).expand(2, 7)

    account = transfer(here, source, refit)

    refuse_gaps(account, here, source)
    drawn, expected = here(noise, sentences), source(noise, sentences @ refit)
    assert torch.allclose(drawn, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn[0], drawn[1], rtol=0.01), "the sentence has an effect"
    assert not account.anew


def test_refit_to_other_vectors_a_discriminator_scores_as_it_did():
    torch.manual_seed(3)
    source, here = changed(small_discriminator()), small_discriminator(sentence_dim=4)
    sentences, refit = torch.randn(2, 4), torch.randn(4, 9)
    images = torch.rand(2, 3, 32, 32) * 2 - 1

    account = transfer(here, source, refit)

    refuse_gaps(account, here, source)
    (score,), (expected,) = here(images, sentences), source(images, sentences @ refit)
    assert torch.allclose(score, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dim", "other"), [(8, 9), (7, 9), (9, 8), (7, 8)])
def test_a_shortcut_that_is_there_for_some_sizes_of_vectors_only_is_accounted_for(dim, other):
    # 8 channels of features and 8 of a sentence are the 16 that come out: no convolution.
    source, here = (
        changed(small_discriminator(sentence_dim=other)),
        small_discriminator(sentence_dim=dim),
    )

    account = transfer(here, source, torch.randn(dim, other))

    refuse_gaps(account, here, source)
    name = "head.down.shortcut.weight"
    assert (name in account.anew) == (other == 8)
    assert (name in account.left_out) == (dim == 8)
    assert (name in account.in_part) == (8 not in (dim, other))


@pytest.mark.parametrize("dim", [9, 4])
@pytest.mark.parametrize("build", [small_generator, small_discriminator])
def test_of_another_encoder_only_what_reads_sentences_is_left(build, dim):
    source, here = changed(build()), build(sentence_dim=dim)
    fresh = {name: tensor.clone() for name, tensor in here.state_dict().items()}

    account = transfer(here, source, "other")

    refuse_gaps(account, here, source)
    touched = {*account.anew, *account.in_part}
    if build is small_generator:
        assert touched == {"controller.lstm.weight_ih_l0"} == account.left_out.keys()
        assert account.anew == account.left_out
    else:
        assert touched == set(account.in_part)
        own, given = here.state_dict(), source.state_dict()
        for name in touched:
            tensor = own[name]
            assert torch.equal(tensor[:, -dim:], fresh[name][:, -dim:])
            assert torch.equal(tensor[:, :-dim], given[name][:, :-9])
            assert "sentence" in account.in_part[name]


def test_an_account_says_its_counts():
    account = Account(["a", "b"], {"c": "half"}, {}, {"d": "this network has none"})

    assert str(account) == "2 taken, 1 in part, 0 anew, 1 left out"
