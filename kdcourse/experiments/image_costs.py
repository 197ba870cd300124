"""What the networks of the image study cost: parameters, multiply-adds, latency, and how fast their training goes.

Repeats take the place of seeds. Times belong to the machine that is named in the record; `reproduce` compares the
counts alone. Training: several students that share views and teacher (`together`), beside the loop of a tutorial, which
trains one student at a time from a DataLoader of single images.
"""

import time
from collections.abc import Callable

import torch
import torchvision
from pandas import DataFrame
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2 as transforms

from kdcourse import data, losses
from kdcourse.experiments import cifar100
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.experiments.together import Recipe, precision, ready, train_together
from kdcourse.models import count_parameters
from kdcourse.networks import NETWORKS, multiply_adds, network

LATENCY = "milliseconds a pass of {}"
LOOPS = ("images a second, together", "images a second, one by one")
SCALES = {
    "smoke": {
        "seeds": [1, 2],
        "classes": 5,
        "size": 16,
        "networks": ["strided 8-16"],
        "batches": [1, 8],
        "seconds": 0.01,
        "training": {"pairs": [["strided 32-64-128", "strided 8-16"]], "images": 100, "batch": 50, "students": 2},
    },
    "cpu": {
        "seeds": [1, 2, 3, 4, 5],
        "classes": 20,
        "size": 16,
        "networks": [*NETWORKS, "ResNet-50 at 224", "MobileNetV2 at 224"],
        "batches": [1, 128],
        "seconds": 0.5,
        "training": {"pairs": [["strided 32-64-128", "strided 8-16"]], "images": 2_000, "batch": 64, "students": 8},
    },
    "gpu": {
        "seeds": [1, 2, 3, 4, 5],
        "classes": 100,
        "size": 32,
        "networks": [*NETWORKS, "ResNet-50 at 224", "MobileNetV2 at 224"],
        "batches": [1, 128],
        "seconds": 0.5,
        "training": {
            "pairs": [["vgg13", "vgg8"], ["resnet56", "resnet20"], ["resnet32x4", "resnet8x4"]],
            "images": 50_000,
            "batch": 256,
            "students": 8,
        },
    },
}
TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50 at 224": torchvision.models.resnet50,
    "MobileNetV2 at 224": torchvision.models.mobilenet_v2,
}


def build(name: str, classes: int) -> tuple[nn.Module, int]:
    """A network in eval mode, and the side of its images."""
    if name in TORCHVISION:
        return TORCHVISION[name]().eval(), 224
    return network(name, classes).eval(), 16 if name.startswith("strided") else 32


def units(settings: Settings) -> list[Unit]:
    """One for each network, and one for each pair that is trained."""
    latencies = [
        Unit(name, {"name": name}, len(settings["seeds"]) * sum(settings["batches"])) for name in settings["networks"]
    ]
    part = settings["training"]
    examples = len(settings["seeds"]) * 2 * part["students"] * part["images"]
    return latencies + [
        Unit(f"training {student} from {teacher}", {"name": student, "teacher": teacher}, examples)
        for teacher, student in part["pairs"]
    ]


def prepare(settings: Settings, device: torch.device) -> tuple[None, dict[str, float]]:
    """Nothing is shared."""
    return None, {}


def compute(
    shared: None, settings: Settings, device: torch.device, *, name: str, teacher: str | None = None
) -> DataFrame:
    """A row for each repeat and measurement of one network."""
    net, side = build(name, settings["classes"])
    image = torch.zeros(1, 3, side, side)
    counts = {"network": name, "parameters": count_parameters(net), "multiply_adds": multiply_adds(net, image)}
    if teacher is None:
        measured = _latencies(net, image, settings, device)
    else:
        measured = _training(teacher, name, settings, device)
    return DataFrame(
        [
            counts | {"seed": repeat, "what": what, "value": value}
            for what, values in measured.items()
            for repeat, value in zip(settings["seeds"], values, strict=True)
        ]
    )


