"""Keep a training: its meta-parameters in the zoo (further seeds in benchmarks/seeds), and how it went in benchmarks/curves.

python benchmarks/keep.py runs/rl2_arm_slide_0
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

from metarl import meta_parameters

ROOT = Path(__file__).parents[1]
ZOO, SEEDS, CURVES = ROOT / "metarl" / "zoo", ROOT / "benchmarks" / "seeds", ROOT / "benchmarks" / "curves"
POINTS = 60  # of a curve
LARGEST = 2_000_000  # bytes of a file that is kept


def place(task: str, algorithm: str, seed: int) -> Path:
    """Seed 0 is the zoo's."""
    return ZOO / f"{task}_{algorithm}.safetensors" if seed == 0 else SEEDS / f"{task}_{algorithm}_seed{seed}.safetensors"


def thinned(rows: list[dict[str, str]]) -> list[dict[str, float]]:
    """At most POINTS means over as many iterations each: environment steps, seconds, and the return of each episode."""
    kept = [name for name in rows[0] if name in ("env_steps", "seconds") or name.startswith("return_episode_")]
    size = -(-len(rows) // POINTS)
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    ends = ("env_steps", "seconds")  # these are counted up to the end of a part
    return [{n: round(float(part[-1][n]) if n in ends else sum(float(r[n]) for r in part) / len(part), 4) for n in kept} for part in parts]


def main() -> None:
    """Copy what each folder holds."""
    for folder in map(Path, sys.argv[1:]):
        source = folder / "meta_parameters.safetensors"
        about = meta_parameters.describe(source)
        task = meta_parameters.load(source).spec.task
        if source.stat().st_size > LARGEST:
            raise ValueError(f"{source} has {source.stat().st_size} bytes, expected at most {LARGEST}")
        target = place(task, about["algorithm"], int(about["seed"]))
        shutil.copyfile(source, target)
        with (folder / "progress.csv").open() as file:
            points = thinned(list(csv.DictReader(file)))
        CURVES.mkdir(exist_ok=True)
        with (CURVES / f"{target.stem}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(points[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(points)
        print(f"{target}: {points[-1]['env_steps']:.0f} decisions in {points[-1]['seconds'] / 60:.1f} min")


if __name__ == "__main__":
    main()
