"""Train R2O in float64 by FOLDER/own.yaml, as one process or as one of several, and keep the parameters as FOLDER/RANK.pth."""

import sys
from pathlib import Path

import torch

import r2o_main
from engine.loop import train_epochs
from engine.place import find_run
from engine.run import Run
from utils.config import load_config
from utils.distributed import launch, rank, shutdown


def main(folder: Path, out: str) -> dict[str, torch.Tensor]:
    device = launch(None)
    config, _ = load_config(folder / "own.yaml", r2o_main.R2OConfig)
    parts = r2o_main.build(config, device, max_steps=5)
    parts.method.double()
    place = find_run("r2o", config, out=str(folder / out), resume=None)
    run = Run(place, config, steps_per_epoch=parts.plan.steps_per_epoch)
    for _ in train_epochs(
        parts.method,
        parts.loader,
        parts.optimizer,
        plan=parts.plan,
        run=run,
        precision=parts.precision,
        prepare=prepare,
        learning_rate=parts.learning_rate,
        schedules=parts.schedules,
    ):
        pass
    run.log.close()
    state = {name: value for name, value in parts.method.state_dict().items() if "num_batches" not in name}
    torch.save(state, folder / f"{rank()}.pth")
    shutdown()
    return state


def prepare(batch: dict) -> dict:
    batch = r2o_main.prepare(batch)
    return batch | {key: batch[key].double() for key in ("images", "spanning", "boxes")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), "two")
