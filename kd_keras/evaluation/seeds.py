"""Statistics over runs that differ only in their seed: means, spreads, and the gain over the baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy import stats

BASELINE = "baseline"
# Flags of what a run is tested on: the gain over a baseline is a difference on the same images.
TESTED_ON = ("data", "test_data", "test_split", "task", "image_size", "image_channels", "image_bits")
SMALLEST_GAP = 1e-4  # in percent; a smaller gap between teacher and baseline is an error of rounding
COLUMNS = (
    "teacher", "student", "recipe", "metric", "seeds", "last", "spread", "best", "best_spread", "gain", "low", "high",
    "gap_closed", "seconds", "first_run",
)  # fmt: skip


class SeedGroup(NamedTuple):
    """The results of runs that differ only in their seed.

    Attributes:
        teacher: the run of the teacher, or "" for a baseline.
        student: the model.
        settings: the flags that they share, without the networks, the seed, and where and how the run is stored.
        runs: the paths of the runs.
        results: the results of the runs, with `metric` (by default "accuracy"), `last["val_<metric>"]`,
            `best_val_<metric>`, `seconds` and, if there is a teacher, `teacher_<metric>`.
        seeds: the seed of every run; by default all differ. Runs with the same seed count once, with their mean.
        name: the name of the recipe, if it has one.
    """

    teacher: str
    student: str
    settings: tuple[str, ...]
    runs: list[str]
    results: list[dict[str, Any]]
    seeds: list[str] | tuple = ()
    name: str = ""

    @property
    def repeated_seeds(self) -> list[str]:
        """The seeds of which there are several runs."""
        return [seed for seed in dict.fromkeys(self.seeds) if self.seeds.count(seed) > 1]

    def _by_seed(self, values: Sequence[float]) -> list[float]:
        """The mean of each seed: several runs of one seed say nothing about the spread over seeds."""
        seeds = self.seeds or range(len(values))
        by_seed: dict[Any, list[float]] = {}
        for seed, value in zip(seeds, values, strict=True):
            by_seed.setdefault(seed, []).append(value)
        return [statistics.mean(same) for same in by_seed.values()]

    @property
    def methods(self) -> list[str]:
        """The texts of the distillation methods."""
        return [flag.partition("=")[2] for flag in self.settings if flag.startswith("--method=")]

    @property
    def scheme(self) -> str:
        """The scheme in which a network teaches itself or peers teach each other, or ""."""
        return next((flag.partition("=")[2] for flag in self.settings if flag.startswith("--scheme=")), "")

    @property
    def tested_on(self) -> tuple[str, ...]:
        """The flags that name the test images."""
        return tuple(sorted(flag for flag in self.settings if flag.removeprefix("--").partition("=")[0] in TESTED_ON))

    @property
    def is_baseline(self) -> bool:
        """Whether the student was trained without distillation."""
        return not (self.teacher or self.methods or self.scheme)

    @property
    def metric(self) -> str:
        """The metric that the runs are compared by, such as "accuracy"."""
        return self.results[0].get("metric", "accuracy")

    @property
    def last_values(self) -> list[float]:
        """The metric of every seed after the last epoch, in percent."""
        return self._by_seed([100 * result["last"][f"val_{self.metric}"] for result in self.results])

    @property
    def best_values(self) -> list[float]:
        """The metric of every seed after its best epoch, in percent."""
        return self._by_seed([100 * result[f"best_val_{self.metric}"] for result in self.results])

    @property
    def teacher_values(self) -> list[float]:
        """The metric of the teacher of every run, if it was recorded, in percent."""
        name = f"teacher_{self.metric}"
        return [100 * result[name] for result in self.results if name in result]


def name_recipe(group: SeedGroup, groups: Sequence[SeedGroup]) -> str:
    """The name of a group's recipe, or its methods with the flags by which it differs from similar groups."""
    if group.name:
        return group.name
    name = BASELINE if group.is_baseline else " + ".join(group.methods) or group.scheme
    key = (group.teacher, group.student, group.methods, group.scheme)
    others = [peer for peer in groups if peer is not group]
    similar = [peer for peer in others if (peer.teacher, peer.student, peer.methods, peer.scheme) == key]
    different = [flag for flag in group.settings if any(flag not in peer.settings for peer in similar)]
    images = [flag for flag in group.tested_on if any(flag not in peer.settings for peer in others)]
    return " ".join([name, *dict.fromkeys([*different, *images])])


def summarize(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """A row of `COLUMNS` for each group, metrics in percent; values that cannot be computed are NaN.

    `gain` is the difference from the baseline, with its 95 % interval `low` to `high` (Welch's, for at least two seeds
    each), and `gap_closed` is the gain as a fraction of the difference between teacher and baseline. If there are
    several baselines on the same test images, the one that shares the most flags is used.

    >>> results = [{"last": {"val_accuracy": 0.5}, "best_val_accuracy": 0.6, "seconds": 9.0}]
    >>> summarize([SeedGroup("", "resnet8", ("--epochs=3",), ["runs/a"], results)])[0]["best"]
    60.0
    """
    rows = []
    for group in groups:
        row: dict[str, Any] = {"teacher": group.teacher or "-", "student": group.student}
        row |= {"recipe": name_recipe(group, groups), "metric": group.metric, "seeds": len(group.last_values)}
        row |= dict(zip(("last", "spread"), _mean_and_spread(group.last_values), strict=True))
        row |= dict(zip(("best", "best_spread"), _mean_and_spread(group.best_values), strict=True))
        row |= {"seconds": statistics.mean(result["seconds"] for result in group.results), "first_run": group.runs[0]}
        rows.append(row | _gain(group, groups))
    return rows


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if values[1:] else math.nan


def _gain(group: SeedGroup, groups: Sequence[SeedGroup]) -> dict[str, float]:
    """The gain of a group over its baseline."""
    gain = dict.fromkeys(("gain", "low", "high", "gap_closed"), math.nan)
    baselines = [
        peer
        for peer in groups
        if peer.is_baseline and (peer.student, peer.tested_on) == (group.student, group.tested_on)
    ]
    if group.is_baseline or not baselines:
        return gain
    baseline = max(baselines, key=lambda peer: len(set(peer.settings) & set(group.settings))).last_values
    values = group.last_values
    gain["gain"] = statistics.mean(values) - statistics.mean(baseline)
    if values[1:] and baseline[1:] and (statistics.stdev(values) or statistics.stdev(baseline)):
        interval = stats.ttest_ind(values, baseline, equal_var=False).confidence_interval(0.95)
        gain |= {"low": float(interval.low), "high": float(interval.high)}
    teacher = group.teacher_values
    gap = statistics.mean(teacher) - statistics.mean(baseline) if teacher else 0.0
    return gain | {"gap_closed": gain["gain"] / gap} if gap > SMALLEST_GAP else gain
