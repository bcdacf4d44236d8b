"""A worker of DAMSM pretraining: restore, stream batches, step, measure, save.

Dimensions in this file:
    B images of a batch over all workers, b this worker's share, L words of the longest
    caption, E size of a word's embedding, D size of word and sentence vectors.
"""

from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.damsm_state import pair_files, pair_tensors, restore
from pipeline.checkpoint.store import Score
from pipeline.common.console import duration, print_line
from pipeline.common.failpoints import reach
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch, prefetch
from pipeline.data.sample_order import SampleOrder
from pipeline.distributed import collective
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.diagnostics import LEARNING_FROM, is_at_chance
from pipeline.training.loop import (
    flush_metrics_before,
    open_dataset,
    open_worker,
    reader,
    resume,
    run_state,
)
from pipeline.training.reporter import RunReporter
from pipeline.training.step_metrics import Interval
from ratgan.efficientnet import read_efficientnet
from ratgan.metrics.retrieval import RPrecision, r_precision
from ratgan.text.damsm import CaptionNetwork, pad
from ratgan.text.image_branch import (
    EfficientNetBranch,
    ImageBranch,
    InceptionBranch,
    SmallBranch,
    read_inception,
)
from ratgan.text.pretraining import Pair, learning_rate, pretrain_step, word_dropout
from ratgan.text.vocabulary import Vocabulary

R_PRECISION = "eval/r_precision"
MEASURED_AT_ONCE = 64  # images


def build(
    config: PretrainConfig,
    vocabulary: Vocabulary,
    device: torch.device,
    trunk: dict[str, Tensor] | None = None,
) -> Pair:
    """Build both networks and their optimizer, equal on every worker by the seed.

    Args:
        trunk: Weights of Inception-v3, instead of those that the config names.
    """
    torch.manual_seed(config.seed)
    options = config.pair
    captions = CaptionNetwork(len(vocabulary.words), options.embedding_dim, options.dim)
    images: ImageBranch
    if options.branch == "small":
        images = SmallBranch(options.dim)
    elif options.branch == "efficientnet-lite0":
        images = EfficientNetBranch(read_efficientnet(), options.dim)
    else:
        images = InceptionBranch(trunk or read_inception(options.inception_weights), options.dim)
    return Pair.create(captions.to(device), images.to(device), betas=config.optim.betas)


class PairReporter(RunReporter):
    """Logs of a pretraining: a line on the console, and metrics."""

    at_chance = False  # whether that was told

    def line(self, step: int, last: int, measured: dict[str, float]) -> None:
        """Print and log the means of an interval."""
        speed = measured["speed/images_per_s"]
        left = (last - step) * measured["images_seen"] / step / speed
        sentence = measured["loss/sentence_to_caption"] + measured["loss/sentence_to_image"]
        words = measured["loss/words_to_caption"] + measured["loss/words_to_image"]
        print_line(
            f"step {step:,}/{last:,}  images {measured['images_seen']:,.0f}  words {words:.3f}  "
            f"sentence {sentence:.3f}  {speed:.1f} img/s  "
            f"data wait {measured['speed/data_wait_share']:.0%}  ETA {duration(left)}"
        )
        self.tracker.metrics(step, measured)

    def retrieval(self, step: int, found: RPrecision) -> None:
        """Print and log R-precision, and warn once if it has not left chance."""
        self.tracker.metrics(step, {R_PRECISION: found.share})
        print_line(f"step {step:,}  {describe(found)}")
        blind = step >= LEARNING_FROM and is_at_chance(found.share, found.chance)
        if blind and not self.at_chance:
            self.at_chance = True
            self._warn(
                "health.retrieval_at_chance",
                f"step {step}",
                f"step {step:,}: images do not find their captions. Look at whether captions fit "
                "their images (jobs/inspect_data.py), and try a lower --optim.lr, in a new run.",
            )


