"""Which samples make which batch of which step: exact, and a function of (seed, epoch) alone.

A sample is one use of a picture in an epoch. Steps count optimizer updates, epochs from 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from engine.data.buckets import Placement, Size
from engine.data.reg_draws import RegDraws
from engine.draws import rng
from engine.errors import DataError, Problem


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Samples of one size that go through the model together; items by their placement's number."""

    bucket: Size
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Batches of one optimizer step. The sample index runs on over them from 0."""

    batches: tuple[BatchPlan, ...]

    @property
    def samples(self) -> int:
        """Samples of the step."""
        return sum(len(batch.items) for batch in self.batches)


@dataclass(frozen=True, slots=True)
class BucketRow:
    """One line of the bucket table, as epoch 1 has it."""

    width: int
    height: int
    images: int
    samples: int
    batches: int
    last_batch: int
    """Samples of the last batch; below the batch size it is a partial one."""


@dataclass(frozen=True, slots=True)
class RegUsage:
    """What regularisation costs and uses over a whole run."""

    images: int
    used: int
    fewest: int
    most: int
    """Uses of the least and of the most used picture."""
    extra_steps: int


def reg_samples(train_samples: int, ratio: float) -> int:
    """Regularisation samples of an epoch: ratio x training samples, rounded half up."""
    # The ratio as the decimal that was written: 0.15 x 10 is 1.5, not a little less.
    return int(Fraction(str(ratio)) * train_samples + Fraction(1, 2))


class Order:
    """The order of all samples of a run."""

    def __init__(
        self,
        placements: Sequence[Placement],
        repeats: Sequence[int],
        is_reg: Sequence[bool],
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        reg_ratio: float = 1.0,
        pictures: Sequence[int] | None = None,
        resolutions: Sequence[int] | None = None,
    ) -> None:
        """`pictures` and `resolutions` number what each placement shows, and at which resolution.

        Without them each placement is a picture of its own. Regularisation is drawn by picture, and
        its resolutions are in the proportion of those of the training samples.
        """
        if not len(placements) == len(repeats) == len(is_reg):
            raise ValueError("placements, repeats and is_reg must be of one length")
        if batch_size < 1 or accumulation < 1:
            raise ValueError("batch size and accumulation start at 1")
        self.batch_size = batch_size
        self.accumulation = accumulation
        self._seed = seed
        self._buckets = tuple(placement.bucket for placement in placements)
        weights = list(enumerate(repeats))
        self._train = tuple((n, uses) for n, uses in weights if not is_reg[n] and uses > 0)
        if not self._train:
            raise DataError(Problem("There is nothing to train.", remedy="Add pictures."))
        shows = range(len(placements)) if pictures is None else pictures
        levels = (0,) * len(placements) if resolutions is None else resolutions
        self._reg = RegDraws(
            [(n, shows[n], levels[n], uses) for n, uses in weights if is_reg[n] and uses > 0],
            _samples_at(levels, self._train),
            seed,
        )
        self.train_samples = sum(uses for _, uses in self._train)
        self.reg_samples = reg_samples(self.train_samples, reg_ratio) if self._reg.pictures else 0
        self._train_counts: Counter[Size] = Counter()
        for n, uses in self._train:
            self._train_counts[self._buckets[n]] += uses
        self._plan = lru_cache(maxsize=3)(self._planned)

    @property
    def samples_per_epoch(self) -> int:
        """Training and regularisation samples of an epoch."""
        return self.train_samples + self.reg_samples

    # Counting -----------------------------------------------------------------------------

    def steps_per_epoch(self, epochs: int) -> tuple[int, ...]:
        """Exact number of optimizer steps of each epoch."""
        if self.reg_samples == 0:
            return (self._steps(self._train_counts),) * epochs
        return tuple(self._steps(self._counts(epoch)) for epoch in range(1, epochs + 1))

    def _steps(self, counts: Counter[Size]) -> int:
        batches = sum(-(-count // self.batch_size) for count in counts.values())
        return -(-batches // self.accumulation)

    def _counts(self, epoch: int) -> Counter[Size]:
        return self._train_counts + Counter(self._buckets[n] for n in self.reg_draws(epoch))

    def bucket_table(self, epoch: int = 1) -> tuple[BucketRow, ...]:
        """One row for each bucket in use."""
        counts = self._counts(epoch)
        used = {*(n for n, _ in self._train), *self.reg_draws(epoch)}
        images = Counter(self._buckets[n] for n in used)
        return tuple(
            BucketRow(
                width=bucket[0],
                height=bucket[1],
                images=images[bucket],
                samples=counts[bucket],
                batches=-(-counts[bucket] // self.batch_size),
                last_batch=(counts[bucket] - 1) % self.batch_size + 1,
            )
            for bucket in sorted(counts)
        )

    def reg_usage(self, epochs: int) -> RegUsage:
        """How the regularisation pictures are used by the end of a run, and what they cost."""
        pictures = self._reg.pictures
        if not self.reg_samples or epochs < 1:
            return RegUsage(len(pictures), 0, 0, 0, 0)
        uses = Counter(picture for picture, _ in self._reg.drawn(0, epochs * self.reg_samples))
        extra = sum(self.steps_per_epoch(epochs)) - epochs * self._steps(self._train_counts)
        per_picture = [uses[n] for n in pictures]
        return RegUsage(len(pictures), len(uses), min(per_picture), max(per_picture), extra)

    # Order --------------------------------------------------------------------------------

    def epoch(self, epoch: int) -> tuple[StepPlan, ...]:
        """All steps of an epoch, numbered from 1."""
        if epoch < 1:
            raise ValueError("epochs are counted from 1")
        return self._plan(epoch)

    def _planned(self, epoch: int) -> tuple[StepPlan, ...]:
        contents: dict[Size, list[int]] = {}
        expanded = (n for n, uses in self._train for _ in range(uses))
        for item in (*expanded, *self.reg_draws(epoch)):
            contents.setdefault(self._buckets[item], []).append(item)
        batches: list[BatchPlan] = []
        for bucket in sorted(contents):
            items = contents[bucket]
            rng(self._seed, "order", epoch, *bucket).shuffle(items)
            batches += [
                BatchPlan(bucket, tuple(items[start : start + self.batch_size]))
                for start in range(0, len(items), self.batch_size)
            ]
        rng(self._seed, "batch order", epoch).shuffle(batches)
        return tuple(
            StepPlan(tuple(batches[start : start + self.accumulation]))
            for start in range(0, len(batches), self.accumulation)
        )

    def reg_draws(self, epoch: int) -> tuple[int, ...]:
        """Regularisation items of an epoch: its part of one endless row of shuffled passes."""
        start, stop = (epoch - 1) * self.reg_samples, epoch * self.reg_samples
        return tuple(placement for _, placement in self._reg.drawn(start, stop))


def _samples_at(levels: Sequence[int], train: Sequence[tuple[int, int]]) -> Counter[int]:
    """Training samples of an epoch at each resolution."""
    counts: Counter[int] = Counter()
    for n, uses in train:
        counts[levels[n]] += uses
    return counts


def epoch_of_step(steps_per_epoch: Sequence[int], step: int) -> tuple[int, int]:
    """Epoch and step inside it of a global step, all counted from 1."""
    before = 0
    for epoch, steps in enumerate(steps_per_epoch, start=1):
        if step <= before + steps:
            return epoch, step - before
        before += steps
    raise ValueError(f"step {step} is after the end of the run ({before} steps)")
