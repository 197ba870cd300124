"""What other libraries call the same numbers: their settings turned into this course's, or into one another's.

All of them train a student on soft · KL(p ‖ q) + hard · cross-entropy with the labels, with p and q at temperature T,
and differ in which weight a word means, in the factor T² and in what the sums are divided by. `CONVENTIONS` is the
only place that says so. Losses are compared as gradients of the student's logits: cross-entropy with soft targets
differs from KL by a number that no student changes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import NamedTuple

Settings = dict[str, float | str | None]


@dataclass(frozen=True)
class Convention:
    """How one library writes the loss. A word that it lacks is None."""

    read: str  # the version or commit that was read
    temperature: str | None  # its word for T; None: the loss is always at T = 1
    soft: str | None  # its word for the weight of KL; None: 1 - hard, or 1 where there is no hard term
    hard: str | None  # its word for the weight of the labels; None: 1 - soft, or no hard term where there is no weight
    square: bool  # is the soft term multiplied by T²?
    defaults: Mapping[str, float | str | None]
    must: Mapping[str, tuple[object, str]] = field(default_factory=dict)  # values that alone can be converted, and why
    note: str = ""
    lenient: bool = False  # a soft weight left out is 1 - hard, and without labels the loss is KL: no weight, no T²

    @property
    def mixes(self) -> bool:
        """One word for both weights, which sum to 1."""
        return (self.soft is None) != (self.hard is None)


JSD = (0, "in between it is a Jensen-Shannon divergence, at 1 the reverse KL: other losses")
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "kdcourse": Convention(
            "this course", "temperature", "soft_weight", None, True, {"temperature": None, "soft_weight": None}
        ),
        "torchdistill": Convention(
            "1.1.5, KDLoss",
            *("temperature", "beta", "alpha", True),
            {"temperature": None, "alpha": None, "beta": None, "reduction": "batchmean"},
            note="beta left out is 1 - alpha; with alpha = 0 the loss is KL alone, without beta and without T²",
            lenient=True,
        ),
        "RepDistiller": Convention(
            "b84f547",
            *("kd_T", "alpha", "gamma", True),
            {"kd_T": 4.0, "alpha": None, "gamma": 1.0, "beta": 0.0},
            {"beta": (0, "it weighs a second distillation loss")},
        ),
        "mdistiller": Convention(
            "a08d46f",
            *("TEMPERATURE", "KD_WEIGHT", "CE_WEIGHT", True),
            {"TEMPERATURE": 4.0, "KD_WEIGHT": 0.9, "CE_WEIGHT": 0.1},
        ),
        "TextBrewer": Convention(
            "0.2.1.post1",
            *("temperature", "kd_loss_weight", "hard_label_weight", False),
            {"temperature": 4.0, "kd_loss_weight": 1.0, "hard_label_weight": 0.0, "kd_loss_type": "ce"},
            {"kd_loss_type": ("ce", "mse compares logits, not probabilities")},
            note="cross-entropy with the teacher's probabilities in place of KL",
        ),
        "Keras": Convention(
            "3.15.1, keras.distillation",
            *("temperature", None, "student_loss_weight", True),
            {"temperature": 3.0, "student_loss_weight": 0.5, "loss": "kl_divergence"},
            {"loss": ("kl_divergence", "only KL gets a softmax and T² there")},
        ),
        "keras-io example": Convention(
            "501fb4c", "temperature", None, "alpha", True, {"temperature": 3.0, "alpha": 0.1}
        ),
        "keras-io example of 2020": Convention(
            "1da2fde",
            *("temperature", None, "alpha", False),
            {"temperature": 3.0, "alpha": 0.1},
            note="this version also swaps teacher and student",
        ),
        "PyTorch tutorial": Convention(
            "035c541",
            *("T", "soft_target_loss_weight", "ce_loss_weight", True),
            {"T": 2.0, "soft_target_loss_weight": 0.25, "ce_loss_weight": 0.75},
            note="cross-entropy with the teacher's probabilities in place of KL",
        ),
        "TRL GKD": Convention(
            "1.16.0, experimental",
            *(None, None, None, False),
            {"beta": 0.5, "lmbda": 0.5, "temperature": 0.9},
            {"beta": JSD, "lmbda": (0, "it is the share of text that the student writes itself, not a weight")},
            note="temperature is that of the text that is drawn: the loss is always at T = 1",
        ),
        "TRL DistillationTrainer": Convention(
            "1.16.0",
            *("temperature", None, None, False),
            {"temperature": 1.0, "beta": 1.0},
            {"beta": JSD},
            note="trains on text that the student writes, drawn at the same temperature",
        ),
        "liger-kernel": Convention(
            "0.8.5, fused linear JSD",
            *("temperature", "weight_soft_loss", "weight_hard_loss", False),
            {"temperature": 1.0, "weight_soft_loss": 0.5, "weight_hard_loss": 0.5, "beta": 0.5},
            {"beta": JSD},
        ),
        "Model-Optimizer": Convention(
            "0.47.0, LogitsDistillationLoss with StaticLossBalancer",
            *("temperature", "kd_loss_weight", None, True),
            {"temperature": 1.0, "kd_loss_weight": 0.5, "reduction": "mean"},
            note="the default reduction divides by batch and classes",
        ),
    }
)


class Terms(NamedTuple):
    """soft · KL(p ‖ q) + hard · cross-entropy, both means over the batch, with nothing left to know."""

    temperature: float
    soft: float
    hard: float


class Converted(NamedTuple):
    """Settings, and the factor by which the old loss is larger: the learning rate of plain SGD has to take it."""

    settings: Settings
    scale: float


def terms(library: str, *, classes: int | None = None, **settings: float | str | None) -> Terms:
    """What the library computes with these settings; the others keep its defaults.

    `classes` is needed where the loss is divided by their number. Raises ValueError, which says why, where the loss is
    no KL plus cross-entropy.

    >>> terms("liger-kernel", temperature=2.0, beta=0)
    Terms(temperature=2.0, soft=0.5, hard=0.5)
    """
    row, values = _settings("terms", library, settings)
    temperature = _number("terms", library, row.temperature, values) if row.temperature else 1.0
    if not temperature > 0:
        raise ValueError(f"terms: {library}: {row.temperature} must be positive, got {temperature!r}")
    soft, hard = _weights(library, row, values)
    square = temperature**2 if _squared(row, hard) else 1.0
    return Terms(temperature, soft * square / _divisor(library, values, classes), hard)


def convert(source: str, target: str, *, classes: int | None = None, **settings: float | str | None) -> Converted:
    """The settings of `target` whose gradient is that of `source` with `settings`, divided by `scale`.

    >>> convert("torchdistill", "liger-kernel", temperature=4.0, alpha=0.1).settings
    {'temperature': 4.0, 'weight_soft_loss': 14.4, 'weight_hard_loss': 0.1, 'beta': 0}
    >>> convert("TextBrewer", "kdcourse", temperature=4.0)  # soft targets alone, without T²
    Converted(settings={'temperature': 4.0, 'soft_weight': 1.0}, scale=0.0625)
    """
    temperature, soft, hard = terms(source, classes=classes, **settings)
    if target not in CONVENTIONS:
        raise ValueError(f"convert: target must be one of {', '.join(CONVENTIONS)}, got {target!r}")
    row = CONVENTIONS[target]
    if row.temperature is None and temperature != 1:
        raise ValueError(f"convert: the loss of {target} is always at T = 1, got T = {temperature:g}")
    if not row.soft and not row.hard and hard:
        raise ValueError(f"convert: {target} has no hard term, got one of weight {hard:g}")
    answer: Settings = {row.temperature: _round(temperature)} if row.temperature else {}
    soft /= temperature**2 if _squared(row, hard) else 1.0
    total = soft + hard if row.mixes else 1.0
    if row.lenient and hard == 0:
        answer[row.hard], total = 0.0, soft
    elif row.mixes:
        answer[row.soft or row.hard] = _round((soft if row.soft else hard) / total)
    elif row.soft:
        answer |= {row.soft: _round(soft), row.hard: _round(hard)}
    else:
        total = soft
    answer |= {word: value for word, (value, _) in row.must.items()}
    return Converted(answer | ({"reduction": "batchmean"} if "reduction" in row.defaults else {}), _round(total))


def wrong_readings(library: str, *, classes: int, **settings: float | str | None) -> dict[str, tuple[float, float]]:
    """By what the gradients of the soft and of the hard term are multiplied when these settings are misread.

    Keys say the reading: weights swapped, T² left out (or added where the library has none), and the sum over classes
    taken for their mean (or the mean for the sum).
    """
    right = terms(library, classes=classes, **settings)
    row, values = _settings("wrong_readings", library, settings)
    soft, hard = _weights(library, row, values)
    readings = {}
    if soft and hard:
        readings["weights swapped"] = (hard / soft, soft / hard)
    square = right.temperature**2
    if square != 1:
        squared = _squared(row, hard)
        readings["T² left out" if squared else "T² added"] = (1 / square if squared else square, 1.0)
    if values.get("reduction") == "mean":
        readings["mean over the classes taken for the sum"] = (float(classes), 1.0)
    else:
        readings["sum over the classes taken for the mean"] = (1 / classes, 1.0)
    return readings


def blocks(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML, on a narrow screen one block a row; a line after a line break in the first cell is small."""
    body = ""
    for first, *rest in rows:
        name, *small = escape(first).split("\n")
        name += "".join(f"<small>{line}</small>" for line in small)
        cells = "".join(
            f'<td data-name="{head}">{escape(cell).replace("_", "_<wbr>")}</td>'
            for head, cell in zip(heads[1:], rest, strict=True)
        )
        body += f'<tr><th scope="row">{name}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f'<table class="kd-blocks"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