def work(fields: dict[str, Any]) -> str:
    """Pretrain; the function that Ray Train runs in each worker.

    Returns:
        On rank 0, why it stopped before its last step, or "".
    """
    with open_worker(fields, PretrainConfig) as worker:
        job, config, device = worker.job, worker.config, worker.device
        dataset = open_dataset(job, config.data.path)
        plan = SampleOrder(dataset.units("train"), config.optim.batch_size, config.seed)
        # Only from training captions: the vector of an untrained word would be noise.
        vocabulary = Vocabulary.of(dataset.captions("train"), config.pair.max_words)
        pair = build(config, vocabulary, device)
        files = partial(pair_files, pair=pair, vocabulary=vocabulary)

        state = resume(job, config, worker.saver.root, device, lambda folder: restore(folder, pair))
        step: int = state.get("step", 0)
        last = config.steps(plan.images)
        reporter = PairReporter(job) if collective.rank() == 0 else None
        incoming = reader(config, dataset, plan, image_size=config.pair.image_size, captions=True)
        batches = prefetch(incoming.batches(step, last), device)
        interval, saves, stopping = Interval(step), False, False
        while step < last and not stopping:
            # Rank 0 measures and saves alone, and the others wait for it here.
            with worker.watchdog.step(step, patient=saves and reporter is None):
                batch = interval.wait_for(batches)
                reach("worker.step", step=step, rank=collective.rank())
                values = do_step(config, pair, batch, vocabulary, step, plan.images, device)
                step += 1
                worker.saver.check()
                stopping = collective.any_of(worker.stop.asked, device)
                interval.add(values)
            saves = step % config.checkpoint_every == 0 or step == last or stopping

            if step % config.log_every == 0 or step == last:
                measured = interval.close(step, config.optim.batch_size, device)
                if reporter:
                    reporter.line(step, last, measured)
                    reporter.stragglers.interval(step, interval.own_s)
                interval = Interval(step)
            if reporter and saves:
                # A stop between two regular checkpoints is not delayed by a measurement.
                extra = step % config.checkpoint_every != 0
                due = not extra or step == last
                found = measure(config, pair, dataset, vocabulary, device) if due else None
                if found:
                    reporter.retrieval(step, found)
                state = run_state(job, config, dataset, plan, device, step)
                state["retrieval"] = found._asdict() if found else None
                score = Score(R_PRECISION, found.share) if found and config.keep_best else None
                told = flush_metrics_before(reporter.tracker, files)
                worker.saver.save(step, pair_tensors(pair), told, state, score, extra=extra)
    return "" if step >= last else worker.stop.reason


def do_step(
    config: PretrainConfig,
    pair: Pair,
    batch: Batch,
    vocabulary: Vocabulary,
    step: int,
    images: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Run one step on this worker's share of a batch."""
    optim, world = config.optim, collective.world()
    tokens, lengths = _read(vocabulary, batch.captions)
    # Every worker draws the dropout of the whole batch and uses its own share.
    shape = (optim.batch_size, vocabulary.max_words, config.pair.embedding_dim)
    dropout = word_dropout(config.seed, step, shape, optim.dropout)
    longest = int(collective.gather(lengths.to(device)).max())
    share = dropout[:, :longest].chunk(world)[collective.rank()]  # [b, L, E]
    return pretrain_step(
        pair,
        images=batch.images.to(device, non_blocking=True).float() / 127.5 - 1,
        tokens=tokens[:, :longest].to(device),
        lengths=lengths.to(device),
        classes=collective.gather(batch.class_keys.to(device)),
        dropout=share.to(device),
        lr=learning_rate(
            step * optim.batch_size // images,
            start=optim.lr,
            decay=optim.lr_decay,
            floor=optim.lr_floor,
        ),
        focus=optim.word_focus,
        pooling=optim.word_pooling,
        sharpness=optim.sharpness,
        clip=optim.clip,
        gather=collective.gather_with_gradient,
        synchronize=collective.sum_gradients,
    )


def _read(vocabulary: Vocabulary, captions: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Convert captions to word numbers, [b, max words], and lengths, [b].

    A caption without a known word (for example in another script) becomes the end mark alone: such
    a caption must not end a training.
    """
    return pad([vocabulary.read(text) or [0] for text in captions], vocabulary.max_words)


@torch.no_grad()
def measure(
    config: PretrainConfig,
    pair: Pair,
    dataset: PreparedDataset,
    vocabulary: Vocabulary,
    device: torch.device,
) -> RPrecision | None:
    """Measure how often a held-out image finds its first caption, by the sentence vectors.

    Returns:
        The result; None if the held-out images have fewer than two classes.
    """
    examples = islice(dataset.each("validation"), config.held_out)
    seen: list[tuple[Tensor, Tensor]] = []
    classes: list[int] = []
    pair.images.eval()
    while some := list(islice(examples, MEASURED_AT_ONCE)):
        margin = (some[0].image.shape[-1] - config.pair.image_size) // 2
        stop = margin + config.pair.image_size
        images = torch.stack([e.image[:, margin:stop, margin:stop] for e in some])
        tokens, lengths = _read(vocabulary, tuple(example.caption for example in some))
        _, wholes = pair.images(images.to(device).float() / 127.5 - 1)
        _, sentences = pair.captions(tokens.to(device), lengths)
        seen.append((wholes.cpu(), sentences.cpu()))
        classes += [example.class_key for example in some]
    pair.images.train()
    if len(set(classes)) < 2:
        return None
    wholes, sentences = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return r_precision(wholes, sentences, torch.tensor(classes))


def describe(found: RPrecision) -> str:
    """Return R-precision as text, with the value by chance."""
    return (
        f"R-precision {found.share:.1%} of {found.images:,} held-out images among "
        f"{found.candidates} captions (by chance {found.chance:.1%})"
    )
