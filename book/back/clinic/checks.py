"""What would have caught it. Each check takes a program and fails on the sick one.

They need nothing of the course: copy what you need, and give it your own loss.
"""

import torch
import torch.nn.functional as F
from torch import nn


def it_runs(program):
    program()


def an_undecided_student_pays_log_classes(loss):
    student, teacher = torch.zeros(4, 10), torch.randn(4, 10)
    paid = loss(student, teacher, torch.arange(4))
    assert abs(paid - torch.tensor(10.0).log()) < 1e-5


def at_every_T_it_pays_log_classes(loss):
    for T in (0.5, 1.0, 4.0):
        paid = loss(torch.zeros(4, 10), torch.randn(4, 10), T)
        assert abs(paid - torch.tensor(10.0).log()) < 1e-5


def rows_sum_to_one(soften):
    logits = torch.randn(6, 10)
    for T in (1.0, 4.0):
        p = soften(logits, T)
        assert (p >= 0).all()
        assert torch.allclose(p.sum(-1), torch.ones(6), atol=1e-5)


def never_below_the_entropy(loss):
    target = torch.tensor([0.8, 0.1, 0.1])
    prediction = torch.tensor([0.6, 0.3, 0.1])
    assert loss(target, prediction) >= torch.special.entr(target).sum()


def a_perfect_copy_costs_nothing(loss):
    for T in (1.0, 4.0):
        logits = (3 * torch.randn(8, 10)).requires_grad_()
        value = loss(logits, logits.detach(), T)
        value.backward()
        assert abs(value) < 1e-5 and logits.grad.abs().max() < 1e-5


def it_is_the_mean_of_KL(loss):
    s, t = torch.randn(2, 8, 10)
    p, q = (t / 4).softmax(-1), (s / 4).softmax(-1)
    expected = 16 * (p * (p / q).log()).sum(-1).mean()
    assert abs(loss(s, t, 4.0) / expected - 1) < 1e-3


def the_gradient_keeps_its_size(loss):
    sizes = []
    for T in (4.0, 16.0):
        torch.manual_seed(0)
        student, teacher = torch.randn(2, 8, 10)
        student.requires_grad_()
        loss(student, teacher, T).backward()
        sizes.append(student.grad.norm())
    assert 0.5 < sizes[1] / sizes[0] < 2


def labels_matter(loss):
    s, t = torch.randn(2, 8, 10)
    labels = torch.arange(8)
    assert loss(s, t, labels) != loss(s, t, labels + 1)


def the_teacher_matters(loss):
    s, t = torch.randn(2, 8, 10)
    labels = torch.arange(8)
    assert loss(s, t, labels) != loss(s, t.flip(-1), labels)


def T_matters(loss):
    s, t = torch.randn(2, 8, 10)
    assert abs(loss(s, t, 1.0) - loss(s, t, 4.0)) > 0.01


def weights_of_examples_matter(loss):
    logits, labels = torch.randn(2, 10), torch.tensor([0, 1])
    first, second = torch.eye(2)
    assert loss(logits, labels, first) != loss(logits, labels, second)


def the_student_learns_from_the_teacher(loss):
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.arange(8)
    student, first, second = (nn.Linear(4, 10) for _ in range(3))
    gradients = []
    for teacher in (first, second):
        student.zero_grad()
        loss(student, teacher, x, y).backward()
        assert teacher.weight.grad is None, "a gradient for the teacher"
        gradients.append(student.weight.grad.clone())
    same = torch.allclose(*gradients)
    assert not same, "another teacher, the same gradient"


def every_parameter_gets_a_gradient(loss):
    network, attention = nn.Linear(4, 3), nn.Linear(4, 1)
    x, y = torch.randn(8, 5, 4), torch.zeros(8).long()
    uniform = torch.full((8, 5), 0.2)
    loss(network, attention, x, y, uniform)[0].backward()
    for weight in [*network.parameters(), *attention.parameters()]:
        assert weight.grad is not None


def the_network_given_is_the_one_that_learns(train):
    x, y = easy_digits()
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    train(teacher, x, y)
    assert share_right(teacher, x, y) > 0.5


