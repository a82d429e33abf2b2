"""The README's section on conservation laws: its example runs as it stands and prints what is shown, up to rounding."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def test_example_runs_when_pasted_into_a_file(tmp_path) -> None:
    section = README.split("## Conservation laws by construction")[1]
    example, shown = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", section, re.DOTALL).groups()
    (tmp_path / "example.py").write_text(example)
    command = [sys.executable, "-W", "error", "example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0].split(" 2")[0] for line in lines] == [
        line.split(":")[0].split(" 2")[0] for line in shown.splitlines()
    ]
    divergence, continuity, cost, inner = lines
    assert float(divergence.split(": ")[1]) < 1e-6
    assert float(continuity.split(": ")[1]) < 1e-5
    ours, exact = map(float, re.findall(r"\d\.\d\d", cost))
    assert abs(ours - exact) <= 0.05 * exact
    assert float(inner.split(": ")[1]) < 1e-3
