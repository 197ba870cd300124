"""Recorded studies: experiments that take longer than a page may, run once and kept with their provenance.

A study is one short file beside this one that defines STUDY: its name, its question, its settings for each scale, its
units of work, and how one unit is computed. A finished unit goes into book/results/NAME.json at once, by an atomic
replacement of the file: a killed study has lost nothing but the unit that it was in, and goes on from there.
Pages read a record with `recorded("results/NAME.json")`; that string tells the build to run the page again when the
record changes.
"""

import datetime
import importlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas import DataFrame
from tqdm import tqdm

from kdcourse.experiments import LOWER_IS_BETTER, interval

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "results"
SMOKE_FOLDER = ROOT / "_build" / "results"  # numbers that only prove that a study runs stay out of the book
STUDIES = (
    "fashion_temperature",
    "fashion_strict",
    "fashion_schedules",
    "tiles",
    "ensembles",
    "fashion_ensembles",
    "fashion_chains",
    "fashion_teachers",
    "human_labels",
    "translation",
    "cifar100",
    "fashion_convnet",
    "image_costs",
    "character_model",
    "robust_digits",
    "staged_robustness",
)
FORMAT = 1

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """A piece of work that is recorded as one: its name, its arguments, and the examples that its training draws."""

    name: str
    arguments: dict[str, Any]
    examples: int


@dataclass(frozen=True)
class Study:
    """What is asked, at which scales, and how it is computed.

    units(settings)                      the units of work, in order; their names are keys of the record.
    prepare(settings, device)            (shared, facts): what all units share, and its numbers for the record.
    compute(shared, settings, device, **arguments)    a table with a row for each run of the unit.
    key       the columns that, with the seed, tell the runs of the study apart.
    judged    the columns that `reproduce` compares.
    page      the page that shows the record.
    optional  the columns that an arm may lack.
    """

    name: str
    question: str
    page: str
    scales: Mapping[str, Settings]
    key: tuple[str, ...]
    judged: tuple[str, ...]
    units: Callable[[Settings], list[Unit]]
    prepare: Callable[[Settings, torch.device], tuple[Any, dict[str, float]]]
    compute: Callable[..., DataFrame]
    optional: tuple[str, ...] = ()

    def settings(self, scale: str) -> Settings:
        """The settings of a scale, as the record keeps them."""
        if scale not in self.scales:
            raise ValueError(f"{self.name}: scale must be one of {', '.join(self.scales)}, got {scale!r}")
        return json.loads(json.dumps(self.scales[scale]))

    def chosen(self, scale: str, only: str | None = None) -> list[Unit]:
        """The units of a scale; `only` keeps those whose name matches a pattern such as "500 images*"."""
        units = [unit for unit in self.units(self.settings(scale)) if only is None or fnmatch(unit.name, only)]
        if not units:
            names = [unit.name for unit in self.units(self.settings(scale))]
            raise ValueError(f"{self.name}: no unit matches {only!r}; there are {', '.join(names)}")
        return units


class RecordError(ValueError):
    """A record that is missing, malformed, or does not belong to the study as it is now."""


def study(name: str) -> Study:
    """The study of that name."""
    if name not in STUDIES:
        raise ValueError(f"study: name must be one of {', '.join(STUDIES)}, got {name!r}")
    return importlib.import_module(f"kdcourse.experiments.{name}").STUDY


# --- what a page reads ------------------------------------------------------------------------------------------------


def recorded(path: str, scale: str = "cpu") -> DataFrame:
    """All runs of a record, a row each; `path` is "results/NAME.json", relative to the book."""
    units = record(path, scale)["units"].values()
    return pd.concat([_table(unit["runs"]) for unit in units], ignore_index=True)


def record(path: str, scale: str = "cpu") -> dict[str, Any]:
    """The record itself: settings, facts, sessions (the provenance), units."""
    file = ROOT / "book" / path
    if not file.is_file():
        raise RecordError(f"recorded: no {path} in {ROOT / 'book'}; kdcourse run {Path(path).stem} makes it")
    scales = read(file)["scales"]
    if scale not in scales:
        raise RecordError(f"recorded: {path} holds the scales {', '.join(scales)}, got {scale!r}")
    return scales[scale]


