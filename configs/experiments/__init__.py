"""Config files of experiments; those of another folder of that name are found beside them."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
