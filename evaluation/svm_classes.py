"""SVMs of many classes: one file of results a class, made by all processes and all cores of each."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from data.ragged import map_array
from evaluation.linear_svm import SvmSettings, average_precision, choose_cost, sample_few
from utils.cores import available_cores
from utils.distributed import rank, world_size
from utils.errors import DataError, explains_killed_workers
from utils.files import read_json, write_json
from utils.progress import ProgressBar

# A stream of its own beside the others that are named by whole numbers.
_FEW = 6


@dataclass(frozen=True)
class FewShots:
    """Numbers of images that show a class, and how often each is drawn."""

    shots: tuple[int, ...]
    samples: int


@dataclass(frozen=True)
class SvmClasses:
    """The SVMs of C classes.

    Attributes:
        folder: holds train.npy and test.npy, rows of length one.
        results: folder of the results, which are taken as they are where they are there.
        names: of the classes.
        train_labels, test_labels: (N, C) int8: 1 an image shows the class, -1 not, 0 difficult to say.
        settings: how they are fitted.
        difficult: what difficult training images are: "negative" or "left_out".
        low_shot: None fits to all training images.
        processes: how many fit at a time; None takes this process' share of the cores.
    """

    folder: Path
    results: Path
    names: Sequence[str]
    train_labels: np.ndarray
    test_labels: np.ndarray
    settings: SvmSettings
    difficult: str
    low_shot: FewShots | None
    processes: int | None = None

    def check(self) -> None:
        """Say which class cannot be judged before hours go into the others.

        Raises:
            DataError: too few images show it, or do not.
        """
        for place, name in enumerate(self.names):
            if not (self.test_labels[:, place] == 1).any():
                raise DataError(f"{name}: no test image shows it, so that it has no average precision")
            if self.low_shot:
                self._sample(place, max(self.low_shot.shots), 0)
                continue
            labels = self._training_labels(place)
            for label, shows in ((1, "show it"), (-1, "do not")):
                count = int((labels == label).sum())
                if count < self.settings.folds:
                    raise DataError(
                        f"{name}: {count} training images {shows}, fewer than svm.folds: {self.settings.folds}"
                    )

    def run(self) -> None:
        """Make the results of this process' classes that are missing."""
        mine = range(rank(), len(self.names), world_size())
        todo = [place for place in mine if not self._path(place).exists()]
        done = len(mine) - len(todo)
        with ProgressBar(len(mine), initial=done, desc="classes") as bar:
            bar.update(done)
            for number, _ in enumerate(_in_processes(self, todo), start=done + 1):
                bar.update(number)

    def summary(self) -> tuple[dict[str, float], dict[str, Any]]:
        """What the table shows, and what it leaves out; when all processes have run."""
        results = [read_json(self._path(place)) for place in range(len(self.names))]
        return _summarise_few(self, results) if self.low_shot else _summarise_all(self, results)

    def __call__(self, place: int) -> None:
        """Make the results of one class."""
        train, test = (map_array(self.folder / f"{split}.npy") for split in ("train", "test"))
        fit = self._fit_few if self.low_shot else self._fit_all
        write_json(self._path(place), fit(place, train, test))

    def _path(self, place: int) -> Path:
        return self.results / f"{self.names[place]}.json"

    def _training_labels(self, place: int) -> np.ndarray:
        labels = self.train_labels[:, place].astype(np.int64)
        return np.where(labels == 0, -1, labels) if self.difficult == "negative" else labels

    def _sample(self, place: int, shots: int, sample: int) -> np.ndarray:
        seeds = (self.settings.seed, place, shots, sample, _FEW)
        return sample_few(
            self.train_labels[:, place], shots=shots, num_classes=len(self.names), seeds=seeds, name=self.names[place]
        )

    def _judge(self, classifier: Any, test: np.ndarray, place: int) -> float:
        known = self.test_labels[:, place] != 0
        scores = classifier.decision_function(test)
        return average_precision(scores[known], self.test_labels[known, place] == 1)

    def _fit_all(self, place: int, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        labels = self._training_labels(place)
        if (labels == 0).any():
            train, labels = train[labels != 0], labels[labels != 0]
        cost, precisions = choose_cost(train, labels, self.settings)
        classifier = self.settings.fit(cost, train, labels)
        return {"ap": self._judge(classifier, test, place), "cost": cost, "cross_validation": precisions}

    def _fit_few(self, place: int, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        """(samples, shots, costs) average precisions."""

        def judge(sample: int, shots: int, cost: float) -> float:
            drawn = self._sample(place, shots, sample)
            classifier = self.settings.fit(cost, train[drawn], self.train_labels[drawn, place].astype(np.int64))
            return self._judge(classifier, test, place)

        few, costs = self.low_shot, self.settings.costs
        return {
            "ap": [[[judge(sample, k, cost) for cost in costs] for k in few.shots] for sample in range(few.samples)]
        }


def _summarise_all(jobs: SvmClasses, results: list[dict]) -> tuple[dict[str, float], dict[str, Any]]:
    classes = {name: {"ap": one["ap"], "cost": one["cost"]} for name, one in zip(jobs.names, results)}
    return {"mAP": float(np.mean([one["ap"] for one in results]))}, {"classes": classes}


def _summarise_few(jobs: SvmClasses, results: list[dict]) -> tuple[dict[str, float], dict[str, Any]]:
    """Means over classes, then over samples; of each number of shots, the cost with the best mean.

    Source: test_svm_low_shot.py and aggregate_low_shot_svm_stats.py of fair_self_supervision_benchmark, where it is the test
        images that choose the cost, for want of others.
    """
    precisions = np.mean([one["ap"] for one in results], axis=0)
    means = precisions.mean(0)
    metrics, details = {}, {}
    for place, shots in enumerate(jobs.low_shot.shots):
        best = int(means[place].argmax())
        chosen = precisions[:, place, best]
        metrics[f"mAP, k={shots}"] = float(chosen.mean())
        details[str(shots)] = {
            "cost": jobs.settings.costs[best],
            "std": float(chosen.std()),
            "min": float(chosen.min()),
            "max": float(chosen.max()),
        }
    return metrics, {"shots": details}


def _in_processes(jobs: SvmClasses, places: Sequence[int]) -> Iterator[None]:
    """Call it for each place, in as many processes as it asks for."""
    workers = min(jobs.processes or available_cores(), len(places))
    if workers <= 1:
        yield from map(jobs, places)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(), initializer=_start_worker)
    message = (
        f"one of {workers} processes that fit SVMs was killed, perhaps for lack of memory: --resume auto goes on where this one "
        f"stopped, and --set svm.processes={max(1, workers // 2)} takes less"
    )
    try:
        with explains_killed_workers(message):
            yield from pool.map(jobs, places)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches all processes: the first one answers for all. So does a scheduler's warning, and it waits for none.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose first process was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
