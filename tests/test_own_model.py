"""The code that readers copy, used as a reader uses it."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdcourse import data, metrics, models

ROOT = Path(__file__).parents[1]
distil = runpy.run_path(str(ROOT / "book/back/own_model.py"))["distil"]


def own_parts():
    """A reader's parts: a teacher with dropout, a convolutional student, a DataLoader."""
    torch.manual_seed(0)
    train, test = data.split(data.digits(), [1000, 500], seed=0)
    images = TensorDataset(train.inputs.view(-1, 1, 8, 8), train.targets)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    adam = torch.optim.Adam(teacher.parameters(), 3e-3)
    for _ in range(10):
        for inputs, targets in DataLoader(images, 64, shuffle=True):
            adam.zero_grad()
            nn.functional.cross_entropy(teacher(inputs), targets).backward()
            adam.step()
    adam.zero_grad()
    return teacher, models.convnet(), images, test


def test_the_loop_of_the_page_distils_a_readers_own_model_and_leaves_the_teacher_alone():
    teacher, student, images, test = own_parts()
    teacher.train()  # as it comes out of its own training
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trained = distil(teacher, student, DataLoader(images, 64, shuffle=True), epochs=5, lr=1e-2)
    assert trained is student and not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())
    pixels = test.inputs.view(-1, 1, 8, 8)
    student.eval()
    with torch.no_grad():
        assert metrics.accuracy(student(pixels), test.targets) > 0.9
        assert metrics.agreement(student(pixels), teacher(pixels)) > 0.9


def test_the_page_shows_the_file_that_is_tested():
    page = (ROOT / "book/back/own_model.md").read_text("utf-8")
    assert "```{literalinclude} own_model.py" in page


def test_sequences_with_padding_work_as_the_page_says():
    from kdcourse.losses import distillation_loss

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    targets, mask = torch.randint(7, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    loss = distillation_loss(student, teacher, targets, temperature=2.0, soft_weight=0.5)
    masked = (loss * mask).sum() / mask.sum()
    torch.testing.assert_close(masked, loss[mask.bool()].mean())


def test_the_two_files_of_the_loss_can_be_copied_elsewhere(tmp_path):
    (tmp_path / "kdcourse").mkdir()
    for name in ("losses.py", "softmax.py"):
        shutil.copy(ROOT / "kdcourse" / name, tmp_path / "kdcourse")
    code = (
        "from kdcourse.losses import soft_loss; import torch; x = torch.zeros(1, 3); assert soft_loss(x, x, 4.0) == 0"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_the_readme_s_example_runs():
    readme = (ROOT / "README.md").read_text("utf-8")
    for code in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL):
        exec(compile(code, "README.md", "exec"), {})
