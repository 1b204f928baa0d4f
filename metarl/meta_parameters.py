"""The one file that a meta-training leaves: a .safetensors of tensors, with everything that says what they fit in its metadata.

Nothing here ever opens a pickle. A file carries the digest of its contents, and one that was damaged is
refused. Files are written beside their place and moved there when complete, so that a crash leaves the old one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import metarl
from metarl import algos, tasks
from metarl.algorithm import MetaRLAlgorithm
from metarl.experience import Experience
from metarl.robots.spec import NAMED
from metarl.tasks.task import EnvSpec
from metarl.zoo import names as zoo_names

FORMAT = 1
KEY = "metarl"
STATE_KEY = "metarl-state"
EXPERIENCE_KEY = "metarl-experience"
DIGEST_KEY = "metarl-sha256"
_EXPERIENCE = "experience"  # how the names of its tensors begin


@dataclass(frozen=True)
class Metadata:
    """What a meta-parameters file says of itself.

    Attributes:
        format: version of this layout.
        algorithm: its name in `metarl.algos`.
        config: the algorithm's whole configuration.
        spec: what the meta-parameters fit.
        seed: of the training.
        commit: of the code that trained, or "unknown".
        env_steps: decisions that were taken in training.
        command: that trained it.
        version: of metarl.
    """

    format: int
    algorithm: str
    config: dict[str, Any]
    spec: EnvSpec
    seed: int
    commit: str
    env_steps: int
    command: str
    version: str


# ---- meta-parameters --------------------------------------------------------------------------------------------------------


def save(path: str | Path, algorithm: MetaRLAlgorithm, name: str, env_steps: int, command: str = "", commit: str = "") -> None:
    """Write all that crosses to the robot.

    Args:
        path: where to, ending in .safetensors.
        algorithm: whose meta-parameters.
        name: the algorithm's name in `metarl.algos`.
        env_steps: decisions that were taken in training.
        command: that trained it.
        commit: of the code that trained it; by default the present one.

    Raises:
        ValueError: a meta-parameter is not finite.
        OSError: the folder cannot be written.
    """
    tensors = algorithm.meta_parameters()
    _check_finite(tensors, "the meta-parameters to be saved")
    about = Metadata(FORMAT, name, asdict(algorithm.config), algorithm.spec, algorithm.seed, commit or git_commit(), env_steps, command, metarl.__version__)
    text = json.dumps({**asdict(about), "spec": about.spec.to_dict()}, sort_keys=True)
    write_atomically(Path(path), _to_bytes(tensors, {KEY: text}))


def load(path: str | Path, device: str = "cpu") -> MetaRLAlgorithm:
    """The algorithm with the meta-parameters of a file, ready for `adapter`.

    Args:
        path: a file, or "zoo:TASK/ALGORITHM" for one that comes with metarl.
        device: where its networks go.

    Raises:
        FileNotFoundError: there is no such file; the message lists near entries of the zoo.
        ValueError: the file is damaged, foreign, or fits another algorithm, robot or task; the message says what differs, by name.
    """
    about, tensors = read(path)
    task = tasks.make(about.spec.task)
    if different := about.spec.differences(task.spec):
        raise ValueError(f"{path} does not fit the task {task.name!r}:\n  " + "\n  ".join(different))
    family = algos.load(about.algorithm)
    algorithm = family(task.spec, task.params, _config(family.Config, about.config, path), about.seed)
    _check_tensors(tensors, algorithm.meta_parameters(), path)
    algorithm.load_meta_parameters(tensors)
    algorithm.experience = read_experience(path)
    return algorithm.to(device)


def read(path: str | Path) -> tuple[Metadata, dict[str, Tensor]]:
    """Metadata and tensors of a file as they are; whether they fit this code is `load`'s question.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    path = resolve(path)
    entries, tensors = _read_safetensors(path)
    if KEY not in entries:
        raise ValueError(f"{path} is a safetensors file, but not of metarl meta-parameters: its metadata has no entry {KEY!r}")
    data = json.loads(entries[KEY])
    if data.get("format") != FORMAT:
        raise ValueError(f"{path} has format {data.get('format')!r}, this metarl ({metarl.__version__}) reads format {FORMAT}")
    missing = {f.name for f in fields(Metadata)} - set(data)
    if missing:
        raise ValueError(f"{path}: the metadata lacks {', '.join(sorted(missing))}")
    known = {f.name: data[f.name] for f in fields(Metadata)}
    own = {name: t for name, t in tensors.items() if not name.startswith(f"{_EXPERIENCE}/")}
    return Metadata(**{**known, "spec": EnvSpec.from_dict(data["spec"])}), own


