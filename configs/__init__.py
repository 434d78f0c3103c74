"""Config files; those of another folder `configs` that Python knows are found beside them."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
