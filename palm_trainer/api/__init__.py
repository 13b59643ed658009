"""The Python API of PALM: trainers, and the components that users give them."""