class Table:
    """`CONVENTIONS` as a table for a page."""

    HEADS = ("library", "T", "teacher's weight", "labels' weight", "T² inside", "divided by")

    def _repr_html_(self) -> str:
        rows = []
        for library, row in CONVENTIONS.items():
            divided = "batch, classes" if row.defaults.get("reduction") == "mean" else "batch"
            first = "\n".join(filter(None, (library, row.read, row.note)))
            words = _word(row, row.temperature, "always 1"), *_weight_words(row)
            rows.append((first, *words, "yes" if row.square else "no", divided))
        return blocks(self.HEADS, rows)


def _word(row: Convention, word: str | None, otherwise: str) -> str:
    if word is None:
        return otherwise
    default = row.defaults[word]
    return word if default is None else f"{word} ({default:g})"


def _weight_words(row: Convention) -> tuple[str, str]:
    if not row.soft and not row.hard:
        return "1", "no hard term"
    return _word(row, row.soft, f"1 − {row.hard}"), _word(row, row.hard, f"1 − {row.soft}")


def _settings(function: str, library: str, settings: Settings) -> tuple[Convention, Settings]:
    if library not in CONVENTIONS:
        raise ValueError(f"{function}: library must be one of {', '.join(CONVENTIONS)}, got {library!r}")
    row = CONVENTIONS[library]
    for word in settings:
        if word not in row.defaults:
            raise ValueError(f"{function}: {library} has the settings {', '.join(row.defaults)}, got {word!r}")
    values = dict(row.defaults) | settings
    for word, (value, why) in row.must.items():
        if values[word] != value:
            raise ValueError(
                f"{function}: {library}: {word} must be {value!r} to be converted, got {values[word]!r}: {why}"
            )
    return row, values


