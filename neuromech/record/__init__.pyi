from .events import Journal as Journal
from .events import some as some
from .record import Record as Record
from .run import Run as Run
from .run import plain as plain
from .run import read as read
