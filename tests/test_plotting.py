"""What a figure of calibration shows is what was counted."""

import matplotlib
import numpy as np
import pytest
from scipy.stats import binomtest

matplotlib.use("agg")

import matplotlib.pyplot as plt

from kdcourse import plotting


@pytest.mark.parametrize(("right", "number"), [(0, 5), (5, 5), (3, 7), (90, 100), (1, 1)])
def test_the_intervals_are_wilsons(right, number):
    low, high = plotting._wilson(np.array([right / number]), np.array([number]))
    peer = binomtest(right, number).proportion_ci(0.95, method="wilson")
    assert low[0] == pytest.approx(peer.low, abs=1e-4) and high[0] == pytest.approx(peer.high, abs=1e-4)
    assert low[0] <= right / number <= high[0]


def test_a_reliability_diagram_shows_bins_that_are_not_empty_with_their_counts():
    _, axes = plt.subplots()
    plotting.reliability([0.0, 0.55, 0.9], [0.0, 0.5, 1.0], [0, 4, 12], axes=axes)
    assert [text.get_text() for text in axes.texts] == ["4", "12"]
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.75]
    dots = axes.containers[-1].lines[0]
    assert dots.get_xdata().tolist() == [0.55, 0.9] and dots.get_ydata().tolist() == [0.5, 1.0]
    plt.close()


def test_a_risk_coverage_curve_is_in_per_cent():
    _, axes = plt.subplots()
    plotting.risk_coverage([0.5, 1.0], {"student": ([0.1, 0.2], [0.01, 0.02])}, axes=axes)
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [50, 100] and line.get_ydata().tolist() == [10, 20]
    plt.close()
