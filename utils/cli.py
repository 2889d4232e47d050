"""The command line that every main shares."""

import argparse
import functools
import logging
import os
import signal
from collections.abc import Callable

import torch

from utils.agreement import check_agreement
from utils.config import Schema, dump_config, find_config, load_config
from utils.distributed import lost_contact
from utils.errors import Preempted, UserError, explains_storage
from utils.launch import add_launch_arguments, launch, shutdown
from utils.log import setup_logging

_log = logging.getLogger(__name__)


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of every main."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg", required=True, metavar="NAME_OR_PATH", help="a config in configs/METHOD/, or a YAML file"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="KEY=VALUE",
        dest="overrides",
        help="override keys, such as optimizer.base_lr=0.2 data.train_batch_size=64",
    )
    parser.add_argument("--resume", metavar="auto|PATH", help="continue a run: `auto`, its folder, or a checkpoint")
    parser.add_argument("--max_steps", type=positive, help="stop after this many steps in all, with a checkpoint")
    parser.add_argument("--out", metavar="DIR", help="the run's folder; by default runs/METHOD/TIME")
    parser.add_argument(
        "--deterministic", action="store_true", help="repeatable kernels on a GPU; warns of operations that have none"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    add_launch_arguments(parser)
    return parser


def run_main(
    method: str,
    schema: type[Schema],
    train: Callable[[Schema, argparse.Namespace, torch.device], None],
    *,
    description: str,
    argv: list[str] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Parse, load the config, join the process group, train.

    Args:
        add_arguments: adds the main's own to the command line.
    Returns:
        The exit code: 0 done, 2 wrong use or config, 3 bad data, 4 diverged, 5 lost another process, 6 cannot write,
        75 preempted, 130 interrupted.
    """
    parser = make_parser(description)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    setup_logging(None)
    try:
        config, warnings = _load(method, schema, arguments)
        if arguments.print_config:
            print(dump_config(config), end="")
            return 0
        device = launch(arguments.local_rank, several=config.distributed, minutes=config.timeout_minutes)
        setup_logging(None)
        check_agreement(config)
        for warning in warnings:
            _log.info("%s", warning)
        _choose_kernels(arguments.deterministic)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        with explains_storage():
            train(config, arguments, device)
        # After an error the others may be waiting in the middle of something: the launcher ends them, not this.
        shutdown()
    except (UserError, Preempted) as error:
        _log.error("%s", error)
        return error.exit_code
    except RuntimeError as error:
        lost = lost_contact(error)
        if lost is None:
            raise
        _log.error("%s", lost)
        return lost.exit_code
    except KeyboardInterrupt:
        _log.error("interrupted; --resume auto goes on from the last checkpoint")
        return 128 + signal.SIGINT
    return 0


def shows_errors(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """A tool's `main(argv)` whose UserErrors end it with their message and exit code instead of a traceback."""

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        setup_logging(None)
        try:
            with explains_storage():
                return main(argv)
        except UserError as error:
            _log.error("%s", error)
            return error.exit_code

    return guarded


def positive(text: str) -> int:
    """A whole number of at least 1, as a command line gives it."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _load(method: str, schema: type[Schema], arguments: argparse.Namespace) -> tuple[Schema, list[str]]:
    try:
        return load_config(find_config(arguments.cfg, method=method), schema, overrides=arguments.overrides)
    except UserError:
        # The processes of a launch do not know each other yet, and all are about to say the same.
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
            _log.disabled = True
        raise


def _choose_kernels(deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
