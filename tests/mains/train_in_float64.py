"""Train METHOD in float64 by FOLDER/own.yaml, as one process or as one of several; parameters end up in FOLDER/RANK.pth."""

import importlib
import sys
from pathlib import Path

import torch

from engine.place import find_run
from tools.config_table import schema_of
from utils.config import load_config
from utils.distributed import launch, rank, shutdown
from wiring import start_run


def main(folder: Path, method: str, out: str) -> dict[str, torch.Tensor]:
    device = launch(None)
    program = importlib.import_module(f"{method}_main")
    config, _ = load_config(folder / "own.yaml", schema_of(method))
    parts = program.build(config, device, max_steps=5)
    parts.method.double()
    place = find_run(method, config, out=str(folder / out), resume=None)
    run = start_run(place, config, parts, device)

    def prepare(batch: dict) -> dict:
        batch = program.prepare(batch)
        in_double = {key: batch[key].double() for key in ("images", "spanning", "boxes") if key in batch}
        return batch | in_double

    for _ in parts.epochs(run, prepare):
        pass
    run.log.close()
    state = {name: value for name, value in parts.method.state_dict().items() if "num_batches" not in name}
    torch.save(state, folder / f"{rank()}.pth")
    shutdown()
    return state


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], "two")
