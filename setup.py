"""Package data that ROS 2 (ament_python) needs; everything else stands in pyproject.toml."""

from glob import glob

from setuptools import setup

setup(
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/metarl"]),
        ("share/metarl", ["package.xml"]),
        ("share/metarl/launch", glob("launch/*.launch.py")),
        ("share/metarl/launch/config", glob("launch/config/*.yaml")),
    ],
)
