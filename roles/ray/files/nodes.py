"""Wait for nodes of a Ray cluster, or say which are missing: SECONDS HEAD:PORT NODE...; runs in the node's environment.

Asks the cluster's store, as `ray status` does, whose text does not tell nodes by their addresses.
"""

import sys
import time

from ray._raylet import GcsClient

ALIVE = 0
"""GcsNodeInfo.GcsNodeState of src/ray/protobuf/gcs.proto."""

seconds, address, *wanted = sys.argv[1:]
deadline = time.monotonic() + float(seconds)
while True:
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=10).values()
    except Exception as error:  # of gRPC, of the token, of another version: what it says is all that a person needs
        sys.exit(f"the head at {address} does not answer: {error}")
    alive = {node.node_manager_address for node in nodes if node.state == ALIVE}
    missing = ", ".join(sorted(set(wanted) - alive))
    if not missing:
        sys.exit(0)
    if time.monotonic() >= deadline:
        found = ", ".join(sorted(alive)) or "none"
        sys.exit(f"{missing} has not joined the cluster at {address}; alive: {found}; read journalctl -u ray there")
    time.sleep(0.5)
