"""Weights of the published RAT-GAN code, brought into our networks.

The published state dicts hold one LSTM up to eight times, tensors that no graph
uses, and a generator with four affine transformations in a block under the same
names as one with six. Here each tensor is accounted for, and what cannot be told
apart is refused.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import torch
from torch import Tensor

from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.weights import weight_file
from ratgan.weights.strict import Network, build_strictly
from ratgan.weights.tensor_sets import Tensors, listed, parts, select, without_wrappers

# Affine transformations of a published block in the order its graph uses them, by their number.
USED_AFFINES = {4: (0, 1, 2, 3), 6: (0, 1, 4, 2, 3, 5)}
MAX_BLOCKS = 16  # the published networks have 7
LSTM_COPY = re.compile(r"^block\d+\.lstm\.")


@dataclass
class ImportReport:
    """What became of every tensor of a published state dict.

    Attributes:
        used: Published names by our name.
        repeated: Names of further copies of the one LSTM, equal to the first.
        unused: Names of tensors that the published graph never uses.
        notes: What a person should know.
    """

    used: dict[str, list[str]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        sources = sum(len(names) for names in self.used.values())
        return (
            f"{sources} tensors used for {len(self.used)} of ours, {len(self.repeated)} copies of "
            f"the LSTM left out, {len(self.unused)} tensors that its graph never uses left out"
            + "".join(f"\nnote: {note}" for note in self.notes)
        )


class _Tensors:
    """A published state dict that remembers what was taken from it."""

    def __init__(self, tensors: dict[str, Tensor], what: str) -> None:
        self.tensors, self.what = tensors, what
        self.report = ImportReport()
        self.ours: dict[str, Tensor] = {}
        self.left = set(tensors)

    def take(self, ours: str, *published: str) -> None:
        """Let one published tensor become one of ours."""
        (name,) = published
        self.put(ours, self[name], name)

    def put(self, ours: str, tensor: Tensor, *published: str) -> None:
        """Let what was made of published tensors become one of ours."""
        self.ours[ours] = tensor.contiguous()
        self.report.used[ours] = list(published)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(
                f"{self.what} has no tensor {name}: it is not a state dict of the published code. "
                f"It holds {', '.join(sorted(self.tensors)[:3])} …"
            )
        self.left.discard(name)
        return self.tensors[name]

    def drop(self, name: str) -> None:
        """Leave out a tensor that the published graph never uses."""
        if name in self.left:
            self.left.discard(name)
            self.report.unused.append(name)

    def finish(self, build: Callable[[], Network], where: str) -> tuple[Network, ImportReport]:
        """Load what was put together; refuse what was not accounted for."""
        if self.left:
            names = ", ".join(sorted(self.left)[:5])
            raise ValueError(
                f"{self.what} holds {len(self.left)} tensors that no published graph of this kind "
                f"has: {names}. It is from another model."
            )
        return build_strictly(build, self.ours, where), self.report


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a published `.pth` file, or safetensors; only tensors are loaded from it.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it holds anything but named tensors, or would grow in memory.
    """
    return weight_file.read_weights(path, "weights").tensors


def import_from(
    path: str | Path,
    build: Callable[[Tensors], tuple[Network, ImportReport]],
    key: str | None,
    option: str,
) -> tuple[Network, ImportReport, str]:
    """Import one network of a file that may hold several.

    Args:
        path: Published `.pth` file, or a checkpoint of a training script, or safetensors.
        build: `import_generator` or `import_discriminator`.
        key: Of the set of tensors in the file, `model.netG`. Without one, the only set that fits
            with every tensor is taken.
        option: That `key` is given by, for messages.

    Returns:
        The network, what became of every tensor, and the key; empty for a file of one set.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If nothing in it fits, or several sets do.
    """
    sets = weight_file.read_sets(path, "weights")
    if key is not None:
        return *_built(build, select(sets, key, str(path), option)), key
    problems: dict[str, ValueError] = {}
    for candidates in (sets, parts(sets)):  # a module of several networks: only if no whole fits
        fitting: dict[str, tuple[Network, ImportReport]] = {}
        for name, tensors in candidates.items():
            try:
                fitting[name] = _built(build, tensors)
            except ValueError as problem:
                problems.setdefault(name, problem)
        if len(fitting) > 1:
            found = {name: candidates[name] for name in fitting}
            raise ValueError(
                f"{path} holds {len(found)} sets of tensors that fit: {listed(found)}. Choose one, "
                f"for example {option} {quote(list(found)[-1])}."
            )
        if fitting:
            ((name, built),) = fitting.items()
            return *built, name
    if len(sets) == 1:
        raise next(iter(problems.values()))
    raise ValueError(
        f"none of the sets of tensors in {path} fits: {listed(sets)}. Choose one, for example "
        f"{option} {quote(next(iter(sets)))}, to be told why it does not."
    )


def _built(
    build: Callable[[Tensors], tuple[Network, ImportReport]], tensors: Tensors
) -> tuple[Network, ImportReport]:
    try:
        return build(tensors)
    except (RuntimeError, IndexError) as error:  # names as published, on tensors of other shapes
        raise ValueError(
            f"its tensors have other shapes than the published ones: {error}"
        ) from error


