from .family import families as families
from .family import summary as summary
from .frames import OpenedRun as OpenedRun
from .frames import RunFrames as RunFrames
from .frames import open_run as open_run
from .page import render as render
from .page import write_report as write_report
