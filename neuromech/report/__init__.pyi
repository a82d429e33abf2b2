from .families import families as families
from .families import summary as summary
from .page import render as render
from .page import write_report as write_report