def choose(
    runs: DataFrame, metric: str, *, among: Sequence[str], within: Sequence[str] = (), per_seed: bool = False
) -> DataFrame:
    """The runs of the best setting of the columns `among`, for each value of the columns `within`.

    Best is the mean of `metric` over seeds, or with `per_seed` its value in each seed, which is what somebody with one
    seed would have chosen. Give a metric of validation, and report another part of the runs that come back.

    >>> runs = DataFrame({"seed": [1, 2, 1, 2], "lr": [0.1, 0.1, 0.2, 0.2], "val_nll": [1.0, 2.0, 1.5, 1.9]})
    >>> choose(runs, "val_nll", among=["lr"]).lr.tolist()
    [0.1, 0.1]
    >>> choose(runs, "val_nll", among=["lr"], per_seed=True).lr.tolist()
    [0.1, 0.2]
    """
    group, among = [*within, *(["seed"] if per_seed else [])], list(among)
    means = runs.groupby([*group, *among])[metric].mean().reset_index()
    lower = metric.removeprefix("val_").removesuffix("_fitted") in LOWER_IS_BETTER
    ordered = means.sort_values(metric, ascending=lower, kind="stable")
    best = ordered.drop_duplicates(group) if group else ordered.head(1)
    return runs.merge(best[[*group, *among]])


def card(path: str | Path) -> DataFrame:
    """How a record was made, a column for each scale of its study; `path` as in `recorded`, or that of a file."""
    file = ROOT / "book" / path
    columns, content = {}, read(file)
    for scale, entry in content["scales"].items():
        units, sessions, seeds = entry["units"].values(), entry["sessions"], entry["settings"]["seeds"]
        runs = pd.concat([_table(unit["runs"]) for unit in units]) if units else DataFrame({"seed": []})
        commits = {f"{s['commit'] or 'none'}"[:10] + (" and changes" if s["dirty"] else "") for s in sessions}
        versions = {", ".join(f"{name} {number}" for name, number in s["versions"].items()) for s in sessions}
        peaks = [unit["peak_memory_mb"] for unit in units if unit["peak_memory_mb"] is not None]
        seconds = sum(unit["seconds"] for unit in units)
        examples = sum(unit["examples_per_second"] * unit["seconds"] for unit in units)
        columns[scale] = {
            "runs": f"{len(runs):,}",
            "seeds": f"{len(seeds)}, from {min(seeds)} to {max(seeds)}",
            "time": f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s",
            "examples a second": f"{examples / max(seconds, 1e-9):,.0f}",
            "peak memory": f"{max(peaks):,} MB" if peaks else "not known",
            "device": "; ".join(sorted({s["device"] for s in sessions})),
            "threads": ", ".join(sorted({str(s["threads"]) for s in sessions})),
            "versions": "; ".join(sorted(versions)),
            "commit": "; ".join(sorted(commits)),
            "recorded": ", ".join(sorted({s["started"][:10] for s in sessions})),
            **{name.replace("_", " "): f"{value:,}" for name, value in entry["facts"].items()},
        }
    if content["study"] in STUDIES:
        planned = [scale for scale in study(content["study"]).scales if scale not in ("smoke", *columns)]
        columns |= {scale: {"runs": "not yet recorded"} for scale in planned}
    return DataFrame(columns).fillna("–")


# --- running ----------------------------------------------------------------------------------------------------------


