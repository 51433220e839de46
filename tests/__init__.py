"""The tests of nat4xr."""
