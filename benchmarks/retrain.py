"""Train the files of the zoo again, by the commands that they hold, and keep them: hours for all, on one core.

python benchmarks/retrain.py                      # all
python benchmarks/retrain.py zoo:arm_slide/rl2    # one

A training that was continued with other settings is done in one go, with the last ones. `python benchmarks/results.py` measures what came of it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from metarl import meta_parameters

ROOT = Path(__file__).parents[1]


def arguments(entry: str, out: Path) -> list[str]:
    """What stands behind `metarl` to train an entry of the zoo again, from the beginning, in a folder of its own."""
    command = str(meta_parameters.describe(meta_parameters.resolve(entry))["command"])
    words = [word for word in shlex.split(command.split(" && ")[-1])[1:] if word != "--resume"]
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    return [*words, "--out", str(out)]


def main() -> None:
    """One after another."""
    for entry in sys.argv[1:] or meta_parameters.zoo():
        out = ROOT / "runs" / "again" / entry.removeprefix("zoo:").replace("/", "_")
        subprocess.run([sys.executable, "-m", "metarl.cli", *arguments(entry, out)], cwd=ROOT, check=True)
        subprocess.run([sys.executable, ROOT / "benchmarks" / "keep.py", out], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
