"""The console command `metarl`: what was typed becomes a command, and its errors one message."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from metarl.commands import Benchmark, Command, Demo, Describe, Evaluate, List, Train, View

# What a user can cause; anything else is a bug and deserves its traceback
EXPECTED_ERRORS = (ValueError, OSError, ImportError, RuntimeError, ArithmeticError, NotImplementedError)
LEAST = {"num_tasks": 1, "num_robots": 1, "episodes": 1, "seed": 0, "threads": 0, "checkpoint_every": 1}  # of options that are numbers


def algorithm_and_task(args: Sequence[str]) -> Sequence[str]:
    """Their names, where arguments of all commands say to train and begin with both; else nothing."""
    names = [a for a in args[1:3] if not a.startswith("-")]
    return names if args[:1] == ["train"] and len(names) == 2 else ()


def train_with_config(names: Sequence[str]) -> type[Train]:
    """`Train` with the settings of the algorithm in `names`, so that they can be given and are shown by --help."""
    if not names:
        return Train
    from metarl import tasks
    from metarl.presets import config_for

    config = config_for(*names)
    tasks.make(names[1])
    described: Any = Annotated[type(config), arg(help=f"Settings of {names[0]}; defaults are those that suit {names[1]}.")]  # type: ignore[valid-type]
    made = make_dataclass("Train", [("config", described, field(default=config))], bases=(Train,), frozen=True, kw_only=True)
    made.__doc__ = Train.__doc__
    return made


def parse(args: Sequence[str]) -> Command:
    """The command that the arguments stand for."""
    trained = algorithm_and_task(args)
    kinds: dict[str, Callable[..., Any]] = {
        "list": List,
        "describe": Describe,
        "train": train_with_config(trained),
        "evaluate": Evaluate,
        "view": View,
        "demo": Demo,
        "benchmark": Benchmark,
    }
    about = "Robots that adapt in seconds. Begin with `metarl demo`, then `metarl list` and `metarl train rl2 point_navigation`."
    config = (tyro.conf.FlagCreatePairsOff,)
    if args and args[0] in kinds:  # as a program of its own: of a subcommand's options tyro speaks as [TRAIN OPTIONS]
        usage = {"-h", "--help"} & set(args)  # which shows ALGORITHM TASK itself; an error must point to the help that has the settings
        prog = " ".join(["metarl", args[0], *(() if usage else trained)])
        command: Command = tyro.cli(kinds[args[0]], prog=prog, args=list(args[1:]), config=config)
        return command
    command = tyro.extras.subcommand_cli_from_dict(kinds, prog="metarl", description=about, args=list(args), config=config)
    return command


def check_numbers(command: Command) -> None:
    """Refuse numbers that no command could do anything with, by the name of their option."""
    for name, least in LEAST.items():
        value = getattr(command, name, None)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: errors are one message and exit code 2, Ctrl-C is exit code 130."""
    args = sys.argv[1:] if args is None else args
    try:
        command = parse(args)
        check_numbers(command)
        command.run(shlex.join(["metarl", *args]))
    except KeyboardInterrupt as stopped:
        print(f"metarl: {str(stopped) or 'stopped before anything was done'}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except EXPECTED_ERRORS as error:
        if "--debug" in args:
            raise
        print(f"metarl: {error}", file=sys.stderr)
        if not _said_by_us(error):
            print("(--debug shows where this came from)", file=sys.stderr)
        sys.exit(2)


def _said_by_us(error: BaseException) -> bool:
    """Whether metarl raised it, and not something that metarl called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return Path(frames[-1].f_code.co_filename).is_relative_to(Path(__file__).parent)


if __name__ == "__main__":
    main()
