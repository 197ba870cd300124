"""The mistakes of a temperature that divides one side, or neither: the same wherever student meets teacher."""

from ..spec import Switch


def cold_sides(looks: str = "do your two distributions look") -> dict[str, Switch]:
    """The switches cold, cold_student and cold_teacher; `looks` is what the learner is to look at."""
    both, copy = (
        "The same T divides both sides.",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
    )
    return {
        "cold": Switch(
            "the temperature divides neither side",
            f"What {looks} like at T = 100?",
            both,
            ("cold_student", "cold_teacher"),
        ),
        "cold_student": Switch("the student's logits are not divided by T", copy, both, ("cold_teacher",)),
        "cold_teacher": Switch("the teacher's logits are not divided by T", copy, both),
    }
