"""Exercise 02, networks and logits: what a network returns, and how one step changes it."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..spec import ALONE, Choice, Function, Number, Order, Probe, Question, Switch


def _cross_entropy_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"logits": torch.tensor([[2.0, 1.0, -1.0]]), "targets": torch.tensor([1])})]
    for batch, classes in ((4, 3), (3, 7), (6, 5), (2, 10)):
        logits = 2 * torch.randn(batch, classes, generator=generator)
        targets = torch.randint(classes, (batch,), generator=generator)
        probes.append(Probe({"logits": logits, "targets": targets}))
    shifted = {"logits": probes[0].arguments["logits"] + 3, "targets": torch.tensor([1])}
    probes.append(Probe(shifted, like=(0, "adding 3 to all logits of an example must change nothing")))
    large = torch.tensor([[2000.0, 0.0, -1000.0], [0.0, 3000.0, 1000.0]])
    probes.append(Probe({"logits": large, "targets": torch.tensor([1, 1])}, grads=False))
    return probes


def _cross_entropy(logits: Tensor, targets: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    log_q = logits.log_softmax(-1)
    if "overflow" in on:
        log_q = (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()
    if "softmax_twice" in on:
        log_q = logits.softmax(-1).log_softmax(-1)
    if "no_softmax" in on:
        log_q = logits
    loss = -log_q[torch.arange(len(targets)), targets]
    if "one_minus" in on:
        loss = 1 - log_q.exp()[torch.arange(len(targets)), targets]
    if "every_class" in on:
        loss = -log_q.sum(-1)
    if "divided_by_classes" in on:
        loss = loss / logits.shape[-1]
    if "sign" in on:
        loss = -loss
    if "log10" in on:
        loss = loss / torch.tensor(10.0, dtype=loss.dtype).log()
    if "bits" in on:
        loss = loss / torch.tensor(2.0, dtype=loss.dtype).log()
    return loss.mean() if "mean" in on else loss


_UNIT = "torch.log is the natural logarithm; the answer is in nats."


def _sgd_probes(generator: Generator) -> list[Probe]:
    probes = []
    for batch, features, classes, rate in (
        (1, 2, 3, 0.5),
        (4, 3, 5, 0.1),
        (6, 5, 3, 0.3),
        (3, 4, 2, 2.0),
    ):
        weight = torch.randn(classes, features, generator=generator)
        inputs = torch.randn(batch, features, generator=generator)
        targets = torch.randint(classes, (batch,), generator=generator)
        values = {"weight": weight, "inputs": inputs, "targets": targets, "learning_rate": rate}
        probes.append(Probe(values))
    return probes


def _sgd_step(
    weight: Tensor, inputs: Tensor, targets: Tensor, learning_rate: float,
    on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    logits = inputs @ weight.T
    hard = F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
    gap = (logits if "no_softmax" in on else logits.softmax(-1)) - hard
    if "no_target" in on:
        gap = gap + hard
    gradient = gap.T @ inputs / (1 if "sum" in on else len(inputs))
    if "divided_by_classes" in on:
        gradient = gradient / logits.shape[-1]
    step = gradient if "no_rate" in on else learning_rate * gradient
    if "only_step" in on:
        return -step if "uphill" not in on else step
    return weight + step if "uphill" in on else weight - step


QUESTIONS: list[Question] = [
    Choice(
        "02.1",
        "answer_1",
        "b",
        {
            "a": ("Probabilities are what the softmax makes of logits. Logits need not be positive or sum to 1."),
            "b": ("Real numbers, one a class, before the softmax. Only their differences matter to it."),
            "c": ("log p is one possible logit vector. Any constant may be added to it, so the sum tells nothing."),
            "d": "A loss compares logits with a target. The logits are there before any target is.",
        },
    ),
    Choice(
        "02.2",
        "answer_2",
        "d",
        {
            "a": ("It changes no weight. `backward()` fills `.grad`; the weights wait for the optimiser."),
            "b": "Those are the forward pass's. Backpropagation reads them and goes the other way.",
            "c": "The learning rate belongs to the optimiser. The gradient does not know it.",
            "d": ("It computes the derivative of the loss by each weight. `optimizer.step()` then moves the weights."),
        },
    ),
    Choice(
        "02.3",
        "answer_3",
        "a",
        {
            "a": ("`eval()` fixes dropout and batch statistics; `no_grad()` stores no graph. Neither does the other."),
            "b": ("`eval()` still records a graph. It only changes layers that behave differently in training."),
            "c": ("`no_grad()` leaves dropout on: the teacher would give the same image two different answers."),
            "d": ("The mode does not freeze weights. What is not given to the optimiser is not moved by it."),
        },
    ),
    Choice(
        "02.4",
        "answer_4",
        "c",
        {
            "a": ("It takes a log-softmax itself. Probabilities handed to it are softened a second time."),
            "b": ("The argmax has no useful gradient: it does not change when a logit changes a little."),
            "c": "It takes raw logits: its log-softmax is inside, where it cannot overflow.",
            "d": ("That is what `F.nll_loss` takes. Here it happens to be harmless, and it is done for nothing."),
        },
    ),
    Order(
        "02.5",
        "answer_5",
        ("c", "a", "d", "b"),
        (
            "the loss is computed from the logits.",
            "there is nothing to differentiate before there is a loss.",
            "the optimiser moves the weights along gradients, which must be there.",
        ),
    ),
    Function(
        "02.6",
        "cross_entropy",
        _cross_entropy_probes,
        _cross_entropy,
        {
            "no_softmax": Switch(
                "the softmax is missing: this is minus the logit, not minus the log-probability",
                "What happens to your loss when 3 is added to all logits?",
                "Take log_softmax before you pick the target's entry.",
                ("softmax_twice", "overflow", "one_minus"),
            ),
            "softmax_twice": Switch(
                "the softmax is applied twice",
                "Which input does F.cross_entropy expect, and which does it get?",
                "Hand over raw logits, or take the log of your probabilities.",
                ("overflow",),
            ),
            "overflow": Switch(
                "exp overflows for large logits: the value is right for small ones and infinite or NaN here",
                "What is exp(2000) in float32, and which number may be subtracted from all logits first?",
                "Use log_softmax, or subtract the row's largest logit.",
                (ALONE,),
            ),
            "one_minus": Switch(
                "this is 1 minus the probability; the logarithm is missing",
                "How much does your loss grow when the probability falls from 0.01 to 0.001?",
                "Minus the logarithm of the target's probability.",
                ("every_class",),
            ),
            "every_class": Switch(
                "every class's log-probability is summed, not the target's alone",
                "Does your answer change when the targets do?",
                "Pick one entry in each row: index with targets.",
            ),
            "divided_by_classes": Switch(
                "the loss is divided by the number of classes",
                "Over which axis is there anything to average, once the target's entry is picked?",
                "There is one number an example; divide it by nothing.",
            ),
            "sign": Switch(
                "the sign is wrong: minus the log-probability is positive",
                "Should a worse prediction cost more or less?",
                "The logarithm of a probability is negative.",
            ),
            "log10": Switch(
                "the logarithm is to base 10",
                "Which loss does a uniform guess among 10 classes have, in nats?",
                _UNIT,
                ("bits",),
            ),
            "bits": Switch(
                "the logarithm is to base 2, so this is in bits",
                "Which loss does a uniform guess among 2 classes have, in nats?",
                _UNIT,
            ),
            "mean": Switch(
                "the examples are averaged; one number for each is asked for",
                "What shape goes in, and what shape should come out?",
                'reduction="none", or no mean at the end.',
            ),
        },
        grads=("logits",),
    ),
    Function(
        "02.7",
        "sgd_step",
        _sgd_probes,
        _sgd_step,
        {
            "uphill": Switch(
                "the step goes up the gradient",
                "Does the loss fall after your step?",
                "Subtract.",
            ),
            "sum": Switch(
                "the gradient is summed over the batch, not averaged",
                "What happens to your step when every example is listed twice?",
                "Divide by the number of examples.",
            ),
            "divided_by_classes": Switch(
                "the gradient is divided by the number of classes as well",
                "Over which axis is the mean taken?",
                "The mean runs over examples only.",
            ),
            "no_rate": Switch(
                "the learning rate is not used",
                "What should a learning rate of 0 do?",
                "Multiply the gradient by it.",
            ),
            "no_softmax": Switch(
                "the softmax is missing from the gradient: logits minus one-hot",
                "Which loss has the gradient logits minus one-hot? Not the cross-entropy.",
                "Probabilities minus one-hot.",
            ),
            "no_target": Switch(
                "the one-hot target is not subtracted",
                "Where does your gradient vanish? Should a perfect prediction be moved?",
                "Probabilities minus one-hot.",
            ),
            "only_step": Switch(
                "this is the change of the weights, not the new weights",
                "What comes out of your function when the gradient is zero?",
                "Add the step to the weight.",
            ),
        },
    ),
    Number(
        "02.8",
        "answer_8",
        1210.0,
        "64 x 16 + 16 weights and biases, then 16 x 10 + 10.",
        [
            (
                1184,
                Switch(
                    "the biases are not counted",
                    "How many numbers does nn.Linear(16, 10) hold besides its matrix?",
                    "Add one bias for each output: 16 and 10.",
                ),
            ),
            (
                1040,
                Switch(
                    "only the first layer is counted",
                    "Which layer makes ten logits?",
                    "Add the second layer.",
                ),
            ),
            (
                10240,
                Switch(
                    "the three sizes are multiplied",
                    "How many matrices are there, and of which shapes?",
                    "Two matrices, 64 x 16 and 16 x 10, and their biases.",
                ),
            ),
            (
                90,
                Switch(
                    "the units are added; weights connect each unit to each of the next layer",
                    "How many arrows lead into one hidden unit?",
                    "A matrix of 64 x 16 has 1024 entries.",
                ),
            ),
        ],
    ),
    Choice(
        "02.9",
        "answer_9",
        "b",
        {
            "a": ("Size is fixed when the layers are chosen. Training, with or without a teacher, leaves it."),
            "b": "The network sets its size; the teacher can only change what its weights become.",
            "c": "T is a number in the training loss. It is not there when the student is used.",
            "d": "Both come from different places, so a better score is no measure of compression.",
        },
    ),
]