def save_experience(path: str | Path, source: str | Path, experience: Experience) -> None:
    """Write a copy of the meta-parameters file `source` with what one learner has understood beside them.

    It can be used wherever a meta-parameters file can; adapters then begin with the experience.

    Raises:
        FileNotFoundError, ValueError: as `load`, of `source`.
        OSError: the folder cannot be written.
    """
    _, tensors = read(source)
    about = _read_safetensors(resolve(source))[0][KEY]
    more: dict[str, Tensor] = {}
    structure = _flatten(experience._asdict(), _EXPERIENCE, more)
    write_atomically(Path(path), _to_bytes({**tensors, **more}, {KEY: about, EXPERIENCE_KEY: json.dumps(structure)}))


def read_experience(path: str | Path) -> Experience | None:
    """What `save_experience` put into a file; None where there is nothing.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    entries, tensors = _read_safetensors(resolve(path))
    if EXPERIENCE_KEY not in entries:
        return None
    found = {name: t for name, t in tensors.items() if name.startswith(f"{_EXPERIENCE}/")}
    _check_finite({name: t for name, t in found.items() if t.is_floating_point()}, str(path))
    return Experience(**_unflatten(json.loads(entries[EXPERIENCE_KEY]), found))


zoo = zoo_names
"""Names of the files that come with metarl, "zoo:TASK/ALGORITHM"."""


def resolve(path: str | Path) -> Path:
    """The file that a path or a zoo name stands for.

    Raises:
        FileNotFoundError: there is none; the message lists near entries of the zoo.
    """
    name = str(path)
    zoo_file = Path(str(resources.files("metarl.zoo"))) / (name.removeprefix("zoo:").replace("/", "_") + ".safetensors")
    found = zoo_file if name.startswith("zoo:") else Path(path)
    if found.is_file():
        return found
    if found.is_dir():
        inside = sorted(str(file) for file in found.glob("*.safetensors"))
        holds = f"it holds {', '.join(inside[:3])}{' and more' if len(inside) > 3 else ''}" if inside else "it holds none"
        raise FileNotFoundError(f"{name!r} is a folder, expected a meta-parameters file (NAME.safetensors): {holds}")
    known, folder = zoo(), name.split("/")[0] + "/"
    if of_task := [entry for entry in known if entry.startswith(folder)]:
        raise FileNotFoundError(f"there is no meta-parameters file {name!r}; of {folder[4:-1]} there are {', '.join(of_task)}")
    near = difflib.get_close_matches(name, known, n=NAMED, cutoff=0.4) or known[:NAMED]
    more = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
    hint = f"; in the zoo there are {', '.join(near)}{more}" if near else "; the zoo is empty"
    raise FileNotFoundError(f"there is no meta-parameters file {name!r}{hint}")


def describe(path: str | Path) -> dict[str, Any]:
    """What a file says of itself, as plain values; the number and the size of its tensors included."""
    about, tensors = read(path)
    count = sum(t.numel() for t in tensors.values())
    said = {"file": str(path), **asdict(about), "spec": about.spec.to_dict(), "tensors": len(tensors), "numbers": count}
    experience = read_experience(path)
    return said if experience is None else {**said, "experience": f"of event {experience.sequence} of trial {experience.epoch}"}


# ---- training state ---------------------------------------------------------------------------------------------------------


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a nested dict of tensors, numbers, strings, None, lists and tuples; `load_state` gives it back exactly."""
    tensors: dict[str, Tensor] = {}
    structure = _flatten(dict(state), "", tensors)
    write_atomically(Path(path), _to_bytes(tensors, {STATE_KEY: json.dumps(structure)}))


