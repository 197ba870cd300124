"""The data sets and `Batch`: what they hold, what is repeatable, messages."""

import gzip
import hashlib
import math
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchvision.datasets import CIFAR100

from kdcourse.data import (
    CIFAR100_MEAN,
    CIFAR100_STD,
    Batch,
    GaussianMixture,
    cifar100,
    composites,
    digits,
    fashion_mnist,
    folder,
    split,
)

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def batch() -> Batch:
    """Six examples whose inputs say which they are."""
    inputs = torch.arange(6.0)[:, None].expand(6, 2)
    return Batch(inputs, torch.arange(6) % 3, 10 * inputs[:, :1] + torch.arange(3.0))


# -- Batch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 4), [1, 2, 3]),
        ([5, 0], [5, 0]),
        (torch.tensor([2, 2]), [2, 2]),
        (torch.tensor([True, False, False, False, False, True]), [0, 5]),
    ],
)
def test_an_index_keeps_what_belongs_to_an_example_together(batch, index, rows):
    part = batch[index]
    assert len(part) == len(rows)
    assert part.inputs[:, 0].tolist() == rows
    assert part.targets.tolist() == [row % 3 for row in rows]
    assert part.teacher_logits[:, 0].tolist() == [10 * row for row in rows]
    assert part.labelled is None


def test_a_teacher_is_added_without_its_gradient_and_the_batch_stays_as_it_was(batch):
    logits = torch.ones(6, 3, requires_grad=True)
    taught = batch.with_teacher(logits * 2)
    assert not taught.teacher_logits.requires_grad and taught.teacher_logits.eq(2).all()
    assert batch.teacher_logits[5, 0] == 50
    with pytest.raises(AttributeError):
        batch.inputs = logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_targets_that_are_not_class_numbers_are_named(dtype):
    with pytest.raises(TypeError) as error:
        Batch(torch.zeros(2, 3), torch.ones(2, dtype=dtype))
    assert str(error.value) == (
        f"Batch: targets must be class numbers, integers of shape [batch], got {dtype} of shape (2,)"
    )


def test_one_hot_targets_are_named():
    with pytest.raises(TypeError, match=re.escape("got torch.int64 of shape (2, 3)")):
        Batch(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.long))


def test_targets_that_the_teacher_has_no_class_for_are_named():
    with pytest.raises(ValueError) as error:
        Batch(torch.zeros(2, 4), torch.tensor([0, 3]), torch.zeros(2, 3))
    assert str(error.value) == "Batch: targets must lie in 0 to 2, got 0 to 3"


def test_negative_targets_are_named():
    with pytest.raises(ValueError) as error:
        Batch(torch.zeros(2, 4), torch.tensor([-1, 3]))
    assert str(error.value) == "Batch: targets must not be negative, got -1 to 3"


def test_fields_of_other_lengths_are_named(batch):
    with pytest.raises(ValueError) as error:
        Batch(batch.inputs, batch.targets[:5], batch.teacher_logits)
    assert str(error.value) == (
        "Batch: all fields must have the same length, got {'inputs': 6, 'targets': 5, 'teacher_logits': 6}"
    )
    with pytest.raises(ValueError, match="'teacher_logits': 4"):
        batch.with_teacher(torch.zeros(4, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 4, 4)])
def test_inputs_that_are_not_finite_are_named_with_their_row(value, shape):
    inputs = torch.zeros(shape)
    inputs[1] = value
    with pytest.raises(ValueError) as error:
        Batch(inputs, torch.zeros(3, dtype=torch.long))
    assert str(error.value) == f"Batch: inputs must be finite, got {value} in row 1"


def test_teacher_logits_that_are_not_finite_are_named_with_their_row(batch):
    logits = torch.zeros(6, 3)
    logits[4, 2] = math.inf
    with pytest.raises(ValueError) as error:
        batch.with_teacher(logits)
    assert str(error.value) == "Batch: teacher_logits must be finite, got inf in row 4"


