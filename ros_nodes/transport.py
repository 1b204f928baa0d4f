"""Over what nodes talk: UDP alone, and never memory that processes share. Plain Python, no ROS.

Fast DDS puts locks into that memory. Whoever is frozen inside of one holds up everybody who sends to him, the safety node among them, a second for each
message, until a watchdog gives that memory up; and whoever is killed leaves it behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"  # LOCALHOST: only this machine may hear its nodes
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2 reads the first one, Fast DDS 3 the second
LOOPBACK = Path(__file__).resolve().with_name("loopback.xml")
_LOCALHOST_ONLY = "ROS_LOCALHOST_ONLY"  # the older way to say LOCALHOST
_FASTDDS = ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")  # layers between ROS and a middleware; "" is ROS's own choice


def udp_alone(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to be set in an environment, so that what starts there shares no memory; what somebody has chosen there himself stays."""
    local = environment.get(RANGE) == "LOCALHOST" or environment.get(_LOCALHOST_ONLY) == "1"
    if local and not any(environment.get(name) for name in (*PROFILES, "ROS_STATIC_PEERS")):
        return loopback(environment)
    return {"FASTDDS_BUILTIN_TRANSPORTS": environment.get("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")}


def loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to be set in an environment, so that only this machine hears what starts there, and it shares no memory.

    For LOCALHOST, ROS's layer over Fast DDS adds shared memory whatever Fast DDS is told. So ROS is told to leave everything to Fast DDS, and Fast DDS, by a
    profile, to stay on the loopback interface.
    """
    if environment.get("RMW_IMPLEMENTATION", "") not in _FASTDDS:
        return {RANGE: "LOCALHOST"}
    older = {_LOCALHOST_ONLY: "0"} if environment.get(_LOCALHOST_ONLY) == "1" else {}
    return {RANGE: "SYSTEM_DEFAULT", **dict.fromkeys(PROFILES, str(LOOPBACK)), **older}
