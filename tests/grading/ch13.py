"""Exercise 13: unusual right answers, and every named mistake as an edit of the public solution."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _ece_kdcourse(probs, targets, bins):
    from kdcourse.metrics import expected_calibration_error

    return expected_calibration_error(probs.log(), targets, bins)


def _ece_scatter(p, y, n):
    top, answer = p.max(-1)
    which = torch.bucketize(top, torch.linspace(0, 1, n + 1)[1:-1], right=True)
    gaps = torch.zeros(n).index_add(0, which, top - (answer == y).float())
    return gaps.abs().sum() / len(p)


def _ece_numpy(probs, targets, bins):
    top, right = probs.max(-1).values.numpy(), (probs.argmax(-1) == targets).numpy()
    which = np.minimum(np.floor(top * bins), bins - 1)
    return float(sum(abs((top - right)[which == b].sum()) for b in range(bins)) / len(top))


def _fit_kdcourse(logits, targets, lowest, highest):
    from kdcourse.calibration import fit_temperature

    return fit_temperature(logits, targets, (lowest, highest))[0]


def _fit_lbfgs(logits, targets, lowest, highest):
    log_T = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_T], max_iter=200, tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(
            logits.double() / log_T.clamp(math.log(lowest) - 1, math.log(highest) + 1).exp(), targets
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_T.detach().exp().clamp(lowest, highest)


def _fit_slope(logits, targets, lowest, highest):  # a slope that only rises with 1 / T, halved to its zero
    z, low, high = logits.double(), 1 / highest, 1 / lowest
    for _ in range(60):
        beta = (low + high) / 2
        expects = ((beta * z).softmax(-1) * z).sum(-1).mean()
        low, high = (beta, high) if expects < z.gather(-1, targets[:, None]).mean() else (low, beta)
    return 2 / (low + high)


def _auroc_ranks(score, positive):
    mean_rank = torch.stack([(score < s).sum() + ((score == s).sum() + 1) / 2 for s in score])
    n = positive.sum()
    return (mean_rank[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n))


def _auroc_sklearn(score, positive):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(positive.numpy(), score.numpy())


def _auroc_area(score, positive):  # under the curve of true against false positives, one corner a distinct score
    cuts = [math.inf, *sorted(set(score.tolist()), reverse=True)]
    hits = torch.tensor([[(score[kind] >= c).double().mean() for c in cuts] for kind in (~positive, positive)])
    return torch.trapezoid(hits[1], hits[0])


def _brier_means(probs, happened, bins):
    which = (probs * bins).long().clamp(max=bins - 1)
    one = F.one_hot(which, bins).double()
    y, number = happened.double(), one.sum(0).clamp(min=1)
    forecast, share = (one @ ((values @ one) / number) for values in (probs.double(), y))
    return torch.stack([((forecast - share) ** 2).mean(), ((share - y.mean()) ** 2).mean(), y.var(correction=0)])


def _brier_numpy(p, y, bins):
    p, y = p.double().numpy(), y.double().numpy()
    which = np.minimum((p * bins).astype(int), bins - 1)
    rows = [(np.mean(which == b), p[which == b].mean(), y[which == b].mean()) for b in np.unique(which)]
    reliability = sum(w * (f - s) ** 2 for w, f, s in rows)
    return np.array([reliability, sum(w * (s - y.mean()) ** 2 for w, _, s in rows), y.mean() - y.mean() ** 2])


def _brier_kdcourse(probs, happened, bins):
    from kdcourse.metrics import brier_parts

    both = torch.stack([1 - probs.double(), probs.double()], -1)  # each of the two classes has half of every part
    hits = happened.long()
    one_sided = torch.stack(brier_parts(both.log(), hits, bins)[:3]) / 2
    edges = _brier_means(probs, happened, bins)  # 1 - p may fall into the mirrored bin of another edge
    return torch.where((one_sided - edges).abs() < 1e-6, one_sided, edges)


UNUSUAL = {
    "13.1": [_ece_kdcourse, _ece_scatter, _ece_numpy],
    "13.2": [_fit_kdcourse, _fit_lbfgs, _fit_slope],
    "13.3": [_auroc_ranks, _auroc_sklearn, _auroc_area],
    "13.4": [_brier_means, _brier_numpy, _brier_kdcourse],
}

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "13.1": {
        "edge_below": [("(confidence * bins).long().clamp(max=bins - 1)",
                        "((confidence * bins).ceil() - 1).long().clamp(min=0)")],
        "one_lost": [(".clamp(max=bins - 1)", "")],
        "empty_nan": [("        if not inside.any():\n            continue\n", "")],
        "of_label": [("right = (", "confidence = probs.gather(-1, targets[:, None])[:, 0]\n    right = (")],
        "midpoints": [("confidence[inside].mean() -", "(b + 0.5) / bins -")],
        "equal_say": [("inside.sum() / len(probs)", "1 / bins")],
        "equal_say_full": [("inside.sum() / len(probs)", "1 / len(which.unique())")],
        "largest": [("error + inside.sum() / len(probs) * gap.abs()", "max(error, gap.abs())")],
        "squared": [("gap.abs()", "gap.square()")],
        "signed": [("gap.abs()", "gap")],
        "one_bin": [("    right = (", "    bins = 1\n    right = (")],
        "one_edge_more": [("    right = (", "    bins = bins + 1\n    right = (")],
    },
    "13.2": {
        "inverse": [("torch.tensor(tried[best])", "torch.tensor(1 / tried[best])")],
        "logarithm": [("torch.tensor(tried[best])", "torch.tensor(tried[best]).log()")],
        "twice": [("F.cross_entropy(logits / T, targets)", "F.cross_entropy((logits / T).softmax(-1), targets)")],
        "brier": [("F.cross_entropy(logits / T, targets)",
                   "((logits / T).softmax(-1) - F.one_hot(targets, logits.shape[-1])).square().sum(-1).mean()")],
        "mean_confidence": [
            ("F.cross_entropy(logits / T, targets)",
             "((logits / T).softmax(-1).amax(-1).mean()"
             " - (logits.argmax(-1) == targets).double().mean()).square()")],
        "of_choice": [("logits / T, targets)", "logits / T, logits.argmax(-1))")],
        "only_cools": [("low, high = lowest, highest", "low, high = 1.0, highest")],
        "no_bounds": [("low, high = lowest, highest", "low, high = 1e-3, 1e3")],
    },
    "13.3": {
        "ties_lost": [(" + 0.5 * (high == low)", "")],
        "ties_won": [("0.5 * (high", "1.0 * (high")],
        "flipped": [("high > low", "high < low")],
        "threshold": [("    won = (", "    cut = 0.5\n    high, low = high > cut, low > cut\n    won = (")
                      , ("(high > low).to(score.dtype) + 0.5 * (high == low)",
                         "0.5 * (high.to(score.dtype) + 1 - low.to(score.dtype))")],
        "precision": [("    won = (", "    return torch.stack([positive[score >= s].float().mean() "
                       "for s in score[positive]]).mean()\n    won = (")],
        "ranks_from_zero": [("won.sum() /", "(won.sum() - positive.sum()) /")],
        "no_correction": [("won.sum() /", "(won.sum() + positive.sum() * (positive.sum() + 1) / 2) /")],
        "all_pairs": [("/ won.numel()", "/ len(score) ** 2")],
    },
    "13.4": {
        "spread": [("uncertainty = overall * (1 - overall)", "uncertainty = probs.std()")],
        "entropy": [("uncertainty = overall * (1 - overall)",
                     "uncertainty = torch.special.entr(torch.stack([overall, 1 - overall])).sum()")],
        "root": [("overall * (1 - overall)", "(overall * (1 - overall)).sqrt()")],
        "swapped": [("[reliability, resolution,", "[resolution, reliability,")],
        "negative": [("[reliability, resolution,", "[reliability, -resolution,")],
        "absolute": [(".square()", ".abs()")],
        "equal_say": [("inside.to(probs.dtype).mean()", "1 / len(which.unique())")],
        "midpoints": [("forecast, share = probs[inside].mean(),", "forecast, share = (b + 0.5) / bins,")],
        "around_forecast": [("(share - overall)", "(forecast - overall)")],
        "mean_forecast": [("(share - overall)", "(share - probs.mean())")],
        "half": [("(share - overall)", "(share - 0.5)")],
    },
}  # fmt: skip
