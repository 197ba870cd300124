"""The doctor, on steps written without the course: each mistake named, right steps left alone, nothing changed."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcourse import doctor
from kdcourse.doctor import examine

FEATURES = 6


def networks(classes, teacher_end=None, student_end=None, dropout=0.5):
    torch.manual_seed(classes)
    student = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))
    teacher = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, classes))
    for network, end in ((student, student_end), (teacher, teacher_end)):
        if end is not None:
            network.append(end)
    return student, teacher.eval()


def examined(step, classes=10, batch=16, **ends):
    student, teacher = networks(classes, **ends)
    inputs, targets = torch.randn(batch, FEATURES), torch.randint(classes, (batch,))
    return examine(step, student, teacher, (inputs, targets))


def names(step, classes=10, batch=16, **ends):
    return examined(step, classes, batch, **ends).names


# Five ways to write the same soft term, each with the mistakes that it can show: temperature -> a function of both
# logits. Arguments: where the mistakes stand.
def by_function(T, axis=1, axis_t=1, square=True, classes=False, soft_t=False, soft_s=False):
    def soft(s, t):
        s, t = (s.softmax(-1) if soft_s else s), (t.softmax(-1) if soft_t else t)
        kl = F.kl_div(F.log_softmax(s / T, axis), F.softmax(t / T, axis_t), reduction="none")
        kl = kl.mean() if classes else kl.sum(-1).mean()
        return kl * T * T if square else kl

    return soft


def by_module(T, axis=1, axis_t=1, square=True, classes=False, soft_t=False, soft_s=False):
    criterion = nn.KLDivLoss(reduction="sum", log_target=True)

    def soft(s, t):
        s, t = (nn.Softmax(dim=1)(s) if soft_s else s), (nn.Softmax(dim=1)(t) if soft_t else t)
        kl = criterion(nn.LogSoftmax(dim=axis)(s / T), nn.LogSoftmax(dim=axis_t)(t / T))
        return kl * (T**2 if square else 1) / (s.numel() if classes else s.shape[0])

    return soft


def by_hand(T, axis=1, axis_t=1, square=True, classes=False, soft_t=False, soft_s=False):
    def probabilities(z, dim):
        e = torch.exp(z - z.max(dim=dim, keepdim=True).values)
        return e / e.sum(dim=dim, keepdim=True)

    def soft(s, t):
        s, t = (probabilities(s, 1) if soft_s else s), (probabilities(t, 1) if soft_t else t)
        p = probabilities(t / T, axis_t)
        log_q = s / T - torch.logsumexp(s / T, dim=axis, keepdim=True)
        table = p * (torch.log(p + 1e-30) - log_q)
        return (T**2 if square else 1.0) * (table.mean() if classes else table.sum() / len(s))

    return soft


def by_cross_entropy(T, square=True, soft_t=False, soft_s=False):
    def soft(s, t):
        s, t = (torch.softmax(s, 1) if soft_s else s), (torch.softmax(t, 1) if soft_t else t)
        return F.cross_entropy(s / T, torch.softmax(t / T, 1)) * (T**2 if square else 1)

    return soft


def step_of(soft, weight=None):
    """A training step: the soft term alone, or a mixture with labels."""

    def step(student, teacher, batch):
        x, y = batch
        with torch.no_grad():
            t = teacher(x)
        s = student(x)
        return soft(s, t) if weight is None else weight * soft(s, t) + (1 - weight) * F.cross_entropy(s, y)

    return step


WAYS = [by_function, by_module, by_hand, by_cross_entropy]
SIZES = [(3, 2.0, 7, None), (10, 4.0, 10, 0.9), (17, 10.0, 5, 0.5)]
MISREAD = {
    doctor.BATCH_AXIS: [{"axis": 0, "axis_t": 0}, {"axis": 0}, {"axis_t": 0}],
    doctor.DIVIDED: [{"classes": True}],
    doctor.NO_T2: [{"square": False}],
    doctor.PROBABILITIES: [{"soft_t": True}, {"soft_s": True}, {"soft_t": True, "soft_s": True}],
}


def able(way, *switches):
    return all(way is not by_cross_entropy or set(switch) <= {"square", "soft_t", "soft_s"} for switch in switches)


ALONE = [(name, way, s) for name, many in MISREAD.items() for s in many for way in WAYS if able(way, s)]
PAIRS = [
    (a, b, way, s, t)
    for a, b in itertools.combinations(MISREAD, 2)
    for s, t in itertools.product(MISREAD[a][:1], MISREAD[b])
    for way in WAYS
    if able(way, s, t)
]


@pytest.mark.parametrize("classes, T, batch, weight", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_found_in_the_right_step(way, classes, T, batch, weight):
    report = examined(step_of(way(T), weight), classes, batch)
    assert not report.found, report
    assert str(report).startswith("nothing found") and "correct" not in str(report)
    assert f"T = {T:.3g}, weight {weight or 1:.3g} times T²" in report.notes[0]


@pytest.mark.parametrize("classes, T, batch, weight", SIZES)
@pytest.mark.parametrize("name, way, switch", ALONE)
def test_one_mistake_gets_its_name_alone(name, way, switch, classes, T, batch, weight):
    report = examined(step_of(way(T, **switch), weight), classes, batch)
    assert report.names == {name}, report


@pytest.mark.parametrize("a, b, way, s, t", PAIRS)
def test_two_mistakes_get_both_names(a, b, way, s, t):
    for classes, T, batch, weight in ((10, 4.0, 16, 0.9), (7, 2.5, 7, None)):
        report = examined(step_of(way(T, **s, **t), weight), classes, batch)
        assert report.names == {a, b}, report


def test_the_default_reduction_of_kl_div_is_found_in_its_own_words():
    def step(student, teacher, batch):
        x, y = batch
        soft = F.kl_div(F.log_softmax(student(x) / 4, -1), F.softmax(teacher(x).detach() / 4, -1))
        return 0.9 * soft * 16 + 0.1 * F.cross_entropy(student(x), y)

    with pytest.warns(UserWarning, match="batchmean"):
        assert names(step) == {doctor.DIVIDED}


# What the loss does not show: gradients and modes.
def student_without_graph(student, teacher, batch):
    with torch.no_grad():
        s, t = student(batch[0]), teacher(batch[0])
    return by_function(4.0)(s, t)


def item_of_the_loss(student, teacher, batch):
    return torch.tensor(step_of(by_hand(2.0))(student, teacher, batch).item())


def detached_student_and_own_backward(student, teacher, batch):
    with torch.no_grad():
        t = teacher(batch[0])
    by_module(4.0)(student(batch[0]).detach(), t).backward()


def soft_term_of_detached_logits(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    return F.cross_entropy(s, batch[1]) + by_function(3.0)(s.detach(), t)


def soft_term_of_detached_logits_and_own_backward(student, teacher, batch):
    loss = soft_term_of_detached_logits(student, teacher, batch)
    loss.backward()
    return loss.item()


def teacher_for_both(student, teacher, batch):
    t = teacher(batch[0]).detach()
    return F.cross_entropy(student(batch[0]), batch[1]) + by_cross_entropy(3.0)(t, t)


@pytest.mark.parametrize(
    "step",
    [
        student_without_graph,
        item_of_the_loss,
        detached_student_and_own_backward,
        soft_term_of_detached_logits,
        soft_term_of_detached_logits_and_own_backward,
        teacher_for_both,
    ],
)
def test_a_student_without_gradient_is_found(step):
    assert names(step) == {doctor.NO_GRADIENT}


def attached(soft, weight=None):
    def step(student, teacher, batch):
        s, t = student(batch[0]), teacher(batch[0])
        return soft(s, t) if weight is None else weight * soft(s, t) + (1 - weight) * F.cross_entropy(s, batch[1])

    return step


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weight", [None, 0.5])
def test_a_teacher_with_gradient_is_found_alone_and_beside_another_mistake(way, weight):
    assert names(attached(way(4.0), weight)) == {doctor.TEACHER_GRADIENT}
    assert names(attached(way(4.0, square=False), weight)) == {doctor.TEACHER_GRADIENT, doctor.NO_T2}


def test_a_teacher_in_training_mode_is_found_by_its_answers():
    def training(step):
        def whole(student, teacher, batch):
            teacher.train()
            return step(student, teacher, batch)

        return whole

    for way in WAYS:
        assert names(training(step_of(way(5.0), 0.9))) == {doctor.TRAINING_TEACHER}
    both = {doctor.TRAINING_TEACHER, doctor.TEACHER_GRADIENT}
    assert names(training(attached(by_hand(2.0)))) == both
    assert not names(training(step_of(by_hand(2.0))), dropout=0.0), "a mode that changes no answer harms nobody"
    student, teacher = networks(10)
    teacher.insert(0, nn.BatchNorm1d(FEATURES)).train()[3].eval()
    report = examine(step_of(by_function(2.0)), student, teacher, (torch.randn(9, FEATURES), torch.zeros(9).long()))
    assert report.names == {doctor.TRAINING_TEACHER}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ends", [{"teacher_end": nn.Softmax(1)}, {"student_end": nn.Softmax(1)}])
def test_a_network_that_ends_in_a_softmax_is_found(way, ends):
    assert names(step_of(way(4.0), 0.9), **ends) == {doctor.PROBABILITIES}
    assert names(step_of(way(2.0, square=False)), **ends) == {doctor.PROBABILITIES, doctor.NO_T2}


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_kl_div_of_probabilities_is_found(T):
    def soft(s, t):
        return F.kl_div(F.softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T**2

    assert names(step_of(soft)) == names(step_of(soft, 0.5)) == {doctor.PROBABILITIES}


# Right, and unusual.
def squared_logits(s, t):
    return F.mse_loss(s, t)


def transformed_teacher(s, t):
    return F.kl_div(F.log_softmax(s, 1), F.softmax(t / 4, 1), reduction="batchmean")


def reverse(s, t, T=3.0):
    q, p = F.log_softmax(s / T, 1), F.log_softmax(t / T, 1)
    return (q.exp() * (q - p)).sum(1).mean() * T * T


def jensen_shannon(s, t):
    q, p = F.softmax(s, 1), F.softmax(t, 1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2


def standardized(s, t, T=2.0):
    s, t = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (s, t))
    return by_function(T)(s, t)


def correlated(s, t):
    q, p = F.softmax(s / 4, 1), F.softmax(t / 4, 1)
    rows = F.cosine_similarity(q - q.mean(1, keepdim=True), p - p.mean(1, keepdim=True), 1).mean()
    columns = F.cosine_similarity(q - q.mean(0), p - p.mean(0), 0).mean()
    return 16 * (2 - rows - columns)


def sure_rows_only(s, t):
    sure = (F.softmax(t, 1).max(1).values > 0.6).float()
    return (sure * 16 * F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="none").sum(1)).mean()


def sigmoids(s, t):
    return F.binary_cross_entropy_with_logits(s, torch.sigmoid(t))


def hardened(s, t):
    return F.cross_entropy(s, t.argmax(1))


UNUSUAL = [
    *(squared_logits, transformed_teacher, reverse, jensen_shannon, standardized),
    *(correlated, sure_rows_only, sigmoids, hardened),
]


@pytest.mark.parametrize("soft", UNUSUAL)
@pytest.mark.parametrize("classes, batch, weight", [(10, 16, None), (8, 8, 0.5), (10, 6, 0.1)])
def test_nothing_is_found_in_right_but_unusual_losses(soft, classes, batch, weight):
    assert not names(step_of(soft, weight), classes, batch)


def hard_labels_only(student, teacher, batch):
    return F.cross_entropy(student(batch[0]), batch[1])


def smoothed_student(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    return 0.9 * by_function(4.0)(s, t) + 0.1 * F.cross_entropy(s, batch[1], label_smoothing=0.1)


def mixed_targets(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    target = 0.7 * F.softmax(t, 1) + 0.3 * F.one_hot(batch[1], s.shape[1])
    return F.cross_entropy(s, target)


def bfloat16(student, teacher, batch):
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            t = teacher(batch[0])
        s = student(batch[0])
        return 0.5 * by_function(4.0)(s, t.clone()) + 0.5 * F.cross_entropy(s, batch[1])


def logits_cast_down(student, teacher, batch):
    s, t = student(batch[0]).bfloat16(), teacher(batch[0]).detach().bfloat16()
    return by_function(4.0)(s.float(), t.float())


def hints_beside(student, teacher, batch):
    x, y = batch
    inner = student[2](student[1](student[0](x)))
    with torch.no_grad():
        wide = teacher[1](teacher[0](x))
        t = teacher[3](teacher[2](wide))
    s = student[3](inner)
    hint = F.mse_loss(inner @ torch.ones(8, 16), wide)
    return 0.9 * by_hand(4.0)(s, t) + 0.1 * F.cross_entropy(s, y) + 10 * hint


def two_views(student, teacher, batch):
    x, y = batch
    lam = torch.distributions.Beta(0.4, 0.4).sample()
    order = torch.randperm(len(x))
    x = lam * x + (1 - lam) * x[order]
    with torch.no_grad():
        t = teacher(x)
    s = student(x)
    hard = lam * F.cross_entropy(s, y) + (1 - lam) * F.cross_entropy(s, y[order])
    return 0.5 * by_module(2.0)(s, t) + 0.5 * hard


def decoupled(student, teacher, batch, T=4.0):
    s, t, y = student(batch[0]), teacher(batch[0]).detach(), batch[1]
    mask = F.one_hot(y, s.shape[1]).bool()
    q, p = F.softmax(s / T, 1), F.softmax(t / T, 1)
    q2, p2 = (torch.stack([(z * mask).sum(1), (z * ~mask).sum(1)], 1) for z in (q, p))
    first = F.kl_div(q2.log(), p2, reduction="batchmean")
    q3, p3 = (z / T - 1000.0 * mask for z in (s, t))
    second = F.kl_div(F.log_softmax(q3, 1), F.softmax(p3, 1), reduction="batchmean")
    return F.cross_entropy(s, y) + (first + 8 * second) * T**2


def softmax_written_for_probabilities(student, teacher, batch):
    q, p = student(batch[0]), teacher(batch[0]).detach()
    return (p * (p.log() - q.log())).sum(1).mean()


def two_streams(student, teacher, batch):
    """A quarter T² KL at T = 2 on all, labels on half: the weights only look like a mixture without T²."""
    x, y = batch
    hard = F.cross_entropy(student(x[:8]), y[:8])
    return hard + 0.25 * by_function(2.0)(student(x), teacher(x).detach())


def adversarial_inputs(student, teacher, batch):
    x = batch[0].clone().requires_grad_()
    slope = torch.autograd.grad(F.cross_entropy(student(x), batch[1]), x)[0]
    x = (x + 0.1 * slope.sign()).detach()
    return step_of(by_hand(4.0), 0.9)(student, teacher, (x, batch[1]))


def quarter_on_purpose(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    return F.cross_entropy(s, batch[1]) + 0.25 * by_function(2.0)(s, t)


def mean_with_the_classes_put_back(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    return 0.9 * s.new_tensor(t.shape[1]) * by_hand(4.0, classes=True)(s, t) + 0.1 * F.cross_entropy(s, batch[1])


def ten_classes_put_back(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    return 0.9 * 10 * by_hand(4.0, classes=True)(s, t) + 0.1 * F.cross_entropy(s, batch[1])


def dropout_on_purpose(student, teacher, batch):
    teacher[2].train()
    with torch.no_grad():
        t = torch.stack([teacher(batch[0]) for _ in range(3)]).mean(0)
    return by_function(4.0)(student(batch[0]), t)


def scaled_gradients(student, teacher, batch):
    optimizer, scaler = torch.optim.SGD(student.parameters(), 0.1), torch.amp.GradScaler("cpu")
    scaler.scale(step_of(by_function(4.0), 0.9)(student, teacher, batch)).backward()
    scaler.step(optimizer)
    scaler.update()


def weights_for_classes(student, teacher, batch):
    s, t = student(batch[0]), teacher(batch[0]).detach()
    weights = torch.linspace(0.1, 2.0, s.shape[1])
    return 0.9 * by_function(4.0)(s, t) + 0.1 * F.cross_entropy(s, batch[1], weight=weights)


def plain_sum_of_weights(student, teacher, batch):
    return F.cross_entropy(student(batch[0]), batch[1]) + step_of(by_function(4.0))(student, teacher, batch)


@pytest.mark.parametrize(
    "step",
    [
        *(hard_labels_only, smoothed_student, mixed_targets, bfloat16, logits_cast_down, hints_beside),
        *(two_views, decoupled, plain_sum_of_weights, quarter_on_purpose, mean_with_the_classes_put_back),
        *(adversarial_inputs, dropout_on_purpose, scaled_gradients, weights_for_classes),
    ],
)
@pytest.mark.parametrize("classes, batch", [(10, 16), (8, 8)])
def test_nothing_is_found_in_right_but_unusual_steps(step, classes, batch):
    assert not names(step, classes, batch)


def test_nothing_is_found_where_a_number_stands_for_the_classes():
    assert not names(ten_classes_put_back, classes=10) and not names(two_streams)


def test_features_beside_the_logits_do_not_hide_them():
    assert "T = 4, weight 0.9 times T², hard term 0.1" in examined(hints_beside).notes[0]


def test_nothing_is_found_where_networks_give_probabilities_and_the_loss_wants_them():
    assert not names(softmax_written_for_probabilities, teacher_end=nn.Softmax(1), student_end=nn.Softmax(1))


def test_several_teachers_and_answers_in_a_mapping_or_tuple():
    student, teacher = networks(10)
    ensemble = nn.ModuleList([teacher, networks(10)[1]])
    batch = torch.randn(12, FEATURES), torch.randint(10, (12,))

    class Wrapped(nn.Module):
        def __init__(self, inner, form):
            super().__init__()
            self.inner, self.form = inner, form

        def forward(self, x, *, return_dict=True):
            return {"logits": self.inner(x), "n": 1} if self.form is dict else ([x], self.inner(x))

    def probabilities(square):
        def step(student, teachers, batch):
            with torch.no_grad():
                p = sum(F.softmax(teacher(batch[0]) / 4, 1) for teacher in teachers) / len(teachers)
            return F.cross_entropy(student(batch[0])["logits"] / 4, p) * (16 if square else 1)

        return step

    wrapped = Wrapped(student, dict)
    assert not examine(probabilities(True), wrapped, ensemble, batch).names
    assert examine(probabilities(False), wrapped, ensemble, batch).names == {doctor.NO_T2}

    def step(student, teacher, batch):
        return by_function(4.0, axis=0, axis_t=0)(student(batch[0])[1], teacher(batch[0])[1].detach())

    assert examine(step, Wrapped(student, tuple), Wrapped(teacher, tuple), batch).names == {doctor.BATCH_AXIS}


def full_loop(optimizer, projection):
    """A step that does all itself: backward, clipping, optimisers, gradients wiped; and a layer of its own."""
    numpy = pytest.importorskip("numpy")

    def step(student, teacher, batch):
        x, y = batch
        x += 0.1 * torch.randn_like(x) * float(numpy.random.rand())
        student.train()
        loss = step_of(by_function(4.0), 0.9)(student, teacher, (x, y))
        loss = loss + projection(student[0](x)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=0.1)])
def test_an_examination_changes_nothing(make):
    import random

    import numpy

    student, teacher = networks(10)
    student.eval()
    teacher.train()
    teacher[2].eval()
    teacher.requires_grad_(False)
    batch = torch.randn(12, FEATURES), torch.randint(10, (12,))
    projection = nn.Linear(8, 3)
    optimizer = make([*student.parameters(), *projection.parameters()])
    step = full_loop(optimizer, projection)
    step(student, teacher, batch)  # so that the optimiser has a state
    step_of(by_function(4.0))(student, teacher, batch).backward()
    student.eval()

    def state():
        networks = [(n.state_dict(), [m.training for m in n.modules()]) for n in (student, teacher)]
        gradients = [(w.grad, w.requires_grad) for n in (student, teacher) for w in n.parameters()]
        rngs = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
        return networks, gradients, projection.state_dict(), optimizer.state_dict(), rngs, batch

    def flat(value):
        if isinstance(value, dict):
            return [x for key in value for x in flat(value[key])]
        if isinstance(value, (list, tuple)):
            return [x for part in value for x in flat(part)]
        return [value.detach().clone() if isinstance(value, torch.Tensor) else value]

    before, identities = flat(state()), [id(w.grad) for w in student.parameters()]
    report = examine(step, student, teacher, batch)
    assert not report.found, report
    assert "T = 4, weight 0.9 times T²" in report.notes[0]
    after = flat(state())
    assert len(before) == len(after)
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    assert identities == [id(w.grad) for w in student.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for n in (student, teacher) for m in n.modules())


def test_a_step_that_fails_leaves_no_trace_either():
    student, teacher = networks(10)

    def step(student, teacher, batch):
        student[0].weight.data.zero_()
        raise KeyError("image")

    before = student[0].weight.detach().clone()
    with pytest.raises(KeyError):
        examine(step, student, teacher, None)
    assert torch.equal(student[0].weight, before)


def test_what_cannot_be_judged_is_said():
    fixed = torch.randn(16, 10)

    def cached(student, teacher, batch):
        return by_function(4.0)(student(batch[0]), fixed)

    def knows_ten_classes(student, teacher, batch):
        s, t = student(batch[0]), teacher(batch[0]).detach()
        return by_function(4.0)(s, t) + (F.one_hot(batch[1], 10) * s).mean()

    for step, words in (
        (cached, "the loss is not judged"),
        (knows_ten_classes, "cannot take more classes"),
        (hard_labels_only, "the loss is not judged"),
        (two_streams, "answers of several shapes, [(8, 10), (16, 10)]"),
        (step_of(squared_logits), "no KL of tempered softmaxes"),
        (step_of(transformed_teacher), "no word on T²"),
    ):
        report = examined(step)
        assert not report.found and words in report.notes[0], report


def test_errors_name_function_rule_and_value():
    student, teacher = networks(10)
    batch = torch.randn(4, FEATURES), torch.zeros(4).long()
    right = step_of(by_hand(2.0))
    for arguments, error, words in (
        ((right, "net", teacher), TypeError, r"examine: student must be a torch.nn.Module, got str"),
        ((right, student, lambda x: x), TypeError, r"examine: teacher must be a torch.nn.Module, got function"),
        ((4.0, student, teacher), TypeError, r"examine: step must be a function .*, got float"),
        ((right, student, student), ValueError, r"examine: student and teacher must be two networks, got one"),
        ((lambda s, t, b: s(b[0]), student, teacher), TypeError, r"one number as a tensor.*shape \(4, 10\)"),
        ((lambda s, t, b: 0.5, student, teacher), TypeError, r"one number as a tensor.*got float"),
    ):
        with pytest.raises(error, match=words):
            examine(*arguments, batch)
