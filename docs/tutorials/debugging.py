"""For who debugs a run: is the step what I think it is, and if not, why? Two faults, caught as they happen."""

import torch
from torch import nn
from torch.nn import functional as F

import neuromech

torch.manual_seed(0)
x, y = torch.randn(512, 20), torch.randint(0, 5, (512,))
model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

# 1. One line, and one more for the monitor. `on_fault`: "warn" (the default), "raise", or a function.
told = []
probe = neuromech.instrument(model, run="runs/debugged")
probe.monitor(on_fault=told.append)

for step, rows in enumerate(torch.arange(512).repeat(5).split(64), 1):
    optimizer.zero_grad()
    F.cross_entropy(model(x[rows]), y[rows]).backward()
    if step == 15:
        with torch.no_grad():
            model[2].weight.grad[0, 0] += 0.5  # someone writes to a gradient after the backward
    optimizer.step()
    if step == 25:
        with torch.no_grad():
            model[0].weight.mul_(1.01)  # and someone to the weights, between two steps

# 2. What is said: what happened, where, how sure, and what to do.
for fault in told:
    print(fault)
assert [fault.step for fault in told] == [15, 26], told

# 3. The same from the records, in another process or next week, and in the report.
run = neuromech.open_run("runs/debugged")
print(run.faults.to_string(index=False))
print("report:", probe.report("debugged.html"))
