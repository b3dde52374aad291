"""
Which Nameko the tests run on.
"""

import importlib.metadata


NAMEKO = int(importlib.metadata.version("nameko").partition(".")[0])
"""
The major version, 2 or 3.
"""