@torch.no_grad()
def _latencies(net: nn.Module, image: Tensor, settings: Settings, device: torch.device) -> dict[str, list[float]]:
    """The median time of a forward pass; torch's timer warms up, repeats, and waits for the GPU."""
    from torch.utils.benchmark import (
        Timer,
    )  # says on stderr that there is no CUDA; a page that reads the record must not

    net = ready(net, device)
    measured = {}
    for batch in settings["batches"]:
        inputs = image.expand(batch, -1, -1, -1).to(device).contiguous(memory_format=torch.channels_last)
        with precision(device):
            timer = Timer("net(inputs)", globals={"net": net, "inputs": inputs}, num_threads=torch.get_num_threads())
            measured[LATENCY.format(batch)] = [
                1_000 * timer.blocked_autorange(min_run_time=settings["seconds"]).median for _ in settings["seeds"]
            ]
    return measured


def _training(teacher: str, student: str, settings: Settings, device: torch.device) -> dict[str, list[float]]:
    """Images a second, counted once for each student: an epoch of several students by each loop."""
    part, classes = settings["training"], settings["classes"]
    pool = cifar100.images(settings, device, True)[: part["images"]]
    bytes_ = data.cifar100(True)
    bytes_ = bytes_[bytes_.targets % (100 // classes) == 0][: part["images"]]
    pixels = bytes_.inputs.permute(0, 3, 1, 2)
    if settings["size"] < 32:
        pixels = nn.functional.avg_pool2d(pixels.float(), 32 // settings["size"]).byte()
    dataset = TensorDataset(pixels, pool.targets.cpu())

    def one_epoch_together() -> None:
        students = [
            cifar100.student_of("distilled", 4.0, 0.9, 0.05, network(student, classes)) for _ in range(part["students"])
        ]
        teachers = {"teacher": [network(teacher, classes).eval()]}
        train_together(students, pool.inputs, pool.targets, Recipe(1, part["batch"]), seed=0, teachers=teachers)

    def one_epoch_each() -> None:
        taught = network(teacher, classes).eval().to(device)
        for _ in range(part["students"]):
            tutorial_epoch(network(student, classes).to(device), taught, dataset, part["batch"], device)

    trained = part["students"] * part["images"]
    measured: dict[str, list[float]] = {}
    for what, loop in zip(LOOPS, (one_epoch_together, one_epoch_each), strict=True):
        loop()  # compiles, and fills the caches
        measured[what] = [trained / _seconds(loop, device) for _ in settings["seeds"]]
    return measured


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def tutorial_epoch(
    student: nn.Module, teacher: nn.Module, dataset: TensorDataset, batch: int, device: torch.device
) -> None:
    """One student, one epoch, as tutorials write it: single images are augmented on the CPU, then put into batches."""
    size = dataset.tensors[0].shape[-1]
    augment = transforms.Compose(
        [
            transforms.RandomCrop(size, padding=size // 8),
            transforms.RandomHorizontalFlip(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(data.CIFAR100_MEAN, data.CIFAR100_STD),
        ]
    )

    def collate(examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([augment(image) for image, _ in examples]), torch.stack([target for _, target in examples])

    workers = 8 if device.type == "cuda" else 0
    loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, collate_fn=collate, num_workers=workers)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for inputs, targets in loader:
        inputs, targets = inputs.to(device), targets.to(device)
        with torch.no_grad():
            answers = teacher(inputs)
        loss = losses.distillation_loss(student(inputs), answers, targets, temperature=4.0, soft_weight=0.9).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


STUDY = Study(
    name="image_costs",
    question="What do these networks cost, at rest and in training, and how fast is the loop?",
    page="15_image_recognition",
    scales=SCALES,
    key=("network", "what"),
    judged=("parameters", "multiply_adds"),
    units=units,
    prepare=prepare,
    compute=compute,
)
