"""Train METHOD in float64 by each FOLDER/NAME.yaml, as one process or several; parameters by name end up in FOLDER/RANK.pth.

A run that is there goes on. A NAME that begins with `frozen_norm` is trained with BatchNorm in eval mode, so that no image knows
of the others by it.
"""

import argparse
import importlib
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from engine.place import find_run
from tools.config_table import schema_of
from utils.config import load_config
from utils.distributed import rank
from utils.launch import launch, shutdown
from wiring import start_run

STEPS = 5


def main(folder: Path, method: str, *names: str, out: str, steps: int = STEPS) -> dict[str, dict[str, torch.Tensor]]:
    device = launch(None)
    states = {name: train(folder, method, name, f"{out}_{name}", device, steps=steps) for name in names}
    torch.save(states, folder / f"{rank()}.pth")
    shutdown()
    return states


def train(
    folder: Path, method: str, name: str, out: str, device: torch.device, *, steps: int
) -> dict[str, torch.Tensor]:
    program = importlib.import_module(f"{method}_main")
    config, _ = load_config(folder / f"{name}.yaml", schema_of(method))
    # ORL's third stage trains on what its second one found.
    options = {"found": folder / "stage2"} if (folder / "stage2").exists() else {}
    makes_masks = hasattr(program, "make_generation")
    if makes_masks:
        options["run_folder"] = folder / out
    parts = program.build(config, device, max_steps=steps, **options)
    parts.method.double()
    if name.startswith("frozen_norm"):
        norms = [module for module in parts.method.modules() if isinstance(module, _BatchNorm)]
        assert norms
        for norm in norms:
            norm.eval()
    run = start_run(find_run(method, config, out=str(folder / out), resume="auto"), config, parts, device)

    def prepare(batch: dict) -> dict:
        batch = program.prepare(batch)
        return batch | {key: batch[key].double() for key in ("images", "patches", "spanning", "boxes") if key in batch}

    for epoch in parts.epochs(run, prepare):
        if makes_masks:
            program.make_generation(config, parts, run, epoch, device)
    run.log.close()
    return {name: value for name, value in parts.method.state_dict().items() if "num_batches" not in name}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", help="METHOD NAME ...")
    parser.add_argument("--out", default="two")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    main(arguments.folder, *arguments.names, out=arguments.out, steps=arguments.steps)
