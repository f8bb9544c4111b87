"""Forty classroom PCs, all alike: pyinfra inventories/classroom.py deploys/full.py

What they share stands in group_data/classroom.py; here is who they are.
"""

classroom = [(f"pc-{number:02}", {"ssh_hostname": f"192.0.2.{100 + number}"}) for number in range(1, 41)]
