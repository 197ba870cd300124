"""Chunks of runs, trained here or elsewhere and kept in a folder as they finish.

A chunk is a job that can be pickled; what comes back is a part, dicts of tensors on the CPU. A job knows nothing of
the others, so they may be trained in any order, by any process, or have been trained before.
"""

import functools
import hashlib
import io
import json
import os
import pickle
import platform
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Part = dict[str, Any]


def train_each(
    train_one: Callable[[Any], Part],
    jobs: Mapping[Any, Any],
    folder: "Folder | None",
    executor: Executor | None,
    progress: bool,
) -> dict[Any, Part]:
    """Every job once: from the folder if it is there, else trained, here or by the executor."""
    names = {key: f"{number:04}" for number, key in enumerate(jobs)}
    parts = {key: part for key in jobs if folder and (part := folder.read(names[key]))}
    waiting = [key for key in jobs if key not in parts]

    def finish(key: Any, part: Part) -> None:
        parts[key] = part
        if folder:
            folder.write(names[key], part)

    if executor is None:
        for key in _shown(waiting, len(waiting), progress):
            finish(key, train_one(jobs[key]))
        return parts
    futures = {executor.submit(_packed_by, train_one, _pickled(jobs[key])): key for key in waiting}
    failure = None
    try:
        for future in _shown(as_completed(futures), len(waiting), progress):
            # One chunk that fails must not lose the others: they are finished, and kept, before it is reported.
            try:
                finish(futures[future], _unpacked(future.result()))
            except Exception as error:
                failure = failure or error
    finally:
        for future in futures:
            future.cancel()
    if failure:
        raise failure
    return parts


def _shown(items: Iterable, total: int, progress: bool) -> Iterable:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, desc="train", unit="chunk", total=total)


def _pickled(job: Any) -> bytes:
    """By value, if cloudpickle is there: a loss that a notebook defines can be found nowhere else."""
    try:
        import cloudpickle
    except ImportError:
        try:
            return pickle.dumps(job)
        except Exception as error:
            raise ValueError(
                "train: with an executor, model, loss, schedules and metrics must be importable, or cloudpickle "
                f"installed (pip install cloudpickle), got {error}"
            ) from error
    return cloudpickle.dumps(job)


def _packed_by(train_one: Callable[[Any], Part], job: bytes) -> bytes:
    return _packed(train_one(pickle.loads(job)))


def _packed(part: Part) -> bytes:
    """Tensors and text only, so that reading them can run no code; a checksum before them."""
    buffer = io.BytesIO()
    torch.save({name: value for name, value in part.items() if name != "skeleton"}, buffer)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def _unpacked(packed: bytes) -> Part:
    checksum, content = packed[:32], packed[32:]
    if hashlib.sha256(content).digest() != checksum:
        raise ValueError("train: a chunk is damaged")
    return torch.load(io.BytesIO(content), weights_only=True)


class Folder:
    """Finished chunks of one sweep, a file each, and `sweep.json`, which says whose they are."""

    def __init__(self, path: Path, arguments: Mapping[str, Any]) -> None:
        self.path = path
        versions = {"torch": torch.__version__, "python": platform.python_version(), "kdcourse": _version()}
        sweep = {name: _digest(value) for name, value in arguments.items()} | versions
        path.mkdir(parents=True, exist_ok=True)
        try:
            found = json.loads((path / "sweep.json").read_text("utf-8"))
        except FileNotFoundError:
            if any(path.glob("*.chunk")):
                found = {}
            else:
                _write_at_once(path / "sweep.json", json.dumps(sweep, indent=1).encode())
                found = sweep
        except ValueError:
            found = {}
        found = found if isinstance(found, dict) else {}
        if found != sweep:
            other = [name for name in sweep if found.get(name) != sweep[name]]
            raise ValueError(
                f"train: keep must be a new folder or that of the same sweep, got {path}, where the sweep has another "
                f"{', '.join(other)}; nothing in it was changed"
            )

    def read(self, name: str) -> Part | None:
        try:
            return _unpacked((self.path / f"{name}.chunk").read_bytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file brings about: it is trained again
            warnings.warn(f"train: {self.path / name}.chunk cannot be read and is trained again: {error}", stacklevel=5)
            return None

    def write(self, name: str, part: Part) -> None:
        _write_at_once(self.path / f"{name}.chunk", _packed(part))


def _write_at_once(path: Path, content: bytes) -> None:
    """The whole file or none of it, whenever the machine stops."""
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _version() -> str:
    """The release, and the loop: another loop may give other numbers."""
    try:
        release = metadata.version("kdcourse")
    except metadata.PackageNotFoundError:
        release = "not installed"
    return f"{release}, {hashlib.sha256(Path(__file__).with_name('training.py').read_bytes()).hexdigest()[:16]}"


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(value, set()):
        digest.update(piece)
        digest.update(b"|")
    return digest.hexdigest()[:16]


def _pieces(value: Any, seen: set[int]) -> Iterator[bytes]:
    """What makes an argument what it is: bytes of tensors, code of functions with all that they hold."""
    yield type(value).__qualname__.encode()
    if isinstance(value, str | bytes | int | float | complex | bool | None | torch.dtype | torch.device):
        yield repr(value).encode()
        return
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return
    if id(value) in seen:  # a function that calls itself
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        inside = [piece for pair in value.items() for piece in pair]
    elif isinstance(value, list | tuple | range | set | frozenset):
        inside = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    elif isinstance(value, functools.partial):
        inside = [value.func, value.args, value.keywords]
    elif isinstance(value, types.CodeType):
        inside = [value.co_code, value.co_consts, value.co_names, value.co_varnames]
    elif isinstance(value, types.MethodType):
        inside = [value.__func__, value.__self__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        named = [value.__globals__.get(name) for name in value.__code__.co_names]
        # A function's neighbours in its own file or notebook count; what it imports has a version.
        near = [one for one in named if getattr(one, "__module__", None) == value.__module__]
        inside = [value.__code__, value.__defaults__, value.__kwdefaults__, cells, near]
    elif isinstance(value, type):
        inside = [value.__module__, [v for v in vars(value).values() if isinstance(v, types.FunctionType)]]
    elif isinstance(value, nn.Module):
        inside = [type(value), repr(value), value.state_dict()]
    elif isinstance(value, types.BuiltinFunctionType | types.ModuleType):
        inside = [value.__name__]
    else:
        inside = [type(value), getattr(value, "__dict__", None) or repr(value)]
    for piece in inside:
        yield from _pieces(piece, seen)
