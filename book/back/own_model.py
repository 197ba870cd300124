import torch

from kdcourse.losses import distillation_loss


def distil(teacher, student, loader, epochs=10, lr=1e-3, temperature=4.0, soft_weight=0.9):
    teacher.eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    for _ in range(epochs):
        student.train()
        for inputs, targets in loader:
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            loss = distillation_loss(
                student(inputs),
                teacher_logits,
                targets,
                temperature=temperature,
                soft_weight=soft_weight,
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return student