def import_generator(
    state: dict[str, Tensor], *, affines_per_block: int | None = None
) -> tuple[Generator, ImportReport]:
    """Build a generator from a published state dict.

    Args:
        state: Names with or without ``module.`` or ``_orig_mod.``.
        affines_per_block: 4 or 6, where it cannot be told from the weights: both graphs
            have the same names. The four-affine graph never trains the other two, so
            these are then as they were initialised.

    Returns:
        The generator, which reads sentence vectors as the text encoder gives them
        (256 numbers of DAMSM, no transform), and what became of every tensor.

    Raises:
        ValueError: If it is not a state dict of the published generator.
    """
    tensors = _Tensors(without_wrappers(state), "the generator")
    levels = _blocks(tensors)
    _one_lstm(tensors)
    graph = affines_per_block or _graph(tensors, levels)
    if graph not in USED_AFFINES:
        raise ValueError(f"affines_per_block={graph} must be 4 or 6: the published graphs.")

    tensors.take("controller.initial_hidden.weight", "lstm.noise2h.weight")
    tensors.take("controller.initial_hidden.bias", "lstm.noise2h.bias")
    tensors.take("controller.initial_cell.weight", "lstm.noise2c.weight")
    tensors.take("controller.initial_cell.bias", "lstm.noise2c.bias")
    # The same gates in the same order (i, f, g, o), the other way round; torch adds a second bias.
    tensors.put("controller.lstm.weight_ih_l0", tensors["lstm.W"].T, "lstm.W")
    tensors.put("controller.lstm.weight_hh_l0", tensors["lstm.U"].T, "lstm.U")
    tensors.put("controller.lstm.bias_ih_l0", tensors["lstm.bias"], "lstm.bias")
    tensors.put("controller.lstm.bias_hh_l0", torch.zeros_like(tensors["lstm.bias"]))
    for kind in ("weight", "bias"):
        tensors.take(f"project.{kind}", f"fc.{kind}")
        tensors.take(f"to_rgb.{kind}", f"conv_img.1.{kind}")
    for level in range(levels):
        block = f"block{level}"
        tensors.take(f"blocks.{level}.residual_scale", f"{block}.gamma")
        for ours, published in (("conv1", "c1"), ("conv2", "c2"), ("shortcut", "c_sc")):
            for kind in ("weight", "bias"):
                if ours != "shortcut" or f"{block}.{published}.{kind}" in tensors.tensors:
                    tensors.take(f"blocks.{level}.{ours}.{kind}", f"{block}.{published}.{kind}")
    _import_affines(tensors, levels, USED_AFFINES[graph])

    in_rgb = tensors["conv_img.1.weight"].shape[1]
    return tensors.finish(
        lambda: Generator(
            image_size=4 * 2 ** (levels - 1),
            sentence_dim=tensors["lstm.W"].shape[0],
            base_channels=in_rgb,
            noise_dim=tensors["fc.weight"].shape[1],
            controller_dim=tensors["lstm.U"].shape[0],
            affine_dim=tensors["block0.affine0.fc_gamma.linear1.weight"].shape[0],
            affines_per_block=graph,
        ).to(tensors["lstm.W"].dtype),
        "the published generator",
    )


def _import_affines(tensors: _Tensors, levels: int, used: tuple[int, ...]) -> None:
    """Stack the separate MLPs of the blocks in the order of the steps."""
    mlps = [
        f"block{level}.affine{number}.fc_{part}"
        for level in range(levels)
        for number in used
        for part in ("gamma", "beta")
    ]
    hidden = [f"{mlp}.linear1" for mlp in mlps]
    output = [f"{mlp}.linear2" for mlp in mlps]
    tensors.put(
        "affines.hidden_weight",
        torch.stack([tensors[f"{name}.weight"].T for name in hidden]),
        *(f"{name}.weight" for name in hidden),
    )
    tensors.put(
        "affines.hidden_bias",
        torch.stack([tensors[f"{name}.bias"][None] for name in hidden]),
        *(f"{name}.bias" for name in hidden),
    )
    run: list[str] = []
    number = 0
    for name, after in zip(output, [*output[1:], None], strict=True):
        run.append(name)
        size = tensors[f"{name}.bias"].shape
        if after is None or tensors[f"{after}.bias"].shape != size:
            tensors.put(
                f"affines.output_weights.{number}",
                torch.stack([tensors[f"{each}.weight"].T for each in run]),
                *(f"{each}.weight" for each in run),
            )
            tensors.put(
                f"affines.output_biases.{number}",
                torch.stack([tensors[f"{each}.bias"][None] for each in run]),
                *(f"{each}.bias" for each in run),
            )
            run, number = [], number + 1
    for name in sorted(tensors.left):
        if re.match(r"^block\d+\.(affine[45]\.|fea_l)", name):
            tensors.drop(name)


