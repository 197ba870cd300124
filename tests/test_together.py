"""Students in one loop: company changes nothing, a killed run ends the same, and all see the teacher's views."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from kdcourse import losses
from kdcourse.experiments import cifar100
from kdcourse.experiments.together import Recipe, Student, Views, answer, mean_answer, train_together
from kdcourse.networks import network

RECIPE = Recipe(epochs=3, batch=10, warm_up=1, nesterov=True)


def images(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 16, 16, 3, generator=generator), torch.randint(5, (n,), generator=generator)


def fresh(name: str = "strided 8-16", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return network(name, 5)


def soft(temperature: float):
    return partial(cifar100.weighed, name="distilled", strength=temperature, weight=0.9)


def group(temperatures=(1.0, 4.0)) -> list[Student]:
    return [Student(fresh(), soft(t), 0.05, 5e-4, "teacher") for t in temperatures]


def trained(students, recipe=RECIPE, **settings):
    pixels, targets = images()
    teachers = {"teacher": [fresh("strided 32-64-128", 1).eval()]}
    return train_together(students, pixels, targets, recipe, seed=3, teachers=teachers, **settings)


def parameters(student: Student) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in student.network.state_dict().values()])


def test_company_changes_nothing():
    both, alone = group(), group([4.0])
    trained(both)
    trained(alone)
    assert torch.equal(parameters(both[1]), parameters(alone[0]))
    assert not torch.equal(parameters(both[0]), parameters(both[1]))


def test_it_is_the_loop_of_a_tutorial():
    """One student, written out with torch's own optimiser."""
    (student,) = group([4.0])
    trained([student])
    net, teacher, (pixels, targets) = fresh(), fresh("strided 32-64-128", 1).eval(), images()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    views = Views(pixels, targets)
    for epoch in range(3):
        for step, (inputs, labels) in enumerate(views.epoch(10, 3, epoch)):
            optimizer.param_groups[0]["lr"] = 0.05 * RECIPE.share(epoch + step / 4)
            with torch.no_grad():
                said = teacher(inputs)
            loss = losses.distillation_loss(net(inputs), said, labels, temperature=4.0, soft_weight=0.9).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ours, theirs = parameters(student), torch.cat([v.flatten().float() for v in net.state_dict().values()])
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_teacher_hears_the_student_s_view_and_stays_as_it_was():
    seen = []

    class Spy(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, inputs):
            seen.append((self.training, inputs.clone()))
            return self.net(inputs)

    teacher, student = Spy(fresh("strided 32-64-128", 1)).eval(), Spy(fresh())
    before = [value.clone() for value in teacher.state_dict().values()]
    pixels, targets = images()
    train_together(
        [Student(student, soft(4.0), 0.05, 0.0, "teacher")],
        pixels,
        targets,
        RECIPE,
        seed=3,
        teachers={"teacher": [teacher]},
    )
    by_teacher = [inputs for training, inputs in seen if not training]
    by_student = [inputs for training, inputs in seen if training]
    assert len(by_teacher) == len(by_student) == 12
    assert all(torch.equal(a, b) for a, b in zip(by_teacher, by_student, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values(), strict=True))
    assert not teacher.training


def test_views_are_shifted_mirrored_images_and_each_epoch_has_its_own():
    pixels, targets = images()
    views = Views(pixels, torch.arange(40))
    first = [(inputs, rows) for inputs, rows in views.epoch(10, seed=1, epoch=0)]
    again = [inputs for inputs, _ in views.epoch(10, seed=1, epoch=0)]
    other = [inputs for inputs, _ in views.epoch(10, seed=1, epoch=1)]
    assert sorted(torch.cat([rows for _, rows in first]).tolist()) == list(range(40))
    assert all(torch.equal(a, b) for (a, _), b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0])
    padded = nn.functional.pad(pixels.permute(0, 3, 1, 2), (2, 2, 2, 2))
    kinds = set()
    for inputs, rows in first:
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        for view, row in zip(inputs, rows, strict=True):
            found = [
                (down, right, mirrored)
                for down in range(5)
                for right in range(5)
                for mirrored, crop in enumerate(both_ways(padded[row, :, down : down + 16, right : right + 16]))
                if torch.equal(view, crop)
            ]
            assert len(found) == 1
            kinds.add(found[0])
    assert len({kind[:2] for kind in kinds}) > 12 and {kind[2] for kind in kinds} == {0, 1}


def both_ways(crop):
    return crop, crop.flip(-1)


def test_the_rate_rises_then_falls():
    steps = Recipe(epochs=240, batch=64, milestones=[150, 180, 210])
    assert [steps.share(epoch) for epoch in (0, 149.9, 150, 180, 210)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    cosine = Recipe(epochs=60, batch=256, warm_up=5)
    assert cosine.share(0) == 0 and cosine.share(60) == pytest.approx(0)
    assert cosine.share(2.5) == pytest.approx(0.5, abs=0.01) and cosine.share(30) == pytest.approx(0.5)


def test_the_mean_answer_is_the_mean_of_probabilities():
    members, inputs = [fresh(seed=seed).eval() for seed in (1, 2, 3)], torch.randn(4, 3, 16, 16)
    mean = torch.stack([member(inputs).softmax(-1) for member in members]).mean(0)
    assert torch.allclose(mean_answer(members, inputs).exp(), mean, atol=1e-6)
    pixels = inputs.permute(0, 2, 3, 1).contiguous()
    assert torch.allclose(answer(members[0], pixels, rows=3), members[0](inputs), atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL: run it on Linux or macOS")
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    checkpoint = tmp_path / "state.pt"
    long = Recipe(epochs=40, batch=10)
    whole = group()
    watched = trained(whole, long, watch=images())
    child = subprocess.Popen([sys.executable, __file__, str(checkpoint)], cwd=Path(__file__).parents[1])
    while not checkpoint.exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 0 < done < 40, "killed in the middle"
    again = group()
    resumed = trained(again, long, watch=images(), checkpoint=checkpoint)
    assert torch.equal(parameters(again[1]), parameters(whole[1]))
    assert torch.equal(resumed, watched) and resumed.shape == (40, 2)
    assert not list(tmp_path.iterdir()), "nothing is left when a run has ended"


if __name__ == "__main__":
    torch.set_num_threads(1)
    trained(group(), Recipe(epochs=40, batch=10), watch=images(), checkpoint=Path(sys.argv[1]))
