"""A reader's training step, called with answers of our own in the place of the networks', and all put back after it."""

import copy
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

Step = Callable[[nn.Module, nn.Module, object], object]


class Calls:
    """The step, called again and again with the same random numbers on a fresh copy of the batch."""

    def __init__(self, step: Step, student: nn.Module, teacher: nn.Module, batch: object) -> None:
        self.step, self.student, self.teacher, self.batch = step, student, teacher, batch
        weights = itertools.chain(student.parameters(), teacher.parameters())
        self.device = next((weight.device for weight in weights), torch.device("cpu"))
        self.random = _random_state()

    def run(self, wanted: list[Tensor], first: bool = False) -> tuple[dict[int, Tensor], float | None]:
        """The gradients that reach the wanted leaves, by id, and the loss where the step returns it."""
        got: dict[int, Tensor] = {}

        def keep(leaf: Tensor) -> Callable[[Tensor], None]:
            def hook(gradient: Tensor) -> None:
                got[id(leaf)] = got[id(leaf)] + gradient if id(leaf) in got else gradient.clone()

            return hook

        leaves = [leaf for leaf in wanted if leaf.requires_grad]
        handles = [leaf.register_hook(keep(leaf)) for leaf in leaves]
        _set_random_state(self.random)
        try:
            loss = self.step(self.student, self.teacher, copy.deepcopy(self.batch))
        except RuntimeError as error:
            if not first or "does not require grad" not in str(error):
                raise
            return {}, None  # the step called backward on a loss that hangs on nothing
        finally:
            for handle in handles:
                handle.remove()
        single = isinstance(loss, Tensor) and loss.numel() == 1
        if first and not got and not single:
            seen = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(
                f"examine: step must return the loss, one number as a tensor, or call backward itself, got {seen}"
            )
        if not got and leaves and single and loss.requires_grad:
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            got = {id(leaf): g for leaf, g in zip(leaves, gradients, strict=True) if g is not None}
        value = loss.item() if single else loss
        return got, value if isinstance(value, float) else None


@dataclass
class Watch:
    """The tables that a network's outermost modules gave, and how far they are from those in eval()."""

    logits: list[Tensor]
    gap_to_eval: float = 0.0


@contextmanager
def watched(
    network: nn.Module, answer: Tensor | None = None, classes: int = 0, in_eval: bool = False
) -> Iterator[Watch]:
    """Sees what the step gets from the network's outermost modules, and puts `answer` in the place of its logits.

    Logits are what has `classes` columns; `answer` may have more.
    """
    watch, depth = Watch([]), 0

    def enter(module: nn.Module, args: tuple) -> None:
        nonlocal depth
        depth += 1

    def leave(module: nn.Module, args: tuple, kwargs: dict, output: object) -> object:
        nonlocal depth
        depth -= 1
        logits = _logits(output)
        if depth or logits is None:
            return None
        if answer is not None:
            if logits.shape != (len(answer), classes):
                return None
            # Still hanging on the network, by nothing: some steps ask for gradients of inputs or of parameters.
            return _with_logits(output, logits, answer.clone() + 0 * logits.sum())
        watch.logits.append(logits.detach())
        if in_eval and module.training:
            depth += 1  # what is called from here is not the step's
            watch.gap_to_eval = max(watch.gap_to_eval, _gap_to_eval(module, args, kwargs, watch.logits[-1]))
            depth -= 1
        return None

    handles = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _gap_to_eval(module: nn.Module, args: tuple, kwargs: dict, logits: Tensor) -> float:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    with torch.no_grad():
        first, second = (_logits(module.forward(*args, **kwargs)) for _ in range(2))
    for part, mode in modes:
        part.training = mode
    if not torch.equal(first, second):  # random by design
        return 0.0
    return ((logits - first).abs().max() / first.abs().max().clamp(min=1e-6)).item()


def _logits(output: object) -> Tensor | None:
    if isinstance(output, Mapping):
        output = output.get("logits")
    if isinstance(output, tuple | list):
        tables = [part for part in output if isinstance(part, Tensor) and _logits(part) is not None]
        return tables[0] if len(tables) == 1 else None
    return output if isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point() else None


def _with_logits(output: object, old: Tensor, new: Tensor) -> object:
    if isinstance(output, Mapping):
        changed = copy.copy(output)
        changed["logits"] = new
        return changed
    return type(output)(new if part is old else part for part in output) if isinstance(output, tuple | list) else new


@contextmanager
def as_before(*networks: nn.Module) -> Iterator[None]:
    """Puts back weights, gradients, buffers, modes, optimisers that were called, and the random numbers."""
    rng = _random_state()
    modules = [module for network in networks for module in network.modules()]
    modes = [(module, module.training, dict(module._parameters), dict(module._buffers)) for module in modules]
    tensors = {id(t): t for network in networks for t in (*network.parameters(), *network.buffers())}.values()
    kept = [(t, t.detach().clone(), t.requires_grad, t.grad, copy.deepcopy(t.grad)) for t in tensors]
    optimizers: dict[torch.optim.Optimizer, tuple[dict, list[tuple[Tensor, Tensor]]]] = {}

    def before_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if optimizer not in optimizers:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            copies = [(weight, weight.detach().clone()) for weight in weights]
            optimizers[optimizer] = (copy.deepcopy(optimizer.state_dict()), copies)

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for optimizer, (state, copies) in optimizers.items():
                optimizer.load_state_dict(state)
                for weight, values in copies:
                    weight.copy_(values)
            for module, mode, parameters, buffers in modes:
                module.training = mode
                module._parameters.update(parameters)
                module._buffers.update(buffers)
            for tensor, values, requires_grad, gradient, gradient_values in kept:
                tensor.copy_(values)
                if tensor.is_leaf and tensor.is_floating_point():
                    tensor.requires_grad_(requires_grad)
                tensor.grad = gradient
                if gradient is not None:
                    gradient.copy_(gradient_values)
        _set_random_state(rng)


def _random_state() -> tuple:
    numpy = sys.modules.get("numpy")
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, random.getstate(), numpy and numpy.random.get_state()


def _set_random_state(state: tuple) -> None:
    cpu, cuda, python, numpy = state
    torch.set_rng_state(cpu)
    for device, one in enumerate(cuda):
        torch.cuda.set_rng_state(one, device)
    random.setstate(python)
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)