def run(
    study: Study,
    scale: str = "cpu",
    *,
    folder: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    anew: bool = False,
    progress: bool = False,
) -> Path:
    """Compute what is missing of a scale and record it, unit by unit; returns the record's path.

    A scale that has a record is an error, unless `resume` goes on with it or `anew` drops it.
    """
    file = (folder or default_folder(scale)) / f"{study.name}.json"
    settings, units, target = study.settings(scale), study.chosen(scale), torch.device(device)
    old = read(file)["scales"].get(scale) if file.exists() else None
    if old and not (resume or anew):
        state = f"{len(old['units'])} of {len(units)} units"
        raise RecordError(f"run: {file} has {state} at scale {scale}; --resume goes on, --anew begins again")
    if anew or not old:
        old = {"settings": settings, "facts": {}, "sessions": [], "units": {}}
    if old["settings"] != settings:
        raise RecordError(f"run: {file} was recorded with other settings at scale {scale}; --anew begins again")
    todo = [unit for unit in units if unit.name not in old["units"]]
    if not todo:
        return file
    session = provenance(target)
    shared, facts = study.prepare(settings, target)
    facts = {name: _plain(value) for name, value in facts.items()}
    if old["units"] and old["facts"] != facts:
        raise RecordError(
            f"run: what the units share came out as {facts}, recorded is {old['facts']}: another machine or version? "
            "--anew begins again"
        )
    with _changing(file, study) as scales:
        # Another process may have recorded units while this one prepared.
        now = old if anew else scales.get(scale, old)
        place = len(now["sessions"])
        scales[scale] = now | {"facts": facts, "sessions": [*now["sessions"], session]}
    for unit, result in _computed(study, todo, shared, settings, target, progress):
        with _changing(file, study) as scales:
            scales[scale]["units"][unit.name] = {"session": place, **result}
    return file