def _one_lstm(tensors: _Tensors) -> None:
    """Keep one of the copies of the LSTM, as `lstm.…`.

    Raises:
        ValueError: If they differ: then they are not copies.
    """
    for name in sorted(tensors.left):
        if not LSTM_COPY.match(name):
            continue
        first = LSTM_COPY.sub("lstm.", name)
        if first not in tensors.tensors:
            tensors.tensors[first] = tensors.tensors[name]
            tensors.left.add(first)
        elif not torch.equal(tensors.tensors[first], tensors.tensors[name]):
            raise ValueError(
                f"{name} differs from {first}: the published model has one LSTM, saved several "
                "times. This state dict is from another model."
            )
        tensors.left.discard(name)
        tensors.report.repeated.append(name)


def _graph(tensors: _Tensors, levels: int) -> int:
    """Tell a four-affine from a six-affine generator by which affine blocks were ever trained."""
    trained = [
        not _as_initialised(tensors, f"block{level}.affine{number}")
        for level in range(levels)
        for number in (4, 5)
        if f"block{level}.affine{number}.fc_gamma.linear2.weight" in tensors.tensors
    ]
    if not any(trained):
        return 4
    if all(trained):
        return 6
    raise ValueError(
        f"of the affine blocks that only a six-affine generator trains, {sum(trained)} of "
        f"{len(trained)} were trained: it cannot be told which graph these weights are of. "
        "Say which with affines_per_block=4 or 6."
    )


def _as_initialised(tensors: _Tensors, affine: str) -> bool:
    state = tensors.tensors
    return (
        not state[f"{affine}.fc_gamma.linear2.weight"].any()
        and not state[f"{affine}.fc_beta.linear2.weight"].any()
        and bool((state[f"{affine}.fc_gamma.linear2.bias"] == 1).all())
        and not state[f"{affine}.fc_beta.linear2.bias"].any()
    )


def import_discriminator(state: dict[str, Tensor]) -> tuple[Discriminator, ImportReport]:
    """Build a discriminator from a published state dict, with or without its attention.

    Raises:
        ValueError: If it is not a state dict of the published discriminator.
    """
    tensors = _Tensors(without_wrappers(state), "the discriminator")
    blocks = _blocks(tensors)
    attention = "COND_DNET.joint_conv_att.0.weight" in tensors.tensors
    for kind in ("weight", "bias"):
        tensors.take(f"from_rgb.{kind}", f"conv_img.{kind}")
    for number in range(blocks):
        last = number == blocks - 1
        if last and attention:  # its head looks before it halves, in a block of its own
            for name in sorted(n for n in tensors.left if n.startswith(f"block{number}.")):
                tensors.drop(name)
        else:
            _down_block(tensors, f"trunk.{number}", f"block{number}")
    if attention:
        _down_block(tensors, "head.down", "COND_DNET.block")
        tensors.take("head.attention.mlp.0.weight", "COND_DNET.joint_conv_att.0.weight")
        tensors.take("head.attention.mlp.2.weight", "COND_DNET.joint_conv_att.2.weight")
    tensors.take("head.score.0.weight", "COND_DNET.joint_conv.0.weight")
    tensors.take("head.score.2.weight", "COND_DNET.joint_conv.2.weight")

    features = tensors["block0.conv_r.2.weight"].shape[0]
    last_block = "COND_DNET.block" if attention else f"block{blocks - 1}"
    out_channels = tensors[f"{last_block}.conv_r.2.weight"].shape[0]
    if features != 2 * tensors["conv_img.weight"].shape[0]:
        raise ValueError("block0 of the discriminator does not double the channels.")
    return tensors.finish(
        lambda: Discriminator(
            image_size=4 * 2**blocks,
            sentence_dim=tensors["COND_DNET.joint_conv.0.weight"].shape[1] - out_channels,
            base_channels=tensors["conv_img.weight"].shape[0],
            attention="softmax" if attention else "none",
        ).to(tensors["conv_img.weight"].dtype),
        "the published discriminator",
    )


def _down_block(tensors: _Tensors, ours: str, published: str) -> None:
    tensors.take(f"{ours}.residual_scale", f"{published}.gamma")
    tensors.take(f"{ours}.residual.0.weight", f"{published}.conv_r.0.weight")
    tensors.take(f"{ours}.residual.2.weight", f"{published}.conv_r.2.weight")
    out_channels, in_channels = tensors[f"{published}.conv_r.0.weight"].shape[:2]
    for kind in ("weight", "bias"):
        name = f"{published}.conv_s.{kind}"
        if in_channels != out_channels:
            tensors.take(f"{ours}.shortcut.{kind}", name)
        else:  # there, but the graph goes around it
            tensors.drop(name)


def _blocks(tensors: _Tensors) -> int:
    """Count the blocks by their numbers, which are those of a stranger."""
    numbers = (re.match(r"^block(\d+)\.", name) for name in tensors.tensors)
    count = 1 + max((int(number[1]) for number in numbers if number), default=0)
    if count > MAX_BLOCKS:
        raise ValueError(f"{tensors.what} has a block{count - 1}: it is from another model.")
    return count
