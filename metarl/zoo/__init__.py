"""Small meta-parameter files that this project trained; beside each, a JSON file with the command that made it and its scores."""

from importlib import resources


def names() -> list[str]:
    """What the files are called, "zoo:TASK/ALGORITHM"."""
    stems = sorted(f.name.removesuffix(".safetensors") for f in resources.files(__name__).iterdir() if f.name.endswith(".safetensors"))
    return ["zoo:" + "/".join(stem.rsplit("_", 1)) for stem in stems]
