"""Nodes share no memory, however they are started: a lock in it that a frozen process holds would hold up all others."""

from pathlib import Path

import pytest

from metarl.ros_nodes.graph import Graph, NodeSpec
from metarl.ros_nodes.transport import LOOPBACK, PROFILES, RANGE, udp_alone

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

UDP = {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
ALONE = {RANGE: "SYSTEM_DEFAULT", **dict.fromkeys(PROFILES, str(LOOPBACK))}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, UDP),
        ({RANGE: "SUBNET"}, UDP),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT"}, {"FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT"}),
        ({RANGE: "LOCALHOST"}, ALONE),
        ({"ROS_LOCALHOST_ONLY": "1"}, {**ALONE, "ROS_LOCALHOST_ONLY": "0"}),
        ({RANGE: "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, ALONE),
        ({RANGE: "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, {RANGE: "LOCALHOST"}),  # the profile says nothing to it
        ({RANGE: "LOCALHOST", "ROS_STATIC_PEERS": "192.0.2.1"}, UDP),
        ({RANGE: "LOCALHOST", "FASTRTPS_DEFAULT_PROFILES_FILE": "mine.xml"}, UDP),
    ],
)
def test_what_somebody_has_chosen_stays(environment, expected):
    assert udp_alone(environment) == expected


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_node_shares_no_memory_and_is_heard(domain, listen, monkeypatch, by_hand):
    """In a domain of ours, and where somebody has said that only this machine may hear it."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")
    from diagnostic_msgs.msg import DiagnosticArray

    from metarl.ros_nodes import runtime

    with listen(domain, {"safety/status": (DiagnosticArray, runtime.LATCHED)}) as ear:
        if by_hand:
            monkeypatch.setattr(domain, "variables", lambda: {"ROS_DOMAIN_ID": str(domain.id), RANGE: "LOCALHOST"})
            for name in ALONE:
                monkeypatch.delenv(name, raising=False)
        with Graph((NodeSpec("safety", "safety_node"),), domain) as graph:
            ear.until(lambda: ear.heard["safety/status"], "the safety node")
            files = Path(f"/proc/{graph.pids()['safety']}/maps").read_text()
    assert "librmw_fastrtps" in files
    assert "/dev/shm/fast" not in files  # fastrtps_... of Fast DDS 2, fastdds_... of Fast DDS 3
