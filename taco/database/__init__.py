"""Every layer at every level of compression, on disk: solved once, served to any device and any budget."""

from taco.database.layers import LayerDatabase
from taco.database.recipe import DEFAULT_LEVELS, Recipe
from taco.database.selection import Selection, choose_layers
from taco.database.source import Source

__all__ = ["DEFAULT_LEVELS", "LayerDatabase", "Recipe", "Selection", "Source", "choose_layers"]