# -- split ----------------------------------------------------------------------------------------


def test_parts_are_disjoint_complete_and_whole(batch):
    parts = split(batch, [3, 2, 1], seed=0)
    assert [len(part) for part in parts] == [3, 2, 1]
    rows = torch.cat([part.inputs[:, 0] for part in parts])
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4, 5]
    for part in parts:
        assert_close(part.teacher_logits[:, 0], 10 * part.inputs[:, 0])


def test_equal_seeds_give_equal_parts_and_others_give_others():
    data = GaussianMixture().sample(100, seed=0)
    one, same, other = (split(data, [60, 40], seed)[0].inputs for seed in (1, 1, 2))
    assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(one, other)


def test_splitting_leaves_the_global_random_numbers_alone(batch):
    before = torch.get_rng_state()
    split(batch, [3, 3], seed=5)
    GaussianMixture().sample(10, seed=5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sizes", [[4, 3], [7], [-1, 2]])
def test_sizes_beyond_the_batch_are_named(batch, sizes):
    with pytest.raises(ValueError) as error:
        split(batch, sizes, seed=0)
    assert str(error.value) == f"split: sizes must sum to at most 6, got {sizes}"


# -- digits ---------------------------------------------------------------------------------------


def test_digits_are_1797_standardised_images_of_ten_classes():
    data = digits()
    assert data.inputs.shape == (1797, 64) and data.inputs.dtype == torch.float32
    assert_close(data.inputs.mean().item(), 0.0, rtol=0, atol=1e-5)
    assert_close(data.inputs.std().item(), 1.0)
    counts = data.targets.bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.teacher_logits is None


def test_digits_keep_their_look():
    from sklearn.datasets import load_digits

    pixels = torch.tensor(load_digits().data)
    inputs = digits().inputs.double()
    # One mean and one standard deviation: the pixels and the inputs lie on one straight line.
    together = torch.corrcoef(torch.stack([pixels.flatten(), inputs.flatten()]))[0, 1]
    assert_close(together.item(), 1.0)


# -- Gaussian mixture -----------------------------------------------------------------------------


def test_the_posterior_is_bayes_rule_with_the_densities_written_out():
    mixture = GaussianMixture(classes=3, radius=2.0)
    means = [(2 * math.cos(2 * math.pi * k / 3), 2 * math.sin(2 * math.pi * k / 3)) for k in range(3)]
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) * 3
    for (x, y), got in zip(points.tolist(), mixture.posterior(points), strict=True):
        joint = [math.exp(-((x - a) ** 2 + (y - b) ** 2) / 2) / (2 * math.pi) / 3 for a, b in means]
        assert_close(got.exp().tolist(), [v / sum(joint) for v in joint], rtol=1e-5, atol=1e-7)


def test_a_sample_has_unit_noise_around_the_mean_of_its_class():
    mixture = GaussianMixture(classes=4, radius=5.0)
    data = mixture.sample(20_000, seed=0)
    noise = data.inputs - mixture.means()[data.targets]
    assert_close(noise.mean(0), torch.zeros(2), rtol=0, atol=0.03)
    assert_close(noise.T.cov(), torch.eye(2), rtol=0, atol=0.04)
    assert_close(data.targets.bincount() / 20_000, torch.full((4,), 0.25), rtol=0, atol=0.02)


def test_the_posterior_is_calibrated_and_beaten_by_nobody():
    mixture = GaussianMixture()
    data = mixture.sample(20_000, seed=1)
    posterior = mixture.posterior(data.inputs)
    confidence, choice = posterior.exp().max(-1)
    share = (choice == data.targets).float().mean()
    assert_close(share, confidence.mean(), rtol=0, atol=0.015)


def test_a_sample_of_a_seed_is_the_same_every_time():
    one, same, other = (GaussianMixture().sample(50, seed) for seed in (3, 3, 4))
    assert_close(one.inputs, same.inputs, rtol=0, atol=0)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.inputs, other.inputs)


