"""For the researcher of optimizers: what moves the norms of the weights, term by term, under which optimizer?"""

import torch
from torch import nn
from torch.nn import functional as F

import neuromech

torch.manual_seed(0)
x, y = torch.randn(512, 20), torch.randint(0, 5, (512,))


def train(make, steps=60):
    """A network with batch norm, so that the length of its first weights is a charge; returns its probe."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))
    optimizer = make(model.parameters())
    probe = neuromech.instrument(model)
    for _ in range(steps):
        rows = torch.randint(0, 512, (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return probe


# 1. The same network under two optimizers. `exact` is the law of the optimizer, `flow` that of infinitesimal steps.
for name, make in {
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
}.items():
    probe = train(make)
    last = probe.latest().set_index("name")
    print(f"\n{name}")
    print(last[["observed", "exact", "flow"]].to_string())
    assert (last["residual"] < 1e-4).all()

    # 2. What moved each charge: terms that sum to the observed change.
    terms = probe.terms
    family = (terms["step"] == terms["step"].max()) & (terms["member"] == -1)
    moved = ["name", "discretization", "weight_decay", "momentum", "preconditioner", "unexplained"]
    print(terms.loc[family, moved].to_string(index=False))
    assert (terms["unexplained"].abs() < 1e-6).all()

# 3. Your own optimizer: one Rule, tried against real steps when it is registered, teaches laws, monitor and report.
from neuromech.optimizers import Rule  # noqa: E402


class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.sign(), alpha=group["lr"])


neuromech.register_optimizer(
    SignSGD, Rule("SignSGD", "Bernstein et al. 2018", ("lr",), lambda e, after: e.gradient.sign())
)
last = train(SignSGD).latest().set_index("name")
print("\nSignSGD, registered")
print(last[["observed", "exact"]].to_string())
assert (last["residual"] < 1e-4).all()
