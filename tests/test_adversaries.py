"""Loops with an adversary: the course's own training where there is none, and fair judges where there is one."""

import pytest
import torch
from torch.testing import assert_close

from kdcourse import data, experiments, models, schedules
from kdcourse.experiments import robust_digits
from kdcourse.experiments.adversaries import Judge, Stack, attacks, together, train_stack, withstands
from kdcourse.losses import hard_loss, soft_loss
from kdcourse.metrics import accuracy
from kdcourse.training import train


@pytest.fixture(scope="module")
def few():
    return {seed: data.split(data.digits(), [60, 100], seed)[0] for seed in (3, 4)}


def plain(students, batch, generator):
    return hard_loss(students(batch.inputs), batch.targets)


def test_a_stack_is_its_networks_side_by_side():
    stack, images = Stack((64, 5, 10), [3, 4], mean=0.2, spread=3.0), torch.rand(2, 7, 64)
    for run, seed in enumerate((3, 4)):
        torch.manual_seed(seed)
        alone = models.mlp(64, 5, 10)
        assert_close(stack(images)[run], alone((images[run] - 0.2) / 3))


def test_without_an_adversary_it_is_the_course_s_training(few):
    """The same seeds, order, Adam, decay and schedule: `training.train` is the independent implementation."""
    settings = {"seeds": [3, 4], "lr": 1e-2, "steps": 30, "batch": 16}
    ours = train_stack(Stack((64, 5, 10), [3, 4]), few, plain, weight_decay=torch.tensor([0.3, 1.0]), **settings)
    theirs = train(
        lambda: models.mlp(64, 5, 10),
        few,
        experiments.hard_only,
        weight_decay=[0.3, 1.0],
        lr_schedule=schedules.cosine(1, 0, 30),
        **settings,
    )
    images = together(few, [3, 4]).inputs
    assert_close(ours(images), theirs.logits({s: few[s].inputs for s in (3, 4)}), atol=1e-4, rtol=1e-4)
    none = train_stack(Stack((64, 5, 10), [3, 4]), few, plain, **settings)
    assert (none(images) - ours(images)).abs().max() > 0.1


@pytest.mark.parametrize("arm", ["adversarial training", "TRADES", "ARD", "RSLAD"])
def test_company_changes_nothing(arm):
    pixels, scaling = robust_digits.pixels()
    few = {s: data.split(pixels, [60], s)[0].with_teacher(torch.randn(60, 10)) for s in (3, 4)}
    images, knob = together(few, [3, 4]).inputs, robust_digits.ARMS[arm].knobs[0]

    def run(*seeds):
        loss = robust_digits.ARMS[arm].loss(0.15, knob)
        stack = Stack((64, 5, 10), seeds, **scaling)
        return train_stack(stack, few, loss, seeds=seeds, lr=1e-2, steps=10)

    assert_close(run(4)(images[1:])[0], run(3, 4)(images)[1], atol=1e-4, rtol=1e-4)


def test_training_under_attack_makes_robust_what_training_without_it_does_not():
    pixels, scaling = robust_digits.pixels()
    parts = {s: data.split(pixels, [300, 200], s) for s in (3, 4)}
    known, asked = {s: part[0] for s, part in parts.items()}, together({s: p[1] for s, p in parts.items()}, [3, 4])

    def robust(arm):
        stack = Stack((64, 32, 10), [3, 4], **scaling)
        loss = robust_digits.ARMS[arm].loss(0.1, 1.0)
        train_stack(stack, known, loss, seeds=[3, 4], lr=1e-2, steps=150)
        views = attacks(stack, asked.inputs, asked.targets, radius=0.1, steps=10, restarts=1)
        return withstands(stack, (view for _, view in views), asked.targets).float().mean()

    bare = robust("labels, clean")
    for arm in ("adversarial training", "TRADES"):
        assert robust(arm) > bare + 0.1, arm


