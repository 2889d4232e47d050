"""What two processes compute for test_distributed.py and test_sync_batch_norm.py; started by `run_two_ranks`."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils import distributed, launch, shared
from utils.sync_batch_norm import convert_sync_batchnorm

ROOT = Path(__file__).parents[2]
# Unequal on purpose; the third case leaves a rank without samples.
SPLITS = {"fc": (5, 2), "conv": (1, 3), "empty": (4, 0), "cumulative": (2, 2), "plain": (3, 1), "half": (2, 3)}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_rank_environments() -> list[dict[str, str]]:
    """The variables of two gloo processes on this machine."""
    shared = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def run_two_ranks(script: str, folder: Path, *arguments: str) -> list[Any]:
    """Run `script FOLDER ARGUMENTS` as two gloo processes on this machine; what each saved as FOLDER/RANK.pth."""
    command = [sys.executable, script, str(folder), *arguments]
    ranks = [subprocess.Popen(command, env=environment) for environment in two_rank_environments()]
    try:
        codes = [process.wait(timeout=100) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert codes == [0, 0]
    return [torch.load(folder / f"{r}.pth", weights_only=True) for r in range(2)]


def make_case(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A BatchNorm with perturbed parameters, the whole batch, and the weights of its loss, in float64 unless `half`."""
    generator = torch.Generator().manual_seed(len(name))
    size = (sum(SPLITS[name]), 3) if name == "fc" else (sum(SPLITS[name]), 3, 4, 2)
    x = 100 + 3 * torch.randn(size, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(size, generator=generator, dtype=torch.float64)
    options = {"momentum": None} if name == "cumulative" else {"affine": False} if name == "plain" else {}
    norm = (nn.BatchNorm1d if name == "fc" else nn.BatchNorm2d)(3, **options).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(3, generator=generator, dtype=torch.float64))
    if name == "half":
        return norm.float(), x.bfloat16(), coefficients.bfloat16()
    return norm, x, coefficients


def run_case(norm: nn.Module, x: torch.Tensor, coefficients: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training passes and one in eval mode; everything that must agree between one process and two."""
    x = x.clone().requires_grad_()
    output = norm(x)
    (output * coefficients).sum().backward()
    norm(x.detach() * 2)
    gradients = {f"grad_{name}": parameter.grad for name, parameter in norm.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    return {"output": output.detach(), "grad_x": x.grad, "eval": norm.eval()(x).detach()} | gradients | buffers


def main(folder: Path) -> None:
    device = launch.launch(None)
    rank = distributed.rank()
    results: dict[str, Any] = {"device": str(device), "who": (rank, distributed.world_size(), distributed.is_main())}
    mine = torch.tensor([1.0, 5.0]) if rank == 0 else torch.tensor([2.0, -5.0])
    results["sum"], results["max"] = distributed.all_reduce_sum(mine), distributed.all_reduce_max(mine)
    results["mine"] = mine
    results["broadcast"] = distributed.broadcast_object({"from": rank})
    results["gathered"] = distributed.gather_objects({"from": rank})
    array = shared.share_from_main(lambda: {"a": np.arange(1000) + rank, "b": [np.ones((3, 2), np.uint8)], "c": "text"})
    results["shared"] = {"a": torch.tensor(array["a"]), "b": torch.tensor(array["b"][0]), "c": array["c"]}
    results["may_write"] = array["a"].flags.writeable
    there, shared._MEMORY = shared._MEMORY, Path("/nowhere/at/all")
    alone = shared.share_from_main(lambda: {"a": np.arange(1000) + rank, "b": [], "c": "text"})
    results["without_shared_memory"], shared._MEMORY = torch.tensor(alone["a"]), there
    rows = torch.full((2, 3), float(rank + 1), requires_grad=True)
    everyone = distributed.all_gather_with_grad(rows)
    (everyone * torch.arange(12.0).view(4, 3) * (rank + 1)).sum().backward()
    results["rows"], results["rows_grad"] = everyone.detach(), rows.grad
    with distributed.main_first():
        results["seen_by_second"] = (folder / "made_by_first").exists()
        if distributed.is_main():
            (folder / "made_by_first").touch()
    for name, (first, second) in SPLITS.items():
        norm, x, coefficients = make_case(name)
        part = slice(0, first) if rank == 0 else slice(first, first + second)
        results[name] = run_case(convert_sync_batchnorm(norm, device), x[part], coefficients[part])
    try:
        convert_sync_batchnorm(nn.BatchNorm1d(3), device)(torch.zeros(1 - rank, 3))
    except ValueError as error:
        results["one_sample"] = str(error)
    torch.save(results, folder / f"{rank}.pth")
    distributed.barrier()
    launch.shutdown()
    assert distributed.world_size() == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
