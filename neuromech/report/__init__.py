"""Records -> tables, figures and one self-contained HTML page that anyone can read."""

from neuromech.report.families import families, summary
from neuromech.report.page import render, write_report

__all__ = ["families", "render", "summary", "write_report"]