def the_teacher_knows_something(prepare):
    x, y = easy_digits()
    torch.manual_seed(0)
    assert share_right(prepare(x[:600], y[:600]), x[600:], y[600:]) > 0.5


def something_can_be_learnt(label):
    torch.manual_seed(0)
    x = torch.randn(1000, 8)
    y = label(x)
    weights = torch.linalg.lstsq(x[:500], 2.0 * y[:500, None] - 1).solution
    right = ((x[500:] @ weights)[:, 0] > 0) == y[500:].bool()
    assert right.float().mean() > 0.6


def more_steps_change_little(train):
    x, y = easy_digits()
    torch.manual_seed(0)
    network = nn.Linear(64, 10)
    once = share_right(train(network, x, y), x, y)
    assert share_right(train(network, x, y), x, y) - once < 0.02


def every_T_is_finite(schedule):
    logits = torch.tensor([2.0, 1.0])
    targets = (logits / schedule(100, 3)[:, None]).softmax(-1)
    assert targets.isfinite().all()


def the_last_T_is_as_meant(schedule):
    assert abs(schedule(100, 3)[-1] - 10 ** (1 / 100)) < 1e-3


def a_sure_answer_has_a_finite_loss(loss):
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = loss(logits, torch.tensor([[0.8, 0.1, 0.1]]))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def each_input_has_its_own(uncertainty):
    logits = torch.tensor([[5.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    both = uncertainty(logits)
    assert both.shape == (2,) and both[0] < both[1]
    assert uncertainty(logits[:1]).isfinite().all()


def a_sure_right_answer_costs_nothing(loss):
    labels = torch.arange(5)
    assert loss(50.0 * F.one_hot(labels, 10), labels) < 0.01


def T_softens_as_on_logits(soften):
    logits = 3 * torch.randn(6, 10)
    expected = (logits / 4).softmax(-1)
    assert torch.allclose(soften(logits.softmax(-1), 4.0), expected, atol=1e-5)


def weights_differ_between_tokens(attend):
    weights = attend(torch.randn(3, 9, 4), nn.Linear(4, 1)).squeeze(-1)
    assert torch.allclose(weights.sum(-1), torch.ones(3), atol=1e-5)
    assert (weights.std(-1) > 0).all()


def fresh_weights_are_the_layers_own(reset):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 10))
    reset(network)
    assert (network[1].weight == 1).all() and network[0].weight.std() > 0.05


def the_answer_depends_on_x(predict):
    student, (x, z) = nn.Linear(3, 3), torch.randn(2, 8, 3)
    assert not torch.allclose(predict(student, x), predict(student, z))


def it_arrives(train):
    target = torch.tensor([0.8, 0.1, 0.1])
    torch.manual_seed(0)
    assert torch.allclose(train(torch.randn(3), target), target, atol=0.01)


def alone_as_in_company(sweep):
    torch.manual_seed(0)
    x, teacher_logits = torch.randn(32, 64), torch.randn(32, 10)
    alone = sweep([4.0], x, teacher_logits)
    assert sweep([1.0, 4.0], x, teacher_logits)[4.0] == alone[4.0]


def a_mean_is_over_examples(mean):
    losses = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0])
    assert mean(losses, 4) == losses.mean()


def a_curve_has_a_point_an_epoch(table):
    curves = table({1.0: [0.9, 0.5, 0.4], 4.0: [0.8, 0.4, 0.2]})
    assert all(isinstance(path, list) and len(path) == 3 for path in curves.values())


def the_word_fits_the_numbers(schedule):
    word, path = schedule()
    steps = torch.tensor(path).log().diff()
    if torch.allclose(steps, steps[:1].expand(len(steps))):
        assert word in ("exponential", "geometric")


def the_same_input_gets_the_same_answer(ask):
    norm, x = nn.BatchNorm1d(4), torch.randn(8, 4)
    teacher = nn.Sequential(norm, nn.Dropout(0.5), nn.Linear(4, 3))
    before = norm.running_mean.clone()
    assert torch.equal(ask(teacher, x), ask(teacher, x))
    assert torch.equal(norm.running_mean, before)


