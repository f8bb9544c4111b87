"""Forty classroom PCs, all alike: pyinfra inventories/classroom.py deploys/full.py

What they share stands in group_data/classroom.py; here is who they are. Two of them have the models from outside, the
others from these and from each other.
"""

_SEEDS = (1, 2)


def _pc(number: int) -> tuple[str, dict[str, object]]:
    address = f"192.0.2.{100 + number}"
    of_seeds = {"tags": ["cpu", "seed"], "lan_cache": {"listen": address, "models": True, "allow": ["192.0.2.0/24"]}}
    return f"pc-{number:02}", {"ssh_hostname": address, **(of_seeds if number in _SEEDS else {})}


classroom = [_pc(number) for number in range(1, 41)]
