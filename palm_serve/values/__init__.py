"""Values of spans: what they stand for, by the lists, patterns and resolvers of a bundle."""

from palm_serve.values.known_values import SYNONYM, VALUE, compile_pattern
from palm_serve.values.resolver import ValueResolver, open_values

__all__ = ["SYNONYM", "VALUE", "ValueResolver", "compile_pattern", "open_values"]