def reproduce(
    study: Study,
    scale: str = "cpu",
    *,
    only: str | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> DataFrame:
    """Run a recorded study again, or the units that `only` matches, and compare the means over seeds.

    Another processor or version of torch rounds differently, and training amplifies that: single runs move. So means
    are compared, and the tolerance is half the recorded 95 % t interval for a mean of as many seeds, at least 0.001.
    A row for each setting and metric: `recorded`, `yours`, `tolerance`, `reproduced`.
    """
    file = (folder or default_folder(scale)) / f"{study.name}.json"
    old = read(file)["scales"].get(scale) if file.exists() else None
    if not old:
        raise RecordError(f"reproduce: no record of {study.name} at scale {scale} in {file.parent}")
    settings, target = old["settings"], torch.device(device)
    units = [unit for unit in study.chosen(scale, only) if unit.name in old["units"]]
    if settings != study.settings(scale):
        raise RecordError(f"reproduce: {file} was recorded with other settings than the study has now")
    shared, _ = study.prepare(settings, target)
    before = pd.concat([_table(unit["runs"]) for unit in old["units"].values()])
    after = pd.concat(
        [_table(result["runs"]) for _, result in _computed(study, units, shared, settings, target, progress)]
    )
    rows = []
    recorded_runs = dict(iter(before.groupby(list(study.key))))
    for key, mine in after.groupby(list(study.key)):
        theirs = recorded_runs[key]
        same = theirs[theirs.seed.isin(mine.seed)]
        for metric in study.judged:
            if theirs[metric].isna().all():  # an arm without this column
                continue
            half = interval(theirs[metric])[1] * (len(theirs) / len(same)) ** 0.5
            row = {"recorded": same[metric].mean(), "yours": mine[metric].mean(), "tolerance": max(half, 1e-3)}
            rows.append(dict(zip(study.key, key, strict=True)) | {"metric": metric} | row)
    table = DataFrame(rows)
    # Written so that a value that is not a number is not reproduced.
    return table.assign(reproduced=(table.recorded - table.yours).abs() <= table.tolerance)


def _computed(
    study: Study, units: list[Unit], shared: Any, settings: Settings, device: torch.device, progress: bool
) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """Each unit with its runs and what they cost; the bar counts examples, since units differ in length."""
    total = sum(unit.examples for unit in units)
    with tqdm(total=total, unit=" examples", unit_scale=True, disable=not progress, desc=study.name) as bar:
        for unit in units:
            bar.set_postfix_str(unit.name)
            start = time.perf_counter()
            table = study.compute(shared, settings, device, **unit.arguments)
            seconds = time.perf_counter() - start
            yield (
                unit,
                {
                    "seconds": round(seconds, 2),
                    "examples_per_second": round(unit.examples / seconds),
                    "peak_memory_mb": _peak_memory(device),
                    "runs": _columns(table),
                },
            )
            bar.update(unit.examples)


# --- provenance -------------------------------------------------------------------------------------------------------


def provenance(device: torch.device) -> dict[str, Any]:
    """Which code ran on which machine, and when."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "kdcourse")),  # the package differed from that commit
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "kdcourse")},
        "device": _in_words(device),
        "threads": torch.get_num_threads(),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or a copy that is no repository
        return None
    return done.stdout.strip()


def _in_words(device: torch.device) -> str:
    if device.type == "cuda":
        return f"GPU: {torch.cuda.get_device_name(device)}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return f"CPU: {model or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _peak_memory(device: torch.device) -> int | None:
    """MB (10^6 bytes) that the process, or on a GPU its tensors, held at most so far."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


# --- the file ---------------------------------------------------------------------------------------------------------


def default_folder(scale: str) -> Path:
    """book/results, or _build/results for smoke."""
    return SMOKE_FOLDER if scale == "smoke" else FOLDER


def missing(study: Study, scale: str, folder: Path | None = None) -> list[str]:
    """Names of the units that are not recorded."""
    file = (folder or default_folder(scale)) / f"{study.name}.json"
    done = read(file)["scales"].get(scale, {}).get("units", {}) if file.exists() else {}
    return [unit.name for unit in study.chosen(scale) if unit.name not in done]


def read(file: Path) -> dict[str, Any]:
    """A validated record."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise RecordError(f"{file}: not JSON: {error}") from None
    validate(content, str(file))
    return content


def validate(content: dict[str, Any], name: str = "record") -> None:
    """Raise RecordError unless this is a record in the form that `run` writes."""

    def require(holds: bool, rule: str) -> None:
        if not holds:
            raise RecordError(f"{name}: {rule}")

    def keys(value: Any, expected: str, where: str) -> None:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        require(found == sorted(expected.split()), f"{where} must have the keys {expected}, got {found}")

    keys(content, "format study question scales", "the record")
    require(content["format"] == FORMAT, f"format must be {FORMAT}, got {content['format']!r}")
    for scale, entry in content["scales"].items():
        keys(entry, "settings facts sessions units", scale)
        for session in entry["sessions"]:
            keys(session, "started commit dirty versions device threads", f"{scale}: a session")
        columns = None
        for title, unit in entry["units"].items():
            where = f"{scale}, {title}"
            keys(unit, "session seconds examples_per_second peak_memory_mb runs", where)
            require(unit["session"] in range(len(entry["sessions"])), f"{where}: no session {unit['session']!r}")
            columns = columns or sorted(unit["runs"])
            require(sorted(unit["runs"]) == columns, f"{where}: columns must be {columns}, got {sorted(unit['runs'])}")
            lengths = {len(column) for column in unit["runs"].values() if isinstance(column, list)}
            require(len(lengths) == 1, f"{where}: columns must have one length, got {sorted(lengths)}")
            seeds = unit["runs"].get("seed")
            allowed = entry["settings"].get("seeds", [])
            require(isinstance(seeds, list) and set(seeds) <= set(allowed), f"{where}: seeds must be among {allowed}")


@contextmanager
def _changing(file: Path, study: Study) -> Iterator[dict[str, Any]]:
    """The scales of a record, to be changed; written back whole, so that a reader never sees half a record.

    It is read again each time, under a lock: two processes that record at once lose nothing of each other.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.parent):
        scales = read(file)["scales"] if file.exists() else {}
        yield scales
        content = {"format": FORMAT, "study": study.name, "question": study.question, "scales": scales}
        validate(content, study.name)
        partial = file.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(_text(content) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _text(value: Any, level: int = 0) -> str:
    """JSON with one unit a line: small, and a diff shows which units changed."""
    if not isinstance(value, dict) or not value or level > 3:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    indent = "\n" + " " * (level + 1)
    lines = [f"{json.dumps(key)}: {_text(item, level + 1)}" for key, item in value.items()]
    return "{" + indent + f",{indent}".join(lines) + indent[:-1] + "}"


def _columns(table: DataFrame) -> dict[str, Any]:
    """Column by column, four digits; a column that never changes is one value. The seed always is a list."""
    columns = {name: [_plain(value) for value in table[name].tolist()] for name in table.columns}
    alike = {name for name, values in columns.items() if name != "seed" and len(set(values)) == 1}
    return {name: values[0] if name in alike else values for name, values in columns.items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None  # JSON has neither NaN nor infinity
    return float(f"{value:.4g}")


def _table(columns: Mapping[str, Any]) -> DataFrame:
    table = DataFrame(columns)
    return table.astype({name: float for name in table if table[name].isna().any()})  # what JSON has no number for
