"""What the reader can move: arrays in, HTML out.

A widget is a table that is true without JavaScript; `widgets.js`, one script for all pages, adds
the control. Nothing is loaded from elsewhere.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from kdcourse.softmax import entropy, tempered_softmax

LOG2_RANGE = (-2.0, 5.0)  # T from 1/4 to 32
LOG2_STEP = 0.05


@dataclass(frozen=True)
class TemperatureSlider:
    """One example's logits, of teacher and student, under any temperature."""

    teacher_logits: tuple[float, ...]
    student_logits: tuple[float, ...]
    labels: tuple[str, ...]

    def state(self, temperature: float) -> dict[str, list[float] | float]:
        """What the page shows at this temperature, computed in float64.

        `gradient` is that of KL(p ‖ q) for the student's logits, (q - p) / T, before the factor T².
        """
        teacher, student = torch.tensor([self.teacher_logits, self.student_logits], dtype=torch.float64)
        p = tempered_softmax(teacher, temperature)
        q = tempered_softmax(student, temperature)
        gradient = (q - p) / temperature
        norm = gradient.norm().item()
        return {
            "teacher": p.tolist(),
            "student": q.tolist(),
            "gradient": gradient.tolist(),
            "entropy": entropy(p).item(),
            "norm": norm,
            "scaled_norm": temperature**2 * norm,
        }

    def _repr_html_(self) -> str:
        now = self.state(1.0)
        rows = "".join(
            f'<tr><th scope="row">{escape(label)}</th>'
            f'<td style="--p:{p:.4f}">{_number(p)}</td>'
            f'<td style="--p:{q:.4f}">{_number(q)}</td>'
            f"<td>{_number(g)}</td></tr>"
            for label, p, q, g in zip(self.labels, now["teacher"], now["student"], now["gradient"], strict=True)
        )
        low, high = LOG2_RANGE
        data = json.dumps({"teacher": self.teacher_logits, "student": self.student_logits})
        return (
            '<div class="kd-temp">'
            "<p hidden><label>Temperature "
            f'<input type="range" min="{low:g}" max="{high:g}" step="{LOG2_STEP:g}" value="0">'
            "</label></p>"
            f'<p role="status">T = <b>1.00</b>: the teacher’s entropy is '
            f"<b>{_number(now['entropy'])}</b> of at most {_number(math.log(len(self.labels)))} "
            f"nats; the gradient’s norm is <b>{_number(now['norm'])}</b>, "
            f"times T² <b>{_number(now['scaled_norm'])}</b>.</p>"
            '<table><thead><tr><th scope="col">class</th><th scope="col">teacher</th>'
            '<th scope="col">student</th><th scope="col">gradient</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
            f'<script type="application/json">{data}</script></div>'
        )


def temperature_slider(teacher_logits: Tensor, student_logits: Tensor, labels: Sequence[object]) -> TemperatureSlider:
    """A table of both softmaxes and the soft loss's gradient, with a slider for T.

    Logits are [classes], of one example; `labels` names the classes.

    >>> slider = temperature_slider(torch.zeros(2), torch.zeros(2), ["cat", "dog"])
    >>> slider.state(4.0)["teacher"]
    [0.5, 0.5]
    """
    names = tuple(str(label) for label in labels)
    for name, logits in [("teacher_logits", teacher_logits), ("student_logits", student_logits)]:
        if logits.shape != (len(names),):
            raise ValueError(
                f"temperature_slider: {name} must be [{len(names)}], one number for each label, "
                f"got shape {tuple(logits.shape)}"
            )
        if not logits.isfinite().all():
            raise ValueError(f"temperature_slider: {name} must be finite, got {logits.tolist()}")
    teacher, student = (
        tuple(round(value, 6) for value in logits.detach().double().tolist())
        for logits in (teacher_logits, student_logits)
    )
    return TemperatureSlider(teacher, student, names)


def _number(value: float) -> str:
    """Three decimals, or one digit and a power of ten where these would show nothing."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.3f}".replace("-", "−")
    mantissa, power = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(power)}".replace("-", "−")
