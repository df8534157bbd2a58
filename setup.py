"""What pyproject.toml cannot say: recipes and DeepSpeed files, which lie beside the code, come along inside it."""

from setuptools import find_packages, setup

SHIPPED = {
    "megamini.shipped.launch.recipes": ("launch/recipes", "*.yaml", "*/*.yaml"),
    "megamini.shipped.ds_configs": ("ds_configs", "*.json"),
}

setup(
    packages=[*find_packages(include=["megamini", "megamini.*"]), *SHIPPED],
    package_dir={name: folder for name, (folder, *_) in SHIPPED.items()},
    package_data={name: patterns for name, (_, *patterns) in SHIPPED.items()},
)
