"""Exercise 15: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F


def _count_shapes(channels_in, channels_out, kernel, stride, padding, groups, size):
    layer = torch.nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups)
    return layer(torch.zeros(1, channels_in, size, size)).numel() * layer.weight[0].numel()


def _count_hooks(channels_in, channels_out, kernel, stride, padding, groups, size):
    from kdcourse.networks import multiply_adds

    layer = torch.nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups)
    return multiply_adds(torch.nn.Sequential(layer), torch.zeros(1, channels_in, size, size))


def _count_unfold(i, o, k, s, p, g, n):  # every value that is multiplied, laid out once
    return torch.tensor(F.unfold(torch.zeros(1, i, n, n), k, padding=p, stride=s).numel() * o / g)


def _count_flops(i, o, k, s, p, g, n):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        F.conv2d(torch.zeros(1, i, n, n), torch.zeros(o, i // g, k, k), stride=s, padding=p, groups=g)
    return counter.get_total_flops() / 2


def _count_loop(i, o, k, s, p, g, n):
    side = sum(1 for corner in range(-p, n + p - k + 1) if (corner + p) % s == 0)
    return sum(side * side * k * k for _ in range(o) for _ in range(i // g))


def _augment(images, generator):
    mirrored = torch.rand(len(images), 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    shift = torch.randint(-2, 3, (len(images), 1, 1), generator=generator)
    return images.gather(-1, ((torch.arange(images.shape[-1]) + shift) % images.shape[-1]).expand_as(images))


def _view_modules(images, student_weight, teacher_weight, mean, var, temperature, seed):
    """The teacher as modules in eval mode; the loss by the course's function."""
    from kdcourse.losses import soft_loss

    norm = torch.nn.BatchNorm1d(len(mean))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    views = _augment(images, torch.Generator().manual_seed(seed)).flatten(1)
    said = norm.eval()(views) @ teacher_weight.T
    return soft_loss(views @ student_weight.T, said.detach(), temperature).mean()


def _view_by_image(images, student_weight, teacher_weight, mean, var, T, seed):
    scale, losses = (var.double() + 1e-5).rsqrt(), []
    for view in _augment(images, torch.Generator().manual_seed(seed)).double().flatten(1):
        p = (teacher_weight.detach().double() @ ((view - mean) * scale) / T).softmax(0)
        losses.append(T * T * (p * (p.log() - (student_weight.double() @ view / T).log_softmax(0))).sum())
    return torch.stack(losses).mean()


def _view_generator_again(images, w, v, mean, var, T, seed):
    """Two calls of augment, each with the seed again: the same view."""
    seen, heard = (_augment(images, torch.Generator().manual_seed(seed)).flatten(1) for _ in range(2))
    p = F.softmax(F.batch_norm(heard, mean, var) @ v.detach().T / T, dim=1)
    return T**2 * (F.cross_entropy(seen @ w.T / T, p) + (p * p.log()).sum(1).mean())


def _view_statistics_copied(images, w, v, mean, var, T, seed):
    """Training mode with momentum 0 keeps the statistics, so they are put in by hand; the weight is folded."""
    folded = v.detach() / (var + 1e-5).sqrt()
    views = _augment(images, torch.Generator().manual_seed(seed)).flatten(1)
    log_p = F.log_softmax((views @ folded.T - folded @ mean) / T, -1)
    log_q = F.log_softmax(F.linear(views, w) / T, -1)
    return T**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(images)


def _decoupled_course(student_logits, teacher_logits, targets, target_weight, other_weight, temperature):
    from kdcourse.methods.decoupled import decoupled_loss

    weights = {"target_weight": target_weight, "other_weight": other_weight}
    return decoupled_loss(student_logits, teacher_logits, targets, temperature=temperature, **weights)


def _decoupled_from_soft(z, v, y, a, b, T):
    """By the identity: the soft loss is target + (1 - p) others, so others = (soft - target) / (1 - p)."""
    z, v, y = z.double() / T, v.detach().double() / T, y[:, None]
    p, q = v.softmax(1), z.softmax(1)
    soft = (p * (p.log() - q.log())).sum(1)
    p, q = p.gather(1, y)[:, 0], q.gather(1, y)[:, 0]
    target = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return T**2 * (a * target + b * (soft - target) / (1 - p))


def _decoupled_large_number(z, v, y, a, b, T):
    """The target pushed down by 1,000, as in public programs."""
    one = F.one_hot(y, z.shape[1])

    def both(logits):
        p = F.softmax(logits / T, dim=1)
        pair = torch.stack([(p * one).sum(1), (p * (1 - one)).sum(1)], dim=1)
        return pair, F.log_softmax(logits / T - 1000 * one, dim=1)

    with torch.no_grad():
        p, log_p = both(v)
    q, log_q = both(z)
    target = F.kl_div(q.log(), p, reduction="none").sum(1)
    return T * T * (a * target + b * F.kl_div(log_q, log_p.exp(), reduction="none").sum(1))