def _squared(row: Convention, hard: float) -> bool:
    return row.square and not (row.lenient and hard == 0)


def _weights(library: str, row: Convention, values: Settings) -> tuple[float, float]:
    """The weights of KL and of the labels that the library's own words give."""
    hard = _number("terms", library, row.hard, values) if row.hard else None
    if row.lenient and hard == 0:
        return 1.0, 0.0
    if row.soft and not (row.lenient and values[row.soft] is None):
        soft = _number("terms", library, row.soft, values)
    else:
        soft = 1.0 if hard is None else 1 - hard
    if hard is None:
        hard = 1 - soft
    if soft < 0 or hard < 0 or soft + hard == 0:
        raise ValueError(f"terms: {library}: weights must not be negative, nor both 0, got {soft:g} and {hard:g}")
    return soft, hard


def _number(function: str, library: str, word: str, values: Settings) -> float:
    value = values[word]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{function}: {library}: {word} must be a finite number, got {value!r}")
    return float(value)


def _divisor(library: str, values: Settings, classes: int | None) -> float:
    reduction = values.get("reduction", "batchmean")
    if reduction == "batchmean":
        return 1.0
    if reduction != "mean":
        raise ValueError(f"terms: {library}: reduction must be 'batchmean' or 'mean', got {reduction!r}")
    if classes is None or classes < 2:
        raise ValueError(f"terms: {library} divides by the number of classes: classes must be given, got {classes!r}")
    return float(classes)


def _round(value: float) -> float:
    """Without the digits that are only rounding."""
    return float(f"{value:.12g}")