# -- Fashion-MNIST --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fashion_folder(needs, tmp_path_factory) -> Path:
    """A data folder with Fashion-MNIST: the reader's own, or one made from Debian's package."""
    own = folder()
    if (own / "FashionMNIST" / "raw").is_dir():
        return own
    needs(DEBIAN.is_dir(), "Fashion-MNIST", "apt install dataset-fashion-mnist, or KDCOURSE_DATA")
    made = tmp_path_factory.mktemp("data")
    raw = made / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN.glob("*.gz"):
        with gzip.open(packed) as source, open(raw / packed.stem, "wb") as target:
            shutil.copyfileobj(source, target)
    return made


@pytest.mark.parametrize(("train", "examples"), [(True, 60_000), (False, 10_000)])
def test_fashion_mnist_is_standardised_images_a_tenth_of_each_class(fashion_folder, monkeypatch, train, examples):
    monkeypatch.setenv("KDCOURSE_DATA", str(fashion_folder))
    data = fashion_mnist(train)
    assert data.inputs.shape == (examples, 1, 28, 28) and data.inputs.dtype == torch.float32
    assert_close(data.inputs.mean().item(), 0.0, rtol=0, atol=0.01)
    assert_close(data.inputs.std().item(), 1.0, rtol=0, atol=0.01)
    assert data.targets.bincount().tolist() == [examples // 10] * 10


def test_missing_fashion_mnist_names_the_folder_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        fashion_mnist()
    assert str(error.value) == (
        f"fashion_mnist: no Fashion-MNIST in {tmp_path}; get it with: python -c "
        f"\"from torchvision.datasets import FashionMNIST as F; F('{tmp_path}', download=True)\""
    )
    assert not list(tmp_path.iterdir())


def test_data_live_where_the_variable_says_or_in_the_cache(monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", "~/somewhere")
    assert folder() == Path.home() / "somewhere"
    monkeypatch.delenv("KDCOURSE_DATA")
    assert folder() == Path.home() / ".cache" / "kdcourse"


# -- composites ----------------------------------------------------------------------------------


def compose(show: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six shown digits that can be told from the pool: (digits, inputs, tile)."""
    digits = 100.0 + torch.arange(6 * 64.0).view(6, 64)
    pool = torch.arange(50 * 64.0).view(50, 64) / 64  # 0 to 50: the number of the image and of the pixel
    return digits, *composites(digits, pool, torch.Generator().manual_seed(seed), show)


def test_one_tile_is_the_digit_and_the_others_are_quarters_of_the_pool():
    digits, inputs, tile = compose("one")
    assert inputs.shape == (6, 9, 64) and set(tile.tolist()) <= set(range(9))
    for row in range(6):
        assert torch.equal(inputs[row, tile[row]], digits[row])
        for fragment in inputs[row][torch.arange(9) != tile[row]].view(8, 8, 8):
            images, quarters = set(), set()
            for down, right in ((0, 0), (0, 4), (4, 0), (4, 4)):
                piece = fragment[down : down + 4, right : right + 4] * 64
                pixel = (piece % 64).long()
                assert torch.equal(pixel - pixel[0, 0], (8 * torch.arange(4)[:, None] + torch.arange(4))), "one quarter"
                images.add(int(piece[0, 0]) // 64)
                quarters.add((pixel[0, 0] // 8 // 4 * 2 + pixel[0, 0] % 8 // 4).item())
            assert quarters == {0, 1, 2, 3}, "each place of a digit once, shuffled"
            assert len(images) > 1


def test_none_two_and_occluded():
    digits, inputs, _ = compose("none")
    assert inputs.shape == (6, 9, 64) and inputs.max() < 100
    digits, inputs, tile = compose("two")
    assert inputs.shape == (3, 9, 64)
    for row in range(3):
        shown = inputs[row][(inputs[row] >= 100).all(-1)]
        assert torch.equal(shown.sort(0).values, digits[[row, row + 3]]) and torch.equal(
            inputs[row, tile[row]], digits[row]
        )
    digits, inputs, tile = compose("occluded")
    hidden = inputs[torch.arange(6), tile] != digits
    assert (inputs[torch.arange(6), tile][hidden] == digits.min()).all()
    for row, half in enumerate(hidden.view(6, 8, 8)):
        whole = half.all(0).sum() + half.all(1).sum()  # rows and columns that are wholly hidden
        assert whole == 4 or row == 0, "the first digit holds the lowest pixel itself"


@pytest.mark.parametrize("chimeras", [True, False])
def test_one_fragment_in_24_has_its_quarters_in_their_places_or_none(chimeras):
    pool = (torch.arange(64) // 32 * 2 + torch.arange(64) % 8 // 4).expand(4, 64).float()  # each pixel says its quarter
    tiles, _ = composites(pool.repeat(500, 1), pool, torch.Generator().manual_seed(0), "none", chimeras)
    share = (tiles == pool[0]).all(-1).float().mean().item()
    assert share == pytest.approx(1 / 24 if chimeras else 0.0, abs=0.005)
    assert torch.equal(tiles.sum(-1), pool[0].sum().expand(2_000, 9)), "each quarter once"


def test_composites_are_repeatable_and_the_digit_stands_anywhere():
    assert all(torch.equal(a, b) for a, b in zip(compose("one"), compose("one"), strict=True))
    assert not torch.equal(compose("one")[1], compose("one", seed=1)[1])
    _, tile = composites(torch.zeros(900, 64), torch.ones(4, 64), torch.Generator().manual_seed(0))
    assert tile.bincount(minlength=9).min() > 60


def test_composites_say_what_they_cannot_do():
    with pytest.raises(ValueError, match="composites: show must be one, none, two or occluded, got 'three'"):
        compose("three")
    with pytest.raises(ValueError, match="two digits each need an even number of rows, got 3"):
        composites(torch.zeros(3, 64), torch.zeros(4, 64), torch.Generator(), "two")


def test_cifar_100_is_bytes_of_a_hundred_classes(needs):
    """The means of the training images, to the four digits that everybody prints."""
    needs((folder() / "cifar100").is_dir(), "CIFAR-100", "see kdcourse.data.cifar100")
    train, test = cifar100(), cifar100(train=False)
    assert train.inputs.shape == (50_000, 32, 32, 3) and train.inputs.dtype == torch.uint8
    assert train.targets.bincount().tolist() == [500] * 100 and test.targets.bincount().tolist() == [100] * 100
    pixels = train.inputs.float() / 255
    assert torch.allclose(pixels.mean((0, 1, 2)), torch.tensor(CIFAR100_MEAN), atol=5e-5)
    assert torch.allclose(pixels.std((0, 1, 2)), torch.tensor(CIFAR100_STD), atol=5e-5)


def test_cifar_100_in_torchvision_s_own_files_is_read(tmp_path, monkeypatch):
    """A made-up set in the format of the download, read by torchvision's class."""
    images = np.arange(4 * 3072, dtype=np.uint8).reshape(4, 3072)
    parts = {"train": images, "test": images[:2], "meta": None}
    target = tmp_path / "cifar-100-python"
    target.mkdir()
    for name, rows in parts.items():
        content = (
            {"fine_label_names": list("abcd")}
            if rows is None
            else {"data": rows, "fine_labels": [3, 1, 2, 0][: len(rows)]}
        )
        (target / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((target / name).read_bytes()).hexdigest() for name in parts}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setitem(CIFAR100.meta, "md5", sums["meta"])
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    batch = cifar100()
    assert batch.targets.tolist() == [3, 1, 2, 0] and batch.inputs.shape == (4, 32, 32, 3)
    assert torch.equal(batch.inputs[1].permute(2, 0, 1).flatten(), torch.as_tensor(images[1]))
    assert len(cifar100(train=False)) == 2


def test_missing_cifar_100_names_the_folder_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="cifar100: no CIFAR-100 in .*; get it with: python -c .*download=True"):
        cifar100()
