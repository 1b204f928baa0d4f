"""The package, for pip and for ROS 2's colcon alike; `colcon build --symlink-install` reads nothing but this file and setup.cfg."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent  # colcon runs a link to this file
NODES = ("sim_node", "task_node", "adapter_node", "safety_node", "supervisor_node", "recorder_node", "replay_node")

setup(
    name="metarl",
    version="0.1.0",
    description="Robots that adapt in seconds: meta-reinforcement learning in MuJoCo and PyBullet, and on ROS 2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    install_requires=[
        "gymnasium>=1.2",
        "imageio[ffmpeg]>=2.34",
        "matplotlib>=3.9",
        "mujoco>=3.17,<4",
        "numpy>=1.26",
        "pillow>=10",
        "rich>=13",
        "safetensors>=0.4",
        "tensorboard>=2.16",
        "torch>=2.6",
        "tyro>=0.9",
    ],
    extras_require={
        # PyBullet has no wheel for Python 3.12 and later: there it is compiled at installation
        "sim": ["pybullet>=3.2.7", "dm_control>=1.0.50", "dm-env>=1.6"],
        # real ROS 2 Jazzy without an installation of ROS; wheels for x86-64 Linux, Python 3.11 and 3.12
        "ros": ["ros-rclpy[fastrtps]==7.1.6; python_version < '3.13'", "ros-common-interfaces==5.3.6; python_version < '3.13'", "rosbags>=0.11,<0.12"],
        "test": ["pytest>=8"],  # without an extra of this name `colcon test` runs nothing, and says OK
        "dev": ["colcon-common-extensions>=0.3", "hypothesis>=6", "mypy>=1.10", "pytest>=8", "pytest-xdist>=3", "ruff>=0.12", "setuptools>=77"],
    },
    packages=find_packages(include=["metarl", "metarl.*"]),  # robots/, tasks/ and ros_nodes/ are linked into metarl/
    package_data={"metarl": ["py.typed", "zoo/*"], "metarl.ros_nodes": ["*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/metarl"]),
        ("share/metarl", ["package.xml"]),
        ("share/metarl/launch", glob("launch/*.launch.py")),
        ("share/metarl/launch/config", glob("launch/config/*.yaml")),
    ],
    entry_points={"console_scripts": ["metarl = metarl.cli:main", *(f"{node} = metarl.ros_nodes.{node}:main" for node in NODES)]},
)
