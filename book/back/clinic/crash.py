"""It crashes."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from kdcourse.models import mlp


def a_name_that_is_not_there():
    program = "for T in temperatures: print(end='')"
    # cure: program = "for T in temperature: print(end='')"
    exec(program, {"temperature": [1.0, 4.0]})


def names_nobody_defined():
    known = {}
    # cure: known = {"num_epochs": 2}
    exec("for epoch in range(num_epochs): pass", known)


def a_misspelt_name():
    program = "student = load.mobilenet()"
    # cure: program = "student = load_mobilenet()"
    exec(program, {"load_mobilenet": lambda: mlp(4, 3)})


def a_name_from_another_program():
    known = {}
    # cure: known = {"y_true": torch.ones(3)}
    exec("loss = -(y_true * y_true).sum()", known)


def an_import_left_out():
    first = "import torch"
    # cure: first = "import torch.optim as optim"
    exec(f"{first}; optim.SGD(net.parameters(), lr=0.1)", {"net": mlp(4, 3)})


def a_method_that_does_not_exist():
    normal = torch.distributions.Normal(0.0, 0.01)
    return normal.generate((4, 3))
    # cure: return normal.sample((4, 3))


def a_function_that_does_not_exist():
    probs = torch.tensor([0.6, 0.3, 0.1])
    return torch.ln(probs)
    # cure: return torch.log(probs)


def a_list_added_to_a_number():
    total = 0.0
    loss_and_accuracy = [0.7, 0.9]
    total += loss_and_accuracy
    # cure: total += loss_and_accuracy[0]
    return total


def arguments_the_wrong_way_round():
    logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    return F.cross_entropy(labels, logits)
    # cure: return F.cross_entropy(logits, labels)


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.ones(5, 3)


def the_length_of_a_stream():
    loader = DataLoader(Stream(), batch_size=2)
    return 10.0 / len(loader)
    # cure: return 10.0 / sum(len(batch) for batch in loader)


def dots_for_a_model():
    student = ...
    # cure: student = mlp(4, 3)
    return torch.optim.Adam(student.parameters())


def dots_called():
    teacher = ...
    # cure: teacher = mlp(4, 3)
    return teacher(torch.ones(1, 4))


def an_argument_nobody_takes():
    teacher = mlp(4, 3)
    return teacher(torch.ones(2, 4), mode="hard")
    # cure: return teacher(torch.ones(2, 4)).argmax(-1)


def a_stage_nobody_takes():
    student = mlp(4, 3)
    return student.train(stage=1)
    # cure: return student.train()


def a_list_for_a_tensor():
    target = [0.8, 0.1, 0.1]
    # cure: target = torch.tensor([0.8, 0.1, 0.1])
    return -(target * torch.tensor([0.6, 0.3, 0.1]).log()).sum()


def a_list_for_a_model():
    x = [0.6, 0.3, 0.1]
    # cure: x = torch.tensor([[0.6, 0.3, 0.1]])
    return mlp(3, 3)(x)


def no_axis_for_the_batch():
    x = torch.tensor([0.6, 0.3, 0.1])
    # cure: x = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    return nn.BatchNorm1d(3)(x)


def soft_targets_where_classes_are_due():
    log_q = torch.randn(1, 3).log_softmax(-1)
    soft = torch.tensor([[0.8, 0.1, 0.1]])
    return F.nll_loss(log_q, soft)
    # cure: return -(soft * log_q).sum(-1).mean()


def a_layer_of_another_width():
    attention = nn.Linear(30, 1)
    # cure: attention = nn.Linear(2, 1)
    answers = torch.randn(100, 2)
    return attention(answers)


def shapes_that_do_not_match():
    attention, teacher = torch.rand(100), torch.rand(100, 2)
    return F.mse_loss(attention, teacher)
    # cure: return F.mse_loss(attention, teacher.mean(-1))
