"""Two runs, two answers."""

import torch


def a_teacher_still_in_training(teacher, x):
    teacher.train()
    # cure: teacher.eval()
    with torch.no_grad():
        return teacher(x)


def one_run_and_no_rival(run):
    arms, seeds = ["distilled"], [None]
    # cure: arms, seeds = ["labels", "distilled"], range(5)
    return [(arm, seed, run(arm, seed)) for arm in arms for seed in seeds]
