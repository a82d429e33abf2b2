"""Makes the pictures of KdV's solitons in docs/images: a discrete gradient beside the exact motion, and a film.

python docs/solitons.py
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from neuromech import physics
from neuromech.physics import plots

IMAGES = Path(__file__).parent / "images"

if __name__ == "__main__":
    system = physics.systems.kdv()
    data = physics.simulate(system, 1, dt=0.002, steps=250)
    model = physics.EnergyModel(system.energy, system.structure)
    with torch.no_grad():
        ours = physics.rollout(model, data.u[:, 0], dt=0.002, steps=250)
    figure = Figure((10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    plots.space_time(data, dx=system.structure.dx, axes=left).set_title("exact")
    plots.space_time(ours, dx=system.structure.dx, axes=middle).set_title("discrete gradient")
    plots.energy_curve(ours, system.energy, right).set_title("its energy")
    plots.save(figure, IMAGES / "solitons.png")
    plots.film(ours, IMAGES / "solitons.gif", every=10)
