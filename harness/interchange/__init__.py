"""Other tools' formats: read into results like our own, and written from them.

Mapped by definition, never by name; units converted; what has no counterpart is kept as `extra`.
"""

from harness.interchange.assemble import Told
from harness.interchange.export import Export
from harness.interchange.reading import READABLE, read, save
from harness.interchange.writing import WRITABLE, write

__all__ = ["READABLE", "WRITABLE", "Export", "Told", "read", "save", "write"]
