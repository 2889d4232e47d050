"""What each method learns, by one protocol on the embedded scenes: `make results-cpu`, `make results-gpu`, or

    python -m benchmarks.results --size cpu [--only r2o byol] [--minutes 9] [--jobs 2]

Each run has a folder, runs/results/SIZE/NAME/seedN, and is done when its result.json is there. What is done is not done again,
what was stopped goes on: after --minutes, or Ctrl-C, the same command takes up where it was left (exit code 75: not all done).
What was made by other settings than the manifest has now is refused, not mixed. At the end docs/results.md is made anew of all
results; those of a manifest of one's own have no page.
"""

import argparse
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.results import page
from benchmarks.results.execution import Execution
from benchmarks.results.manifest import SIZES, Manifest, chosen_runs, read_manifest
from benchmarks.results.steps import RESULT, hold_basis, steps_of
from tools.make_demo_data import DemoData, make_demo_data
from tools.make_eval_data import make_eval_data
from utils.cli import positive, shows_errors
from utils.errors import PREEMPTED, UserError

RUNS = Path("runs/results")
DATA = Path("demo_data")


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", required=True, help="cpu, gpu, or a manifest's file")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these runs of the manifest, benchmarks/results/SIZE.yaml"
    )
    parser.add_argument("--minutes", type=float, help="stop after so many; the same command goes on")
    parser.add_argument("--jobs", type=positive, help="runs at a time, by default the manifest's")
    parser.add_argument("--no_page", action="store_true", help="leave docs/results.md as it is")
    arguments = parser.parse_args(argv)
    manifest = read_manifest(arguments.size)
    runs = chosen_runs(manifest, arguments.only)
    jobs = arguments.jobs or manifest.at_once
    execution = Execution(threads=manifest.threads, jobs=jobs, minutes=arguments.minutes)
    prepare_data(manifest, execution)
    failed = run_all(arguments.size, manifest, runs, execution, jobs=jobs)
    done = sum((run_dir(arguments.size, *run) / RESULT).is_file() for run in runs)
    print(f"{done} of {len(runs)} runs are done.", flush=True)
    if failed:
        print("Failed: " + ", ".join(failed), file=sys.stderr)
    elif done < len(runs):
        print("Not all is done: the same command goes on.")
        return PREEMPTED
    if arguments.size in SIZES and not arguments.no_page and done:
        page.main(["--size", arguments.size])
    return 1 if failed else 0


def run_dir(size: str, name: str, seed: int) -> Path:
    return RUNS / Path(size).stem / name / f"seed{seed}"


def prepare_data(manifest: Manifest, execution: Execution) -> None:
    """Scenes, layouts and masks that several runs share, before any two of them could make the same."""
    make_demo_data(DATA, DemoData(**manifest.scenes.model_dump()))
    make_eval_data(DATA, DATA / "layouts")
    for mask_type in manifest.mask_types:
        arguments = ("-m", "tools.make_masks", "--dataset_dir", str(DATA), "--split", "train", "--mask_type", mask_type)
        if mask_type == "coco":
            arguments += ("--annotations", str(DATA / "annotations" / "instances_{split}.json"))
        execution.run(arguments, log=RUNS / "masks.txt", is_parallel=False)


def run_all(
    size: str, manifest: Manifest, runs: list[tuple[str, int]], execution: Execution, *, jobs: int
) -> list[str]:
    """Do what is not done of all runs, some at a time; what is to be said of those that failed."""
    failed: list[str] = []
    say = threading.Lock()

    def do(run: tuple[str, int]) -> None:
        folder = run_dir(size, *run)
        try:
            hold_basis(manifest, *run, folder)
        except UserError as error:
            failed.append(str(error))
            return
        for step in steps_of(size, manifest, *run, folder):
            if step.leaves.is_file():
                continue
            if execution.stopped:
                return
            code, seconds = execution.run(step.arguments, log=folder / f"{step.name}.txt", folder=folder)
            with say:
                outcome = {0: "done", PREEMPTED: "to be gone on with"}.get(code, f"exit code {code}")
                print(f"{run[0]} seed {run[1]}: {step.name} {outcome}, {seconds:.0f} s", flush=True)
            if execution.stopped:
                return
            if code or not step.leaves.is_file():
                failed.append(f"{run[0]} seed {run[1]}, see {folder / f'{step.name}.txt'}")
                return

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(do, runs))
    return failed


if __name__ == "__main__":
    sys.exit(main())
