"""Fine-tune and judge an FCN with MMSegmentation on a converted backbone; see README.md beside this file.

MMSegmentation imports all of mmcv's compiled operations, of which FCN calls none. Where mmcv was installed without them
(mmcv-lite), they are replaced by functions that refuse to be called, so that a current torch, for which they do not compile,
will do.
"""

import argparse
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

_NEEDED = ("mmengine", "mmcv", "mmseg")


def check_environment() -> None:
    """Raises ModuleNotFoundError, saying where it stands how to make it, in an environment without MMSegmentation."""
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ModuleNotFoundError(
            f"not installed: {', '.join(absent)}. MMSegmentation runs in an environment of its own: make it as "
            f"{Path(__file__).with_name('README.md')} says under Environment, and use its Python"
        )


def replace_compiled_operations() -> bool:
    """Make `mmcv.ops` importable where mmcv has no compiled extension.

    Returns:
        Whether it was missing until now.
    Raises:
        ModuleNotFoundError: as `check_environment`.
    """
    check_environment()
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext"):
        return False
    extension = types.ModuleType("mmcv._ext")
    # Without a loader, by which mmengine knows that there are no compiled operations.
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    extension.__getattr__ = refusing
    sys.modules["mmcv._ext"] = extension
    return True


def refusing(name: str) -> Callable:
    """What stands for the compiled operation `name`: a function that raises RuntimeError."""
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*args, **kwargs):
        raise RuntimeError(
            f"mmcv.ops: {name} is compiled code, and this mmcv has none: install mmcv in place of mmcv-lite"
        )

    return refuse


def allow_checkpoints() -> None:
    """Let torch read mmengine's checkpoints without executing what they may hold.

    Beside tensors they hold the log's history: NumPy arrays in an object of mmengine's whose methods are looked up by name.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    def method_of_history(owner: type, name: str):
        if owner is not HistoryBuffer or name.startswith("_"):
            raise ValueError(f"checkpoint: asks for {owner}.{name}; mmengine writes no such thing")
        return getattr(owner, name)

    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)]
    # NumPy 2 moved them; files of either may be read by either.
    arrays = np.array([]).__reduce__()[0]
    number = np.float64(0).__reduce__()[0]
    named = [(arrays, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    named += [(number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    named.append((method_of_history, "builtins.getattr"))
    torch.serialization.add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, *kinds, *named])


def load_config(
    path: str | Path, *, weights: str = "", data: str = "", out: str | None = None, options: dict | None = None
):
    """Read a config of this folder, or any of MMSegmentation's.

    Args:
        weights: what `evaluation.convert --to mmseg` wrote; else the environment's WEIGHTS.
        data: the dataset's folder; else the environment's DATA, else the config's own.
        out: the run's folder; by default work_dirs/NAME_OF_THE_CONFIG.
        options: dotted keys and values that go before the config's.
    """
    from mmengine.config import Config

    for name, value in (("WEIGHTS", weights), ("DATA", data)):
        if value:
            os.environ[name] = str(value)
    config = Config.fromfile(path)
    config.merge_from_dict(options or {})
    config.work_dir = out or f"work_dirs/{Path(path).stem}"
    return config


def main() -> None:
    try:
        check_environment()
    except ModuleNotFoundError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
    from mmengine.config import DictAction
    from mmengine.runner import Runner

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument(
        "--weights", help="what `evaluation.convert --to mmseg` wrote, or none for an untrained backbone"
    )
    parser.add_argument("--data", default="", help="the dataset's folder")
    parser.add_argument("--out", help="the run's folder")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run's folder")
    parser.add_argument("--test", metavar="CHECKPOINT", help="judge this checkpoint of a run and train nothing")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE of the config")
    parser.add_argument("--local-rank", "--local_rank", default="0", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.weights or arguments.test):
        parser.error("give --weights, or --test")
    os.environ.setdefault("LOCAL_RANK", arguments.local_rank)
    replace_compiled_operations()
    allow_checkpoints()
    config = load_config(
        arguments.config,
        weights=arguments.weights or "none",
        data=arguments.data,
        out=arguments.out,
        options=arguments.cfg_options,
    )
    config.launcher, config.resume = arguments.launcher, arguments.resume
    if arguments.weights in (None, "none"):
        config.model.backbone.init_cfg = None
    if arguments.test:
        config.load_from = arguments.test
    runner = Runner.from_cfg(config)
    runner.test() if arguments.test else runner.train()


if __name__ == "__main__":
    main()
