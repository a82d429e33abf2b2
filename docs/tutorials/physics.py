"""For physics and machine learning: a pendulum learned with its energy kept exactly, and a field without divergence."""

import torch

from neuromech import physics

torch.manual_seed(0)

# 1. Data of a system whose laws are known.
system = physics.systems.pendulum()
data = physics.simulate(system, 10)

# 2. A model du/dt = G grad H(u), learned and predicted by a discrete gradient: energy is kept at any step size.
energy = physics.MLPEnergy(2, hidden=32).double()
model = physics.EnergyModel(energy, physics.Symplectic())
physics.fit(physics.DiscreteScheme(model), data.pairs(), physics.Training(steps=100, lr=1e-2))
with torch.no_grad():
    path = physics.rollout(model, data.u[:, 0], dt=0.5, steps=50).u
    learned, true = model.energy(path), system.energy(path)
print(f"learned energy strays by {float((learned - learned[0]).abs().max()):.1e}")
print(f"true energy strays by {float((true - true[0]).abs().max()):.2f} after 100 steps of training")
assert (learned - learned[0]).abs().max() < 1e-11

# 3. A velocity field that is divergence-free by construction, whatever its weights.
field = physics.DivergenceFree(physics.mlp(3, 3, width=32), n=3)  # the 3 entries of an antisymmetric 3 x 3 matrix
v, jacobian = field.jacobian(torch.randn(100, 3))
divergence = jacobian.diagonal(dim1=1, dim2=2).sum(-1)
print(f"divergence over derivatives: {float((divergence.norm() / jacobian.norm()).detach()):.0e}")
assert divergence.norm() < 1e-5 * jacobian.norm()