def load_state(path: str | Path) -> dict[str, Any]:
    """What `save_state` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or foreign.
    """
    entries, tensors = _read_safetensors(Path(path))
    if STATE_KEY not in entries:
        raise ValueError(f"{path} is a safetensors file, but not a training state of metarl")
    state: dict[str, Any] = _unflatten(json.loads(entries[STATE_KEY]), tensors)
    return state


def _flatten(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON that stands for `node`: containers are tagged, because JSON knows neither tuples nor keys that are numbers."""
    if isinstance(node, Tensor):
        tensors[path] = node
        return {"tensor": path}
    if isinstance(node, Mapping):
        return {"dict": [[key, _flatten(value, f"{path}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [_flatten(value, f"{path}/{i}", tensors) for i, value in enumerate(node)]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"a training state cannot hold {path}, which is a {type(node).__name__}")


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(value, tensors) for key, value in content}
    values = [_unflatten(value, tensors) for value in content]
    return values if kind == "list" else tuple(values)


# ---- files ------------------------------------------------------------------------------------------------------------------


def check_writable(path: str | Path) -> None:
    """Make the folder of `path` and see that a file can be written there; call it before anything long begins.

    Raises:
        OSError: it cannot; the message says why.
    """
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to the folder {folder}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, then move into place: whoever looks sees the old file or the whole new one, also after a crash."""
    check_writable(path)
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def git_commit() -> str:
    """The commit of this code, "-dirty" behind it where files were changed since; "unknown" outside of its repository."""
    folder = Path(metarl.__file__).parent
    try:
        for command in (["ls-files", "--error-unmatch", "algorithm.py"], ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]):
            said = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()


def _to_bytes(tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> bytes:
    """A safetensors file with the digest of its contents; the library writes several entries in any order, here equal contents are equal bytes."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}  # copies that share no memory, as the format wants them
    data = safetensors.torch.save(plain)
    end = 8 + int.from_bytes(data[:8], "little")  # of the header: its length, then JSON
    header = {"__metadata__": {**entries, DIGEST_KEY: _digest(plain, entries)}, **json.loads(data[8:end])}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def _digest(tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> str:
    """SHA-256 over the metadata, and over names, types, shapes and bytes of the tensors."""
    names = sorted(tensors)
    layout = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    found = hashlib.sha256(json.dumps([dict(entries), layout], sort_keys=True).encode())
    for name in names:
        found.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, which must be those that were written; files from before there were digests are taken as they are."""
    try:
        with safe_open(path, "pt") as file:
            entries, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        start = path.read_bytes()[:9]  # of safetensors: the length of a header, and the brace that begins it
        if start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:] != b"{"):  # a zip of pickles as torch.save writes it, or a bare pickle
            raise ValueError(f"{path} looks like a pickle. A pickle can run code when it is opened, so metarl reads safetensors only") from error
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is no meta-parameters file, which `metarl train` writes as NAME.safetensors") from error
        raise ValueError(f"{path} is not a readable safetensors file: truncated, or something else ({error})") from error
    expected = entries.pop(DIGEST_KEY, None)
    if expected is not None and (found := _digest(tensors, entries)) != expected:
        raise ValueError(f"{path} is damaged: its contents have SHA-256 {found}, expected {expected}, which was written with them")
    return entries, tensors


def _config(kind: type[Any], found: Mapping[str, Any], path: str | Path) -> Any:
    """The algorithm's configuration; a field that the file does not know yet takes its default."""
    known = {f.name for f in fields(kind)}
    if foreign := sorted(set(found) - known):
        raise ValueError(f"{path}: the configuration has {', '.join(foreign)}, expected are {', '.join(sorted(known))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})


def _check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    lines = [f"{name}: missing" for name in expected if name not in found]
    lines += [f"{name}: unknown" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        here, there = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (found[name], expected[name]))
        if here != there:
            lines.append(f"{name}: found {here}, expected {there}")
    if lines:
        raise ValueError(f"the tensors in {path} do not fit:\n  " + "\n  ".join(sorted(lines)))
    _check_finite(found, str(path))


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if bad:
        raise ValueError(f"not finite in {where}: {', '.join(bad)}")
