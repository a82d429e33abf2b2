"""For the theorist: which symmetries does a model have, what is conserved, and what do discrete steps do to it?"""

import math

import torch
from torch import nn

import neuromech

torch.manual_seed(0)
x, y = torch.randn(64, 6, dtype=torch.float64), torch.randn(64, 3, dtype=torch.float64)

# 1. A deep linear network: two maps with only linear maps between them admit a whole matrix.
linear = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False)).double()
found = neuromech.find_symmetries(linear, x)
print(found)
assert found.dimension["scaling"] + found.dimension["matrix"] == 16  # any invertible 4 x 4 matrix and its inverse

# 2. A charge by hand: |row of W1|^2 - |column of W2|^2 of a ReLU unit.
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
symmetry = next(s for s in neuromech.find_symmetries(net, x) if s.kind == "rescale")
params = dict(net.named_parameters())
print(f"\n{symmetry.name}: {symmetry.reason}")
charge = symmetry.charge(params)
w, b, v = params["0.weight"], params["0.bias"], params["2.weight"]
by_hand = w.square().sum(1) + b.square() - v.square().sum(0)
ratio = (charge / by_hand).detach()
assert torch.allclose(ratio, ratio[0].expand_as(ratio))

# 3. Gradient flow conserves it; gradient descent breaks it at first order in lr; the corrected flow mends that.
loss = lambda p: (torch.func.functional_call(net, p, (x,)) - y).square().mean()  # noqa: E731


def drift(lr, time=0.5):
    """|charge at the end - charge at the start| under gradient descent."""
    p = {name: t.detach().clone().requires_grad_() for name, t in params.items()}
    start = symmetry.charge(p).detach()
    for _ in range(round(time / lr)):
        grads = torch.autograd.grad(loss(p), list(p.values()))
        p = {name: (t - lr * g).detach().requires_grad_() for (name, t), g in zip(p.items(), grads, strict=True)}
    return float((symmetry.charge(p).detach() - start).abs().max())


coarse, fine = drift(0.05), drift(0.025)
print(f"\ncharge drifts by {coarse:.2e} at lr 0.05, {fine:.2e} at 0.025: order {math.log2(coarse / fine):.2f}")
assert 1.8 < coarse / fine < 2.2

start = {name: t.detach() for name, t in params.items()}
flow = neuromech.eom.gradient_flow(loss, start)
kept = symmetry.charge(flow.at(0.5)) - symmetry.charge(start)
print(f"along the gradient flow it drifts by {float(kept.abs().max()):.1e}")
assert kept.abs().max() < 1e-5