def test_a_judge_learns_a_difference_moves_no_student_and_is_fooled_when_it_is_gone():
    images, teacher = torch.rand(2, 64, 3), torch.randn(2, 64, 4)
    student = (teacher * 3).requires_grad_()
    judge = Judge([0, 1], classes=4, scale=1.0)
    for _ in range(200):
        judge.learn(teacher, student, images)
    assert judge.right[-1] > 0.75 > judge.right[0] and student.grad is None
    assert judge.fooled(student, images).mean() > judge.fooled(teacher, images).mean() + 0.5
    assert_close(judge.scores(teacher + 5, images), judge.scores(teacher, images), atol=1e-4, rtol=1e-4)
    assert_close(judge.scores(teacher, images), judge.scores(teacher, 1 - images))


def test_only_a_conditional_judge_sees_that_answers_belong_to_other_images():
    """The same cloud of answers, dealt out to the wrong images."""
    images = torch.randn(1, 256, 3)
    teacher, dealt = torch.cat([images, -images.sum(-1, keepdim=True)], -1), torch.randperm(256)
    right = {}
    for name, pixels in (("blind", 0), ("conditional", 3)):
        judge = Judge([0], classes=4, scale=1.0, pixels=pixels)
        for _ in range(300):
            judge.learn(teacher, teacher[:, dealt], images)
        right[name] = judge.right[-1]
    assert right["conditional"] > 0.9 and abs(right["blind"] - 0.5) < 0.1


def test_withstanding_is_being_right_on_every_view():
    views = [torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])]
    assert withstands(lambda x: x, iter(views), torch.tensor([1, 1, 1])).tolist() == [True, False, False]


def test_the_number_that_counts_is_the_worst_of_all_attacks():
    pixels, scaling = robust_digits.pixels()
    asked = together({s: data.split(pixels, [40], s)[0] for s in (3, 4)}, [3, 4])
    students, other = (Stack((64, 8, 10), seeds, **scaling) for seeds in ([3, 4], [5, 6]))
    settings = robust_digits.STUDY.settings("smoke")
    judged = robust_digits.judge(students, other, asked, settings)
    assert_close(judged["clean"], accuracy(students(asked.inputs), asked.targets).double(), atol=1e-6, rtol=0)
    single = ("clean", "cross_entropy", "margin", "long", "black_box", "transfer")
    assert (judged["robust"] <= torch.stack([judged[name] for name in single]).amin(0)).all()
    assert (judged["at_0.05"] >= judged["at_0.5"]).all()


def test_a_network_that_hides_its_gradient_is_still_caught(monkeypatch):
    """Where the attacks by gradient find nothing, the black box and other students' images decide."""
    pixels, scaling = robust_digits.pixels()
    asked = together({s: data.split(pixels, [200], s)[0] for s in (3, 4)}, [3, 4])
    students, other = (Stack((64, 8, 10), seeds, **scaling) for seeds in ([3, 4], [5, 6]))
    blind = torch.ones_like(asked.targets, dtype=torch.bool)
    monkeypatch.setattr(robust_digits, "_white", lambda *_: (blind, {"cross_entropy": blind, "margin": blind}))
    judged = robust_digits.judge(students, other, asked, robust_digits.STUDY.settings("smoke"))
    assert (judged["cross_entropy"] == 1).all()
    assert (judged["robust"] <= torch.stack([judged["long"], judged["black_box"], judged["transfer"]]).amin(0)).all()


def test_away_from_an_answer_is_the_gradient_of_kl():
    answer, logits = torch.randn(2, 5, 7, dtype=torch.float64).unbind()
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(robust_digits.away_from(answer)(logits).sum(), logits)
    (theirs,) = torch.autograd.grad(soft_loss(logits, answer, 1.0).sum(), logits)
    assert_close(ours, theirs)


def test_every_arm_has_twenty_tries():
    decays = robust_digits.SCALES["cpu"]["weight_decays"]
    for name, arm in robust_digits.ARMS.items():
        assert len(arm.rates) * len(arm.knobs) * len(decays[arm.decays]) == 20, name


def test_trial_seeds_and_test_seeds_are_apart():
    for settings in robust_digits.SCALES.values():
        assert not set(settings["trial_seeds"]) & set(settings["seeds"])
