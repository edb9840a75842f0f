"""How far an implementation is from the reference in float64."""

import torch

FEW = 64
"""Elements up to which the error of a tensor is a matter of luck; half as much more is allowed."""


def outputs_and_gradients(function, tensors, grad):
    """Result of `function` and the gradients of the tensors for the gradient `grad` of it."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def assert_as_exact(function, plain, tensors, dtype, times):
    """Outputs and gradients have at most `times` the error of the reference in the same type.

    The output is computed without gradients too, where a shorter way may be taken.

    Args:
        function: of the tensors.
        plain: the same, in its reference; in float64 it is the truth.
        tensors: inputs in float64.
        dtype: what both compute in.
        times: factor; a floor of one rounding of the type is added.
    """
    rounded = [tensor.to(dtype) for tensor in tensors]
    exact_inputs = [tensor.double() for tensor in rounded]
    shape = plain(*exact_inputs).shape
    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    exact = outputs_and_gradients(plain, exact_inputs, grad.double())
    ours = outputs_and_gradients(function, rounded, grad)
    with torch.no_grad():
        ours.append(function(*rounded))
    theirs = outputs_and_gradients(plain, rounded, grad)
    names = ['output', *(f'gradient {i}' for i in range(len(tensors))), 'output in inference']
    exact.append(exact[0])
    theirs.append(theirs[0])
    for name, truth, our, their in zip(names, exact, ours, theirs):
        assert our.dtype is dtype and our.isfinite().all(), name
        # In float64 the reference is the truth itself, and both have a few more roundings.
        roundings = 10_000 if dtype is torch.float64 else 1
        floor = roundings * torch.finfo(dtype).eps * max(truth.norm(), 1)
        factor = times * 1.5 if truth.numel() <= FEW else times
        allowed = factor * (their.double() - truth).norm() + floor
        error = (our.double() - truth).norm()
        assert error <= allowed, f'{name}: error {error:.2e}, allowed {allowed:.2e}'
