"""The named errors that are raised."""

from tidemill.core import errors


def leaf_errors() -> dict[str, type[errors.TidemillError]]:
    """Each error by its name, without the families, which have subclasses in their module."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TidemillError)
    ]
    families = {base for kind in kinds for base in kind.__bases__}
    return {kind.__name__: kind for kind in kinds if kind not in families}
