"""The packages of a distribution: those of `src`, and `configs` as the data of `ebmzoo.configs`; see pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("src"), "ebmzoo.configs"], package_dir={"": "src", "ebmzoo.configs": "configs"})
