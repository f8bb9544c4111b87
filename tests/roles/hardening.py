"""What systemd says of a unit as text, on this machine and before any host has it."""

import subprocess
from pathlib import Path


def complaints(name: str, text: str, directory: Path) -> list[str]:
    """
    Return what ``systemd-analyze`` says against a unit; exposure 4.0 at most.

    Programs and users of hosts are missing here.
    """
    unit = directory / name
    unit.write_text(text)
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=40", str(unit)]
    judged = subprocess.run(words, capture_output=True, text=True, check=False)
    found = [line for line in verified.stderr.splitlines() if name in line and "is not executable" not in line]
    return [*found, *([] if judged.returncode == 0 else judged.stdout.splitlines()[-1:])]