def a_rival_and_five_seeds(study):
    rows = study(lambda arm, seed: 0.0)
    assert len({arm for arm, _, _ in rows}) >= 2
    assert len({seed for _, seed, _ in rows}) >= 5


def with_shuffled_labels_it_is_chance(judge):
    torch.manual_seed(0)
    train, test = Labelled(torch.randn(60, 64)), Labelled(torch.randn(200, 64))

    def student(x):
        nearest = torch.cdist(x, train.inputs).argmin(-1)  # knows all by heart
        return F.one_hot(train.targets[nearest], 10).float()

    assert judge(student, train, test) < 0.3


def on_noise_it_promises_nothing(select):
    torch.manual_seed(0)
    promised = [select(*torch.rand(2, 30)) for _ in range(200)]
    assert abs(torch.stack(promised).mean() - 0.5) < 0.1


def the_best_is_not_on_the_edge(choose):
    grid, best = choose(lambda T: -abs(T - 4))
    assert min(grid) < best < max(grid)


def the_report_has_a_proper_score(report):
    found = report(torch.randn(50, 3), torch.randint(3, (50,)))
    assert {"nll", "brier", "ece"} <= found.keys()


def a_later_word_changes_no_earlier_answer(read):
    torch.manual_seed(0)
    words = torch.randn(6, 8)
    other = torch.cat([words[:5], torch.randn(1, 8)])
    assert torch.allclose(read(words)[:5], read(other)[:5], atol=1e-6)


def T_is_never_below_one(schedule):
    path = [schedule(epoch) for epoch in range(20)]
    assert min(path) >= 1 and path[0] > path[-1]


def the_student_sees_another_input(loss):
    torch.manual_seed(0)
    x, seen = torch.randn(4, 8), []
    student, teacher = nn.Linear(8, 3), nn.Linear(8, 3)
    student.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    loss(student, teacher, x).backward()
    assert 0 < (seen[-1] - x).abs().max() <= 0.1 + 1e-5


def each_stage_has_its_own_loss(loss):
    torch.manual_seed(0)
    features, logits = torch.randn(2, 8, 6), torch.randn(2, 8, 10)
    first, second = (loss(stage, *features, *logits) for stage in (1, 2))
    assert first != second


def the_teacher_is_five_times_larger(pair):
    teacher, student = (sum(w.numel() for w in net.parameters()) for net in pair())
    assert teacher >= 5 * student


def the_teachers_own_map_costs_nothing(loss):
    weights = torch.randn(4, 10).softmax(-1)
    assert loss(weights, weights, torch.randn(4, 10)) == 0


def only_the_student_gets_gradients(loss):
    student, teacher = nn.Linear(4, 10), nn.Linear(4, 10)
    loss(student, teacher, torch.randn(8, 4), torch.arange(8)).backward()
    assert student.weight.grad is not None and teacher.weight.grad is None


def an_epoch_scores_each_batch_once(train):
    calls = Counted()
    batches = [(torch.randn(4, 3), torch.zeros(4)) for _ in range(10)]
    train(calls, batches, lambda x, y: None)
    assert calls.count == 10


def the_optimiser_remembers(train):
    batches = [(torch.randn(4, 3), torch.zeros(4).long()) for _ in range(10)]
    adam = train(nn.Linear(3, 2), batches)
    assert all(state["step"] == 10 for state in adam.state.values())


def the_teacher_is_asked_once_a_batch(train):
    teacher, batches = Counted(), [torch.randn(4, 3) for _ in range(10)]
    train(nn.Linear(3, 10), teacher, batches, 5)
    assert teacher.count == 10


class Counted(nn.Module):
    """Answers at random and counts how often it was asked."""

    count = 0

    def forward(self, x):
        self.count += 1
        return torch.randn(len(x), 10)


class Labelled:
    """Inputs with labels that have nothing to do with them."""

    def __init__(self, inputs):
        self.inputs, self.targets = inputs, torch.randint(10, (len(inputs),))


def easy_digits():
    from kdcourse import data

    digits = data.split(data.digits(), [1000], seed=0)[0]
    return digits.inputs, digits.targets


def share_right(network, x, y):
    with torch.no_grad():
        return (network(x).argmax(-1) == y).float().mean()
