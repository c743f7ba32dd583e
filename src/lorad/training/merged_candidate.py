"""A copy of a candidate that needs no base, beside it.

What lives here: whether there is room, and writing it. What never does: the adapter itself; a copy that fails never
costs the version.
"""

import shutil
from pathlib import Path

from lorad.errors import LoradError
from lorad.storage import files
from lorad.tasks import Task
from lorad.training.run_folder import RunFolder
from lorad.versions import export

ROOM = 2
"""Free bytes that a merged copy must find, as a multiple of its own: the rest of the machine writes too."""


def write(folder: RunFolder, base: Path, task: Task, quantization: str = "none") -> list[str]:
    """Write the copy; return why there is none, if so, as notes for people."""
    if quantization != "none":
        return [
            f"no merged copy: the version was judged on the base in {quantization}, and would answer otherwise merged"
        ]
    needed = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    free = shutil.disk_usage(folder.path).free
    if free < ROOM * needed:
        return [f"no merged copy: it needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free"]
    files.remove(folder.merged)  # of a session that was cut off
    try:
        export.export(folder.candidate, base, folder.merged, "merged", task=task)
        files.set_modes(folder.merged, folder_mode=files.FOLDER, file_mode=files.FILE)
    except (OSError, LoradError) as error:
        return [f"no merged copy: {error}"]
    return []
