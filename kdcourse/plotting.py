"""Figures of the book: arrays in, a drawing on the current axes out. One style, one palette.

A role keeps its colour and its dash on every page, so that neither colour blindness nor a dark
page takes the meaning away; dark pages invert the lightness of a figure and keep its hues.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import HTML
from matplotlib.axes import Axes
from pandas import DataFrame

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip  # Okabe and Ito (2008): seven colours that everybody can tell apart
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))]
ROLES = {
    "teacher": (BLACK, ":"),
    "student": (BLUE, "-"),
    "distilled": (BLUE, "-"),
    "hard labels": (RED, "--"),
    "more labels": (SKY, (0, (1, 1))),
    "weight decay": (ORANGE, "-."),
    "pseudo-labels": (GREEN, (0, (5, 1))),
    "logit MSE": (PINK, (0, (3, 1, 1, 1))),
}


def use_style() -> None:
    """Call once in a page's first cell: SVG that is the same on every build, and the style."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})
    plt.rcParams.update(
        {
            "svg.hashsalt": "kdcourse",
            "svg.fonttype": "path",
            "savefig.transparent": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "figure.figsize": (5.2, 3.2),
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=[BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK], linestyle=DASHES),
        }
    )


def curves(
    x: Sequence[float],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float] | float]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    axes: Axes | None = None,
) -> None:
    """One line with its band for each name: lines[name] = (mean, half width)."""
    axes = axes or plt.gca()
    for name, (mean, half) in lines.items():
        mean, half = np.asarray(mean, dtype=float), np.asarray(half, dtype=float)
        colour, dash = ROLES.get(name, (None, None))
        style = {"color": colour, "linestyle": dash} if colour else {}
        (line,) = axes.plot(x, mean, label=name, **style)
        if np.any(half):
            axes.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.15)
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel=x_label, ylabel=y_label)
    if len(lines) > 1:
        axes.legend()


def dots(
    rows: Mapping[str, tuple[float, float]],
    *,
    x_label: str,
    references: Mapping[str, float] | None = None,
    axes: Axes | None = None,
) -> None:
    """A dot with its interval for each name, the first on top; references are vertical lines."""
    axes = axes or plt.gca()
    for i, (name, (mean, half)) in enumerate(rows.items()):
        colour, _ = ROLES.get(name, (BLUE, "-"))
        axes.errorbar(mean, i, xerr=half, fmt="o", capsize=4, color=colour, linestyle="none")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5 - 0.7 * bool(references))
    axes.grid(visible=False, axis="y")
    for i, (name, value) in enumerate((references or {}).items()):
        axes.axvline(value, color=BLACK, linestyle=DASHES[1 + i], linewidth=1)
        place = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(name, (value, -0.6), fontsize=9, **place)
    axes.set_xlabel(x_label)


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    axes: Axes | None = None,
) -> None:
    """Bars side by side: one group a class, one bar a series; hatches as well as colours."""
    axes = axes or plt.gca()
    width = 0.8 / len(series)
    for i, (name, heights) in enumerate(series.items()):
        place = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        colour, hatch = [(BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (PINK, "xx")][i % 4]
        axes.bar(place, heights, width, label=name, color=colour, hatch=hatch, edgecolor=BLACK, lw=0.4)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(visible=False, axis="x")
    if len(series) > 1:
        axes.legend()


def reliability(
    confidence: Sequence[float], right: Sequence[float], count: Sequence[float], *, axes: Axes | None = None
) -> None:
    """A reliability diagram of `metrics.reliability_bins`: accuracy against confidence, with 95 % Wilson intervals.

    A dot on the diagonal is as often right as it says. The bars are the shares of all examples that fall into the
    bins, with the counts above them; empty bins are left out.
    """
    axes = axes or plt.gca()
    full = np.asarray(count) > 0
    x, y, n = (np.asarray(values, dtype=float)[full] for values in (confidence, right, count))
    low, high = _wilson(y, n)
    axes.plot([0, 1], [0, 1], color=BLACK, linestyle=":", linewidth=1)
    axes.bar(x, n / n.sum(), width=0.5 / len(full), color=SKY, alpha=0.5)
    for place, share, number in zip(x, n / n.sum(), n, strict=True):
        axes.annotate(f"{number:.0f}", (place, share), ha="center", va="bottom", fontsize=8)
    axes.errorbar(x, y, yerr=(y - low, high - y), fmt="o", capsize=3, color=BLUE, linestyle="none")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=(0, 0.5, 1), xlabel="confidence", ylabel="share right")


def _wilson(share: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share of `number` examples (Wilson 1927): never empty, never beyond 0 or 1."""
    z = 1.96
    centre, weight = share + z**2 / (2 * number), 1 + z**2 / number
    half = z * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    # Rounding may leave a share of 0 or 1 a hair outside its own interval.
    return np.minimum((centre - half) / weight, share), np.maximum((centre + half) / weight, share)


def risk_coverage(
    coverage: Sequence[float],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float] | float]],
    *,
    axes: Axes | None = None,
) -> None:
    """Mistakes among the answers that are kept, against the share kept: lines[name] = (mean risk, half width)."""
    percent = {name: (100 * np.asarray(mean), 100 * np.asarray(half)) for name, (mean, half) in lines.items()}
    labels = {"x_label": "answers kept, the most confident first, %", "y_label": "wrong among them, %"}
    curves(100 * np.asarray(coverage), percent, axes=axes, **labels)


def table(frame: DataFrame) -> HTML:
    """A data frame as a plain table of the page, its index as the first column."""
    if frame.index.name:
        frame = frame.reset_index()
    return HTML(frame.to_html(index=False, border=0, classes="dataframe"))


def digit(pixels: Sequence[float], *, title: str = "", axes: Axes | None = None) -> None:
    """One 8 x 8 digit, dark ink on light paper."""
    axes = axes or plt.gca()
    axes.imshow(np.asarray(pixels).reshape(8, 8), cmap="gray_r")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