def _decoupled_by_example(z, v, y, a, b, T):
    rows = []
    for s, t, label in zip(z, v.detach(), y.tolist(), strict=True):
        p, q = (t / T).softmax(0), (s / T).softmax(0)
        others = [c for c in range(len(s)) if c != label]
        rows.append(a * (p[label] * (p[label] / q[label]).log() + p[others].sum()
                         * (p[others].sum() / q[others].sum()).log()))  # fmt: skip
        p, q = p[others] / p[others].sum(), q[others] / q[others].sum()
        rows[-1] = T**2 * (rows[-1] + b * F.kl_div(q.log(), p, reduction="sum"))
    return torch.stack(rows)


UNUSUAL = {
    "15.3": [_count_shapes, _count_hooks, _count_unfold, _count_flops, _count_loop],
    "15.4": [_view_modules, _view_by_image, _view_generator_again, _view_statistics_copied],
    "15.5": [_decoupled_course, _decoupled_from_soft, _decoupled_large_number, _decoupled_by_example],
}

_SIDE = "(size + 2 * padding - kernel) // stride + 1"
_KL = "(log_p.exp() * (log_p - log_q)).sum(-1)"
_OTHERS = "others.log_softmax(-1)"
_LOSS = "loss = target_weight * target + other_weight * others"
_ALL = "    loss = target_weight"

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "15.3": {
        "no_groups": [("channels_in // groups", "channels_in")],
        "groups_twice": [("side**2 * channels_out", "side**2 * (channels_out // groups)")],
        "no_stride": [(" // stride", "")],
        "no_padding": [(" + 2 * padding", "")],
        "one_border": [("2 * padding", "padding")],
        "no_plus_one": [(" // stride + 1", " // stride")],
        "rounded_up": [(_SIDE, "-((size + 2 * padding - kernel) // -stride) + 1")],
        "input_size": [("side**2", "size**2")],
        "weights_only": [("side**2 * ", "")],
        "one_axis": [("kernel**2", "kernel")],
        "bias": [("kernel**2", "kernel**2 + 1")],
        "doubled": [("return ", "return 2 * ")],
    },
    "15.4": {
        "two_views": [("    views =", "    seen = augment(images, generator)\n    views ="),
                      ("student(views", "student(seen")],
        "two_views_teacher_first": [("student(views", "student(augment(images, generator)")],
        "teacher_plain": [("teacher(views", "teacher(images")],
        "student_plain": [("student(views", "student(images")],
        "not_augmented": [("views = augment(images, generator)", "views = images")],
        "teacher_training": [("training=False", "training=True")],
        "teacher_gradient": [("with torch.no_grad():", "if True:")],
        "cold_student": [("answers / temperature", "answers")],
        "no_T2": [("temperature**2 * ", "")],
        "reversed": [('F.kl_div(log_q, p, reduction="batchmean")',
                      'F.kl_div(p.log(), log_q.exp(), reduction="batchmean")')],
        "mean_classes": [("batchmean", "mean")],
        "sum": [("batchmean", "sum")],
    },
    "15.5": {
        "whole": [(_OTHERS, "logits.log_softmax(-1)")],
        "not_shared_out": [(_OTHERS, "logits.log_softmax(-1)[~hit].view(batch, classes - 1)")],
        "zero_logit": [(_OTHERS, "logits.masked_fill(hit, 0.0).log_softmax(-1)")],
        "coupled": [(_ALL, "    others = teacher[0][:, 1].exp() * others\n" + _ALL)],
        "half_target": [(_ALL, "    log_p, log_q = teacher[0][:, 0], student[0][:, 0]\n"
                               "    target = log_p.exp() * (log_p - log_q)\n" + _ALL)],
        "swapped": [(_LOSS, "loss = other_weight * target + target_weight * others")],
        "no_T2": [("temperature**2 * loss", "loss")],
        "no_T2_target": [(_ALL, "    target = target / temperature**2\n" + _ALL)],
        "no_T2_others": [(_ALL, "    others = others / temperature**2\n" + _ALL)],
        "cold": [("detach() / temperature", "detach()"), ("student_logits / temperature", "student_logits")],
        "cold_student": [("student_logits / temperature", "student_logits")],
        "cold_teacher": [("detach() / temperature", "detach()")],
        "of_teacher": [("F.one_hot(targets,", "F.one_hot(teacher_logits.argmax(-1),")],
        "reversed": [(_KL, "(log_q.exp() * (log_q - log_p)).sum(-1)")],
        "teacher_gradient": [(".detach()", "")],
        "mean": [("temperature**2 * loss", "temperature**2 * loss.mean()")],
    },
}  # fmt: skip
