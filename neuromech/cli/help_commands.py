"""`neuromech explain` and `neuromech doctor`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import platform
import shutil
import sys
import textwrap
from collections.abc import Mapping

from neuromech._version import __version__
from neuromech.cli.codes import SAID
from neuromech.errors import NeuromechError, code_of

EXTRAS = {
    "report": ("pandas", "matplotlib", "jinja2"),
    "demo": ("sklearn", "tqdm"),
    "physics": ("scipy", "torchdiffeq"),
    "hf": ("transformers",),
    "export": ("tensorboard", "wandb", "pyarrow"),
}


def explain(options: argparse.Namespace) -> int:
    from neuromech.monitor import CAUSES

    events = {code_of(key): said for key, said in SAID.items()}
    causes = {code_of(key): (cause.title, f"To do: {cause.advice}.") for key, cause in CAUSES.items()}
    known = events | causes
    if not options.code:
        for code, (title, _) in sorted(known.items()):
            print(f"{code:<28} {title}")
        return 0
    typed = " ".join(options.code)
    asked = code_of(typed.removeprefix("NM-").removeprefix("nm-"))
    if asked not in known:
        raise NeuromechError(f"there is no code {typed}: {_near(asked.removeprefix('NM-'), known)}")
    said = [_explained(asked, *causes[asked], _evidence(asked))] if asked in causes else []
    said += [_explained(asked, *events[asked])] if asked in events else []  # a fault and an event can share their name
    print("\n\n".join(said))
    return 0


def _explained(code: str, title: str, *texts: str) -> str:
    return "\n\n".join([f"{code}: {title}", *(textwrap.fill(text, 88) for text in texts)])


def _near(word: str, known: Mapping[str, tuple[str, str]]) -> str:
    """Codes that are spelt alike, else those that speak of it."""
    alike = difflib.get_close_matches(f"NM-{word}", known, 3, 0.7) + [
        code for code in known if word.lower() in code.lower()
    ]
    speak = [code for code, said in known.items() if word.lower().replace("-", " ") in " ".join(said).lower()]
    near = list(dict.fromkeys(alike + speak))[:5]
    return f"do you mean {' or '.join(near)}?" if near else "`neuromech explain` lists them all"


def _evidence(code: str) -> str:
    from neuromech.monitor import CAUSES

    key, cause = next((key, c) for key, c in CAUSES.items() if code_of(key) == code)
    how = "told once, however often it is seen" if cause.lasting else "told for each set of parameters that show it"
    return (
        f"The monitor names it with what it saw, and how sure that makes it (certain, likely, possible); {how}. If you "
        f"mean it: probe.monitor(ignore=[{key!r}])."
    )


def doctor(options: argparse.Namespace) -> int:
    import torch

    print(f"neuromech {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    threads = torch.get_num_threads()
    cuda = "yes" if torch.cuda.is_available() else "no"
    print(f"torch {torch.__version__}, CUDA {cuda}, {threads} thread{'s' * (threads > 1)}")
    for extra, packages in EXTRAS.items():
        said = [f"{p} {_version(p)}" for p in packages]
        print(f"{extra:<8} {', '.join(said)}")
    print(f"disk     {shutil.disk_usage('.').free / 1e9:.0f} GB free here")
    try:
        _try()
    except Exception as error:
        print(f"a tiny instrumented run failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("a tiny instrumented run works")
    return 0


def _version(package: str) -> str:
    name = {"sklearn": "scikit-learn"}.get(package, package)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _try() -> None:
    import torch
    from torch import nn

    import neuromech

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with neuromech.instrument(model) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(5, 3)), torch.tensor([0, 1, 0, 1, 0])).backward()
            optimizer.step()
    verdicts = probe.verdicts
    if not len(verdicts) or not (verdicts["status"] == "rounding").all():
        raise NeuromechError(f"its laws did not hold: {verdicts[['name', 'verdict']].to_dict('records')}")
