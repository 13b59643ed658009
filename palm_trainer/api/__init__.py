"""Python API of PALM: trainers and their components."""
