"""The plugin's fixtures for this folder, also where armbench was installed before it had them."""

from harness.pytest_plugin import armbench_load, armbench_point

__all__ = ["armbench_load", "armbench_point"]
