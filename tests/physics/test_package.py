"""The package by its public names; importing it loads nothing that is not asked for."""

import subprocess
import sys
import textwrap

import neuromech
from neuromech import physics


def test_public_names() -> None:
    for name in physics.__all__:
        assert getattr(physics, name) is not None
    assert set(physics.__all__) <= set(dir(physics))
    assert callable(physics.discrete_gradient)
    assert neuromech.physics is physics
    assert issubclass(neuromech.ConvergenceError, neuromech.PhysicsError)


def test_nothing_heavy_is_loaded_by_the_import() -> None:
    code = """
        import neuromech.physics, sys
        assert not {'torch', 'scipy', 'torchdiffeq'} & set(sys.modules)
        from neuromech.physics import *
        assert not {'scipy', 'torchdiffeq'} & set(sys.modules)
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
